//! A hub in this process, on a free port, in an actix system of its own.

use std::{net::SocketAddr, sync::Arc, thread::JoinHandle};

use oriva_hub::{
    config::{Config, Flags, Loaded},
    hub::Hub,
    server::Server,
};
use serde_json::json;
use tokio::sync::oneshot;

use super::{Answer, App, Backend, Database, callers::send};

pub const ADMIN_KEY: &str = "an admin key of at least 32 characters";

pub struct TestHub {
    pub addr: SocketAddr,
    pub hub: Arc<Hub>,
    pub database: Database,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestHub {
    pub async fn start(backend: Backend) -> Self {
        Self::start_with(backend, |_| {}).await
    }

    /// Starts with changed settings. Rate limits are off unless `change` turns them on.
    pub async fn start_with(backend: Backend, change: impl FnOnce(&mut Config)) -> Self {
        let database = Database::new(backend).await;
        let config = config(&database, change);
        let (started, has_started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let server = Server::build(&config, false).await.expect("the hub starts");
                let _ = started.send((server.addr(), server.hub()));
                server.run_until_stopped(async { drop(stopped.await) }).await.expect("the hub ends well");
            });
        });
        let (addr, hub) = has_started.await.expect("the hub starts");
        Self { addr, hub, database, stop: Some(stop), thread: Some(thread) }
    }

    /// An app with a key.
    pub async fn app(&self, id: &str) -> App {
        self.make_app(id, false).await
    }

    pub async fn platform_app(&self, id: &str) -> App {
        self.make_app(id, true).await
    }

    async fn make_app(&self, id: &str, is_platform: bool) -> App {
        let body = json!({"app_id": id, "name": format!("App {id}"), "is_platform": is_platform});
        let answer = self.admin("POST", "/api/v1/admin/apps", Some(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        App::new(self.addr, id, answer.body["api_key"].as_str().expect("a key"))
    }

    pub async fn admin(&self, method: &str, path: &str, body: Option<serde_json::Value>) -> Answer {
        send(self.addr, method, path, Some(ADMIN_KEY), &[], body).await
    }

    /// Stops it as SIGTERM does, and returns when it has ended.
    pub async fn stop(mut self) -> Database {
        self.stop.take();
        let thread = self.thread.take().expect("running");
        tokio::task::spawn_blocking(move || thread.join().expect("the hub's thread ends well")).await.expect("joined");
        std::mem::replace(&mut self.database, Database::new(Backend::Sqlite).await)
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().expect("the hub's thread ends well");
        }
    }
}

/// An app that is made over HTTP, where no command reaches the store.
pub async fn admin_app(addr: SocketAddr, id: &str) -> App {
    let body = json!({"app_id": id, "name": id});
    let answer = send(addr, "POST", "/api/v1/admin/apps", Some(ADMIN_KEY), &[], Some(body)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    App::new(addr, id, answer.body["api_key"].as_str().expect("a key"))
}

pub fn config(database: &Database, change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Loaded::load(&Flags::default()).expect("the defaults are good").config;
    config.database.url = database.url.clone();
    config.database.max_connections = 4;
    config.server.bind = "127.0.0.1:0".parse().expect("an address");
    config.server.workers = 2;
    config.server.shutdown_timeout_seconds = 3;
    config.rate_limits.enabled = false;
    config.auth.admin_key = Some(ADMIN_KEY.to_owned().into());
    config.auth.token_secret = Some("a token secret of at least 32 characters".to_owned().into());
    config.auth.encryption_key = Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned().into());
    change(&mut config);
    config
}
