//! A cluster: real processes with one PostgreSQL, with and without a real Redis.

mod bus;
mod cluster;
mod faults;
mod ledger;
mod places;
mod proxy;
mod rights;
mod store;

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::{
    Answer, App, Backend, Database, HubProcess, Proxy, RedisServer, Socket, callers::send, hub::ADMIN_KEY,
    process::create_app,
};

/// Nodes with one PostgreSQL and one Redis, and an app.
pub struct Nodes {
    pub app: App,
    pub nodes: Vec<HubProcess>,
    pub redis: RedisServer,
    pub database: Database,
}

impl Nodes {
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, &[]).await
    }

    pub async fn start_with(count: usize, env: &[(&str, &str)]) -> Self {
        let (database, redis) = (Database::new(Backend::Postgres).await, RedisServer::start().await);
        let url = redis.url();
        let mut all = vec![("REDIS_URL", &*url)];
        all.extend_from_slice(env);
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(HubProcess::start(&database, &all).await);
        }
        let app = create_app(&database, nodes[0].addr, "a", false);
        let hub = Self { app, nodes, redis, database };
        for node in &hub.nodes {
            crate::harness::eventually("the nodes know each other", async || {
                let stats = hub.admin_at(node.addr, "GET", "/api/v1/admin/stats", None).await.body;
                stats["nodes"] == count && stats["bus"] == "connected" && stats["partial"].is_null()
            })
            .await;
        }
        hub
    }

    pub fn make_app(&self, id: &str, is_platform: bool) -> App {
        create_app(&self.database, self.nodes[0].addr, id, is_platform)
    }

    pub async fn admin(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.admin_at(self.nodes[0].addr, method, path, body).await
    }

    pub async fn admin_at(&self, addr: SocketAddr, method: &str, path: &str, body: Option<Value>) -> Answer {
        send(addr, method, path, Some(ADMIN_KEY), &[], body).await
    }

    /// The app at a node.
    pub fn app_at(&self, node: usize) -> App {
        self.app.at(self.nodes[node].addr)
    }

    /// A socket of each node for this credential, subscribed to everything.
    pub async fn sockets(&self, credential: &str) -> Vec<Socket> {
        let mut sockets = Vec::new();
        for node in &self.nodes {
            let mut socket = Socket::open(node.addr, credential).await.expect("welcomed");
            socket.subscribe(&["**"]).await;
            sockets.push(socket);
        }
        sockets
    }
}

/// A node that reaches Redis through a proxy alone.
pub async fn node_behind(database: &Database, proxy: &Proxy) -> HubProcess {
    HubProcess::start(database, &[("REDIS_URL", &proxy.url())]).await
}
