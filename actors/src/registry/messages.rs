//! Messages to a registry.

use std::sync::Arc;

use actix::Message;
use bytes::Bytes;

use crate::{
    connection_permit::{AcquireError, ConnectionPermit},
    model::{ConnectionCounts, Scope, StreamKey},
    protocol::PublishedEvent,
};

/// Figures of a registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistryState {
    /// Users and apps with a session.
    pub sessions: usize,
    /// Connections held.
    pub connections: usize,
    /// Users that hold a connection or ask for one.
    pub users: usize,
}

/// Asks for the right to one more connection.
#[derive(Message)]
#[rtype(result = "Result<ConnectionPermit, AcquireError>")]
pub(crate) struct Acquire {
    pub stream: StreamKey,
    pub scope: Scope,
}

/// Events that this node committed, in the order of commit.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Route {
    pub events: Vec<Arc<PublishedEvent>>,
}

/// Events that other nodes committed, each with the one stream on whose channel it came.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Received {
    pub events: Vec<(StreamKey, Arc<PublishedEvent>)>,
}

/// Something may have been lost on the way here: compare all streams with the store, now and for a while.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Resync;

/// A frame that is no event, for all sockets of a stream.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct SendFrame {
    pub stream: StreamKey,
    pub frame: Bytes,
}

/// Another node has no connection left for a stream: drop the sockets here that do not answer.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Probe {
    pub stream: StreamKey,
}

/// Asks what one user or app holds here.
#[derive(Message)]
#[rtype(result = "ConnectionCounts")]
pub(crate) struct CountsOf {
    pub stream: StreamKey,
}

/// Asks what every user and app holds here.
#[derive(Message)]
#[rtype(result = "Vec<(StreamKey, ConnectionCounts)>")]
pub(crate) struct ConnectionSnapshot;

/// No new connections from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopAccepting;

/// Asks for the figures.
#[derive(Message)]
#[rtype(result = "RegistryState")]
pub(crate) struct Observe;

/// Makes the registry panic, to prove that it is rebuilt.
#[cfg(any(test, feature = "testing"))]
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct PanicRegistry;

/// Makes a session panic, to prove that nobody else is affected.
#[cfg(any(test, feature = "testing"))]
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct PanicSession {
    pub stream: StreamKey,
}
