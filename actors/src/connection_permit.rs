//! The right to one connection of a user or app. Whoever holds it has been counted; dropping it gives it back.

use actix::{Message, Recipient};

use crate::{
    model::{Scope, StreamKey},
    session::messages::Join,
    socket_loop::key::SocketKey,
};

/// Why no connection was permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcquireError {
    /// The user or app holds as many connections as it may, counted over all nodes.
    #[error("{limit} connections are open already")]
    LimitReached {
        /// The limit in force (`stream.max_connections`).
        limit: usize,
    },
    /// This node is stopping.
    #[error("this node takes no new connections now")]
    Draining,
}

/// What a registry hears of sockets.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum ConnectionEvent {
    /// A socket is open and wants its session.
    Joined(Join),
    /// A connection is given back. `socket` is `None` where it was never opened.
    Released { stream: StreamKey, scope: Scope, socket: Option<SocketKey> },
}

/// One counted connection of a user or app on this node; given back when dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    registry: Recipient<ConnectionEvent>,
    stream: StreamKey,
    scope: Scope,
    socket: Option<SocketKey>,
}

impl ConnectionPermit {
    pub(crate) fn new(registry: Recipient<ConnectionEvent>, stream: StreamKey, scope: Scope) -> Self {
        Self { registry, stream, scope, socket: None }
    }

    /// Notes the socket that the permit is for, and asks the registry for its session.
    pub(crate) fn join(&mut self, join: Join) {
        self.socket = Some(join.socket);
        // Unbounded, but one message a permit, and permits are bounded.
        self.registry.do_send(ConnectionEvent::Joined(join));
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let (stream, scope, socket) = (self.stream.clone(), self.scope.clone(), self.socket);
        // Unbounded, but one message a permit, and permits are bounded.
        self.registry.do_send(ConnectionEvent::Released { stream, scope, socket });
    }
}
