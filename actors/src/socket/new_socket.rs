//! A socket on its way from the HTTP server to a socket loop.

use std::sync::Arc;

use bytes::BytesMut;

use super::transport::Transport;
use crate::{
    connection_permit::ConnectionPermit,
    model::Identity,
    ports::Expiry,
    protocol::{ClientFrame, Close},
};

/// A socket after its upgrade: authenticated and counted, or to be closed with a reason.
#[derive(Debug)]
pub(crate) struct NewSocket {
    pub transport: Transport,
    /// Bytes that came with the upgrade request, after its end.
    pub read_ahead: BytesMut,
    /// Whether permessage-deflate was negotiated (RFC 7692), without context takeover either way.
    pub deflate: bool,
    /// What the address subscribes to.
    pub subscribe: Option<ClientFrame>,
    pub purpose: Purpose,
}

impl NewSocket {
    /// When the holder's token expires.
    pub(crate) fn expiry(&self) -> Option<Expiry> {
        match &self.purpose {
            Purpose::Follow { expiry, .. } => *expiry,
            _ => None,
        }
    }
}

/// What to do with a new socket.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// Follow the user's or app's stream.
    Follow { identity: Arc<Identity>, permit: ConnectionPermit, expiry: Option<Expiry> },
    /// Close at once with this code. For clients that cannot read an HTTP answer to an upgrade.
    Reject(Close),
    /// Send back what it sends, for the Autobahn test cases.
    #[cfg(feature = "echo")]
    Echo,
}
