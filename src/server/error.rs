//! Why a hub did not start, or ended.

use std::{net::SocketAddr, path::PathBuf};

use crate::{config::ConfigError, hub::HubError, store::StoreError};

/// Why a hub did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be used.
    #[error("store")]
    Store(#[from] StoreError),
    /// The first app could not be made.
    #[error("first run")]
    FirstRun(#[from] HubError),
    /// The address cannot be listened on.
    #[error("server.bind (--bind): cannot listen on {0}")]
    Bind(SocketAddr, #[source] std::io::Error),
    /// Another hub serves this store.
    #[error("database.url: {} is served by another hub; several nodes take PostgreSQL and Redis", .0.display())]
    Served(PathBuf),
    /// The store's file or folder cannot be made or written.
    #[error("database.url: {} cannot be written", .0.display())]
    Lock(PathBuf, #[source] std::io::Error),
    /// The HTTP server failed.
    #[error("server")]
    Http(#[from] std::io::Error),
}
