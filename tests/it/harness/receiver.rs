//! An app's endpoint: a real HTTP server that keeps all requests, and answers as its path says.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, web};
use serde_json::Value;
use tokio::time::Instant;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub headers: http::HeaderMap,
    pub raw: Vec<u8>,
    /// The body as JSON.
    pub body: Value,
    pub at: Instant,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }
}

/// The path decides about the answer: `/ok`, `/status/500`, `/hang`, `/retry-after/2`, `/redirect`, `/large`, and
/// `/switch`, which
/// is 500 until [`Receiver::heal`].
pub struct Receiver {
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    handle: ServerHandle,
}

#[derive(Default)]
struct State {
    received: Vec<Received>,
    is_healthy: bool,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::start_over(None).await
    }

    /// Over TLS.
    pub async fn start_tls(config: rustls::ServerConfig) -> Self {
        Self::start_over(Some(config)).await
    }

    async fn start_over(tls: Option<rustls::ServerConfig>) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = state.clone();
        let (started, has_started) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    let shared = shared.clone();
                    App::new().app_data(web::PayloadConfig::new(4 << 20)).default_service(web::to(
                        move |request: HttpRequest, body: web::Bytes| answer(shared.clone(), request, body),
                    ))
                })
                .workers(1)
                .disable_signals()
                .shutdown_timeout(0);
                let server = match tls {
                    Some(config) => server.bind_rustls_0_23(("127.0.0.1", 0), config),
                    None => server.bind(("127.0.0.1", 0)),
                };
                let server = server.expect("a free port");
                let addr = server.addrs()[0];
                let server = server.run();
                let _ = started.send((addr, server.handle()));
                let _ = server.await;
            });
        });
        let (addr, handle) = has_started.await.expect("the receiver starts");
        Self { addr, state, handle }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub fn received(&self) -> Vec<Received> {
        self.state.lock().expect("no panic").received.clone()
    }

    /// Of one path.
    pub fn received_at(&self, path: &str) -> Vec<Received> {
        self.received().into_iter().filter(|one| one.path == path).collect()
    }

    /// Waits for this number of requests at a path.
    pub async fn wait_for(&self, path: &str, count: usize) -> Vec<Received> {
        super::eventually(&format!("{count} requests at {path}"), async || self.received_at(path).len() >= count).await;
        self.received_at(path)
    }

    /// From now on `/switch` answers 200.
    pub fn heal(&self) {
        self.state.lock().expect("no panic").is_healthy = true;
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.handle.stop(false));
    }
}

async fn answer(state: Arc<Mutex<State>>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let path = request.path().to_owned();
    let mut headers = http::HeaderMap::new();
    for (name, value) in request.headers() {
        let name: http::HeaderName = name.as_str().parse().expect("a name");
        headers.append(name, http::HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    let is_healthy = {
        let mut state = state.lock().expect("no panic");
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        state.received.push(Received {
            path: path.clone(),
            headers,
            raw: body.to_vec(),
            body: json,
            at: Instant::now(),
        });
        state.is_healthy
    };
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts[..] {
        ["status", code] => {
            HttpResponse::build(actix_web::http::StatusCode::from_u16(code.parse().expect("a code")).expect("a status"))
                .body("as you wish")
        }
        ["switch"] if !is_healthy => HttpResponse::InternalServerError().body("not yet"),
        ["hang"] => {
            actix_rt::time::sleep(Duration::from_secs(600)).await;
            HttpResponse::Ok().finish()
        }
        ["retry-after", seconds] => HttpResponse::ServiceUnavailable().insert_header(("retry-after", seconds)).finish(),
        ["redirect"] => HttpResponse::Found().insert_header(("location", "/ok")).finish(),
        ["large"] => HttpResponse::InternalServerError().body(vec![b'x'; 1 << 20]),
        _ => HttpResponse::Ok().body("thank you"),
    }
}

/// A TLS configuration for these names, signed by itself, and its certificate in PEM.
pub fn tls_of(names: &[&str]) -> (rustls::ServerConfig, String) {
    let made = rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let made = made.expect("good names");
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
        .expect("a configuration");
    (config, made.cert.pem())
}
