//! Settings of the realtime core (section `stream` of the configuration).

use std::{sync::Arc, time::Duration};

use crate::ports::PageLimit;

/// Events of one page read from the store.
const PAGE_EVENTS: usize = 128;

/// What the realtime core takes from the configuration.
#[derive(Debug, Clone)]
pub struct RealtimeConfig {
    /// The store's epoch, as `welcome` shows it. A client that resumes with another epoch is told to reload.
    pub epoch: Arc<str>,
    /// Threads over which users and apps are spread; at least one.
    pub shards: usize,
    /// Connections that one user, or one app, may hold over all nodes.
    pub max_connections: usize,
    /// Period of the hub's pings. A socket that is silent for two periods is closed.
    pub heartbeat: Duration,
    /// Largest message that a client may send, in bytes, after decompression.
    pub max_frame_bytes: usize,
    /// Bytes that may wait to be written to one socket. Past that it is closed as too slow (4008).
    pub max_backlog_bytes: usize,
    /// Frame size in bytes from which events are sent compressed; `None` turns permessage-deflate off.
    pub compress_from: Option<usize>,
}

impl RealtimeConfig {
    /// Bytes of a replay that are pushed to a socket before it must have taken them.
    pub(crate) fn replay_burst_bytes(&self) -> usize {
        self.max_backlog_bytes / 2
    }

    /// What is read from the store at once. With the burst before it, a replay holds no more than a backlog may.
    #[must_use]
    pub fn page_limit(&self) -> PageLimit {
        PageLimit { events: PAGE_EVENTS, bytes: self.replay_burst_bytes() }
    }
}
