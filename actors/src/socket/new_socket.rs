//! A socket on its way from the HTTP server to a socket loop.

use std::sync::Arc;

use bytes::BytesMut;

use super::transport::Transport;
use crate::{connection_permit::ConnectionPermit, model::Identity, ports::Expiry, protocol::Close};

/// A socket after its upgrade: authenticated and counted, or to be told why it is rejected.
#[derive(Debug)]
pub(crate) struct NewSocket {
    pub transport: Transport,
    /// Bytes that came right behind the upgrade request.
    pub read_ahead: BytesMut,
    /// Whether permessage-deflate was negotiated (RFC 7692), without context takeover either way.
    pub deflate: bool,
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

/// What a socket was opened for.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// To follow its holder's stream.
    Follow { identity: Arc<Identity>, permit: ConnectionPermit, expiry: Option<Expiry> },
    /// To be closed at once with this code, for clients that cannot read an HTTP answer to an upgrade.
    Reject(Close),
    /// To be sent back what it sends, for the Autobahn cases.
    #[cfg(feature = "echo")]
    Echo,
}
