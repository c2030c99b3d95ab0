//! Why a hub did not start, or ended.

use std::{net::SocketAddr, path::PathBuf};

use crate::{config::ConfigError, hub::HubError, store::StoreError};

/// Why a hub did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("store")]
    Store(#[from] StoreError),
    #[error("first run")]
    FirstRun(#[from] HubError),
    #[error("server.bind (--bind): cannot listen on {0}")]
    Bind(SocketAddr, #[source] std::io::Error),
    #[error("database.url: {} is served by another hub; several nodes take PostgreSQL and Redis", .0.display())]
    Served(PathBuf),
    #[error("database.url: {}", .0.display())]
    Lock(PathBuf, #[source] std::io::Error),
    #[error("server")]
    Http(#[from] std::io::Error),
}
