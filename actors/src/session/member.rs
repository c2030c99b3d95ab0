//! One socket as its session sees it: what it subscribed to, and how far it has been served.

use std::sync::Arc;

use bytes::Bytes;

use super::replay::Replay;
use crate::model::{EventPattern, Identity, MAX_PATTERNS, Offset, PublishedEvent, StreamKind};

/// A pattern, and the positions from which it has been in force: an event matched by it after them was sent already,
/// and no replay sends it again.
#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub pattern: EventPattern,
    pub since: Positions,
}

/// How far a socket has been served in the stream it follows by right and in the broadcasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Positions {
    pub own: Offset,
    pub broadcast: Offset,
}

impl Positions {
    pub(super) fn get(&self, kind: StreamKind) -> Offset {
        if kind == StreamKind::Broadcast { self.broadcast } else { self.own }
    }

    pub(super) fn get_mut(&mut self, kind: StreamKind) -> &mut Offset {
        if kind == StreamKind::Broadcast { &mut self.broadcast } else { &mut self.own }
    }
}

#[derive(Debug)]
pub(super) struct Member {
    pub identity: Arc<Identity>,
    pub subscriptions: Vec<Subscription>,
    pub positions: Positions,
    /// While it lasts, live events wait.
    pub replay: Option<Box<Replay>>,
    /// A new token of its is being looked at.
    pub refreshing: bool,
    /// Bytes from which an event is sent compressed; none are that long where the socket did not agree on it.
    pub compress_from: usize,
}

impl Member {
    /// Whether a live event is to be sent now. Moves the position.
    pub(super) fn takes(&mut self, kind: StreamKind, event: &PublishedEvent) -> bool {
        if self.replay.is_some() {
            return false;
        }
        let position = self.positions.get_mut(kind);
        let offset = event.offset_in(kind);
        if offset <= *position {
            return false;
        }
        *position = offset;
        self.wants(event)
    }

    /// An event as this socket is sent it.
    pub(super) fn frame_of(&self, event: &PublishedEvent, kind: StreamKind) -> Bytes {
        let frame = event.frame(kind);
        if frame.len() < self.compress_from { frame } else { event.deflated_frame(kind) }
    }

    pub(super) fn wants(&self, event: &PublishedEvent) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.pattern.matches(event.full_type()))
            && self.identity.may_see(event.event())
    }

    /// Adds patterns that are not held yet.
    ///
    /// # Errors
    /// Where that would be too many; nothing is added then.
    pub(super) fn subscribe(&mut self, patterns: Vec<EventPattern>) -> Result<(), TooManyPatterns> {
        let mut added: Vec<Subscription> = Vec::new();
        for pattern in patterns {
            if !self.subscriptions.iter().chain(&added).any(|subscription| subscription.pattern == pattern) {
                added.push(Subscription { pattern, since: self.positions });
            }
        }
        if self.subscriptions.len() + added.len() > MAX_PATTERNS {
            return Err(TooManyPatterns);
        }
        self.subscriptions.extend(added);
        self.subscriptions.shrink_to_fit();
        Ok(())
    }

    /// A replay from `after` brings everything that the patterns held now match.
    pub(super) fn mark_replayed_after(&mut self, after: Positions) {
        for subscription in &mut self.subscriptions {
            subscription.since =
                Positions { own: subscription.since.own.min(after.own), broadcast: subscription.since.broadcast.min(after.broadcast) };
        }
    }

    /// What was up to `now` may not have been sent.
    pub(super) fn reset_since(&mut self, now: Positions) {
        for subscription in &mut self.subscriptions {
            subscription.since = now;
        }
    }

    pub(super) fn unsubscribe(&mut self, patterns: &[EventPattern]) {
        self.subscriptions.retain(|subscription| !patterns.contains(&subscription.pattern));
    }
}

#[derive(Debug)]
pub(super) struct TooManyPatterns;
