//! What is loaded: nodes that run already, or one that the tool starts for this run. Between the parts there can be a network,
//! as production has it.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    process::{Child, Command},
    time::Duration,
};

use url::Url;

use crate::{
    Failure, RunArgs,
    http::{Connection, request},
    relay,
};

/// How long a hub may take to be ready.
const START: Duration = Duration::from_secs(30);

pub struct Installation {
    /// Where it is, in the place of what the command line said.
    pub args: RunArgs,
    /// What is between the parts: name, value, unit.
    pub figures: Vec<(String, f64, String)>,
    _hub: Option<Hub>,
}

/// A hub of the tool's own. It ends with the run.
struct Hub(Child);

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

impl Installation {
    /// # Errors
    /// Where options do not go together, or the hub does not start.
    pub async fn start(args: &RunArgs) -> Result<Self, Failure> {
        let mut this = Self { args: args.clone(), figures: Vec::new(), _hub: None };
        if let Some(program) = &args.hub {
            this._hub = Some(this.start_hub(program.as_os_str()).await?);
        } else if args.delay_store.is_some() || args.tls_store || args.store.is_some() || args.redis.is_some() {
            return Err(Failure::Usage(
                "--store, --redis, --delay-store and --tls-store want --hub: the tool starts it behind them".to_owned(),
            ));
        }
        if let Some(delay) = args.delay_client {
            let mut nodes = Vec::new();
            for mut node in this.args.url.clone() {
                behind_relay(&mut node, 80, delay).await?;
                nodes.push(node);
            }
            this.args.url = nodes;
            this.say_delay("clients", delay).await?;
        }
        Ok(this)
    }

    async fn start_hub(&mut self, program: &std::ffi::OsStr) -> Result<Hub, Failure> {
        let bind = free_addr()?;
        let mut command = Command::new(program);
        command.args(["serve", "--bind", &bind.to_string()]);
        command.env("ORIVA_HUB__LOG__EVENTS", "false").env("ORIVA_HUB__LOG__LEVEL", "warn");
        command.env("ORIVA_HUB__WEBHOOKS__ALLOW_HTTP", "true");
        if self.args.admin_key.is_empty() {
            self.args.admin_key = secret();
        }
        command.env("ORIVA_HUB__AUTH__ADMIN_KEY", &self.args.admin_key);
        let store = self.args.store.clone();
        let store =
            store.ok_or_else(|| Failure::Usage("--hub wants --store: sqlite://… or postgres://…".to_owned()))?;
        let store = self.parted(store, 5432).await?;
        if store.scheme().starts_with("postgres") {
            command.env("ORIVA_HUB__AUTH__TOKEN_SECRET", secret()).env("ORIVA_HUB__AUTH__ENCRYPTION_KEY", KEY);
        }
        command.env("ORIVA_HUB__DATABASE__URL", store.as_str());
        if let Some(redis) = self.args.redis.clone() {
            command.env("ORIVA_HUB__REDIS__URL", self.parted(redis, 6379).await?.as_str());
        }
        if let Some(delay) = self.args.delay_store {
            self.say_delay("the store", delay).await?;
        }
        self.figures.push(("TLS to the store".to_owned(), f64::from(u8::from(self.args.tls_store)), String::new()));
        let hub = Hub(command.spawn()?);
        self.args.pid.push(hub.0.id());
        self.args.url = vec![Url::parse(&format!("http://{bind}")).map_err(|error| Failure::Usage(error.to_string()))?];
        ready(bind).await?;
        Ok(hub)
    }

    /// The URL of a server, with TLS and behind a relay where that was asked for.
    async fn parted(&self, mut url: Url, port: u16) -> Result<Url, Failure> {
        if url.scheme() == "sqlite" {
            if self.args.tls_store || self.args.delay_store.is_some() {
                return Err(Failure::Usage("SQLite is a file: there is no network in between".to_owned()));
            }
            return Ok(url);
        }
        if self.args.tls_store && url.scheme() == "redis" {
            let _ = url.set_scheme("rediss");
        } else if self.args.tls_store && !url.query_pairs().any(|(name, _)| name == "sslmode") {
            url.query_pairs_mut().append_pair("sslmode", "require");
        }
        if let Some(delay) = self.args.delay_store {
            behind_relay(&mut url, port, delay).await?;
        }
        Ok(url)
    }

    /// Puts into the report what a delay comes to.
    async fn say_delay(&mut self, to: &str, delay: f64) -> Result<(), Failure> {
        let measured = relay::measure(milliseconds(delay)?).await?.as_secs_f64() * 1000.0;
        self.figures.push((format!("network to {to}, there and back"), measured, "ms".to_owned()));
        Ok(())
    }
}

/// Only for runs of this tool: it protects nothing.
const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn secret() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

async fn behind_relay(url: &mut Url, default_port: u16, delay: f64) -> Result<(), Failure> {
    let (host, port) = (url.host_str().unwrap_or("127.0.0.1").to_owned(), url.port().unwrap_or(default_port));
    let to = (host.as_str(), port).to_socket_addrs()?.next();
    let to = to.ok_or_else(|| Failure::Usage(format!("{host} has no address")))?;
    let relay = relay::start(to, milliseconds(delay)?).await?;
    let _ = (url.set_ip_host(relay.ip()), url.set_port(Some(relay.port())));
    url.set_host(Some(&relay.ip().to_string())).map_err(|error| Failure::Usage(error.to_string()))
}

fn milliseconds(delay: f64) -> Result<Duration, Failure> {
    let seconds = Duration::try_from_secs_f64(delay / 1000.0);
    seconds.map_err(|_| Failure::Usage("a delay is a number of milliseconds, 0 or more".to_owned()))
}

fn free_addr() -> Result<SocketAddr, Failure> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn ready(at: SocketAddr) -> Result<(), Failure> {
    let ready = async {
        loop {
            if let Ok(mut connection) = Connection::open(at).await
                && let Ok(answer) = connection.send(&request("GET", "/readyz", &at.to_string(), "", None)).await
                && answer.status == 200
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(START, ready).await;
    waited.map_err(|_| Failure::Usage("the hub did not become ready: its own lines say why".to_owned()))
}
