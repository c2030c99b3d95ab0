//! What one socket is to be sent: its subscriptions and what its holder may see.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    model::{EventPattern, Identity, MAX_PATTERNS, Offset, StreamKind},
    protocol::PublishedEvent,
};

/// A position in each of the two streams that a socket follows: the holder's own, and the broadcasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Positions {
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

/// A pattern, and the positions since which it has been in force. Events after them that match were sent already, so no
/// replay sends them again.
#[derive(Debug, Clone)]
pub(super) struct Subscription {
    pub pattern: EventPattern,
    pub since: Positions,
}

/// A socket would hold more patterns than it may.
#[derive(Debug)]
pub(super) struct TooManyPatterns;

/// Decides which events a socket is sent, and in which form.
#[derive(Debug)]
pub(super) struct Filter {
    pub identity: Arc<Identity>,
    pub subscriptions: Vec<Subscription>,
    /// Frame size in bytes from which events are sent compressed; `usize::MAX` where compression was not negotiated.
    pub compress_from: usize,
}

impl Filter {
    /// Whether the socket subscribed to this event and its holder may see it.
    pub(super) fn accepts(&self, event: &PublishedEvent) -> bool {
        self.subscriptions.iter().any(|subscription| subscription.pattern.matches(event.full_type()))
            && self.identity.may_see(event.event())
    }

    /// The frame of an event, compressed where that was negotiated and pays.
    pub(super) fn frame_for(&self, event: &PublishedEvent, kind: StreamKind) -> Bytes {
        let frame = event.frame(kind);
        if frame.len() < self.compress_from { frame } else { event.deflated_frame(kind) }
    }

    /// The texts of all patterns held, as `subscribed` and `unsubscribed` list them.
    pub(super) fn event_types(&self) -> Vec<&str> {
        self.subscriptions.iter().map(|subscription| subscription.pattern.as_str()).collect()
    }

    /// Adds the patterns that are not held yet, in force from `now` on.
    ///
    /// # Errors
    /// That would be more than [`MAX_PATTERNS`]. Nothing is added then.
    pub(super) fn subscribe(&mut self, patterns: Vec<EventPattern>, now: Positions) -> Result<(), TooManyPatterns> {
        let mut added: Vec<Subscription> = Vec::new();
        for pattern in patterns {
            if !self.subscriptions.iter().chain(&added).any(|subscription| subscription.pattern == pattern) {
                added.push(Subscription { pattern, since: now });
            }
        }
        if self.subscriptions.len() + added.len() > MAX_PATTERNS {
            return Err(TooManyPatterns);
        }
        self.subscriptions.extend(added);
        self.subscriptions.shrink_to_fit();
        Ok(())
    }

    /// Removes patterns.
    pub(super) fn unsubscribe(&mut self, patterns: &[EventPattern]) {
        self.subscriptions.retain(|subscription| !patterns.contains(&subscription.pattern));
    }

    /// A replay sends everything after `after`: all patterns count as in force since then.
    pub(super) fn extend_back_to(&mut self, after: Positions) {
        for Subscription { since, .. } in &mut self.subscriptions {
            *since = Positions { own: since.own.min(after.own), broadcast: since.broadcast.min(after.broadcast) };
        }
    }

    /// Events up to `now` may not have been sent: all patterns count as in force from `now` on only.
    pub(super) fn restart_at(&mut self, now: Positions) {
        for subscription in &mut self.subscriptions {
            subscription.since = now;
        }
    }
}
