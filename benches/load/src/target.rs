//! The hub under load: where it is, and an app of the tool's own with tokens for its users.

use std::{net::SocketAddr, sync::Arc};

use serde_json::json;

use crate::{
    Failure,
    http::{Connection, request},
};

/// A node, or the floor.
#[derive(Clone)]
pub struct Target {
    /// Nodes; whoever opens or publishes something takes them in turn.
    pub addrs: Arc<[SocketAddr]>,
    pub host: String,
    pub app: String,
    pub key: String,
    /// The floor knows no apps: a token is the user's name.
    is_floor: bool,
}

impl Target {
    pub fn floor(addrs: Vec<SocketAddr>) -> Self {
        Self {
            addrs: addrs.into(),
            host: "floor".to_owned(),
            app: "bench".to_owned(),
            key: "bench".to_owned(),
            is_floor: true,
        }
    }

    /// Makes an app with budgets that no load exceeds.
    pub async fn hub(addrs: Vec<SocketAddr>, admin_key: &str) -> Result<Self, Failure> {
        let host = addrs[0].to_string();
        let app = format!("bench-{:08x}", rand::random::<u32>());
        let mut connection = Connection::open(addrs[0]).await?;
        let body = json!({"app_id": app, "name": "load", "is_platform": true});
        let made =
            connection.send(&request("POST", "/api/v1/admin/apps", &host, admin_key, Some(&body))).await?.json()?;
        let key = made["api_key"].as_str().ok_or(Failure::Answer("no api_key".to_owned()))?.to_owned();
        let most = 1_000_000_000;
        let limits = json!({"limits": {"publish": most, "read": most, "notify": most, "webhooks": most}});
        let path = format!("/api/v1/admin/apps/{app}");
        connection.send(&request("PATCH", &path, &host, admin_key, Some(&limits))).await?.json()?;
        Ok(Self { addrs: addrs.into(), host, app, key, is_floor: false })
    }

    pub fn addr(&self, n: usize) -> SocketAddr {
        self.addrs[n % self.addrs.len()]
    }

    pub fn user(n: usize) -> String {
        format!("user{n}")
    }

    pub fn path(&self, rest: &str) -> String {
        format!("/api/v1/apps/{}{rest}", self.app)
    }

    /// A token for each of the first `count` users.
    pub async fn tokens(&self, count: usize) -> Result<Vec<String>, Failure> {
        if self.is_floor {
            return Ok((0..count).map(Self::user).collect());
        }
        let mut connection = Connection::open(self.addr(0)).await?;
        let mut tokens = Vec::with_capacity(count);
        for n in 0..count {
            let path = self.path(&format!("/users/{}/tokens", Self::user(n)));
            let body = json!({"ttl_seconds": 86_400});
            let answer = connection.send(&request("POST", &path, &self.host, &self.key, Some(&body))).await?.json()?;
            tokens.push(answer["token"].as_str().unwrap_or_default().to_owned());
        }
        Ok(tokens)
    }
}
