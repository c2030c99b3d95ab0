//! Deadlines of sockets: heartbeats in a timer wheel, single deadlines in a heap. No socket has a timer of its own.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use tokio::time::Instant;

use super::key::SocketKey;

/// The sockets, spread over the ticks of one heartbeat period by when they came.
pub(super) struct Heartbeats {
    slots: Vec<Vec<SocketKey>>,
    now: usize,
}

impl Heartbeats {
    pub(super) fn new(period: Duration, tick: Duration) -> Self {
        let ticks = (period.as_millis() / tick.as_millis()).max(1);
        Self { slots: vec![Vec::new(); usize::try_from(ticks).unwrap_or(1)], now: 0 }
    }

    /// Adds a socket; its first heartbeat is one period from now.
    pub(super) fn add(&mut self, key: SocketKey) {
        self.slots[self.now].push(key);
    }

    /// Advances by one tick and returns the sockets whose heartbeat is due, if any. Those that stay come back by
    /// [`Heartbeats::put_back`].
    pub(super) fn advance(&mut self) -> Option<Vec<SocketKey>> {
        self.now = (self.now + 1) % self.slots.len();
        let beating = std::mem::take(&mut self.slots[self.now]);
        (!beating.is_empty()).then_some(beating)
    }

    pub(super) fn put_back(&mut self, keys: Vec<SocketKey>) {
        self.slots[self.now] = keys;
    }
}

/// What a socket has a deadline for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// Its token may have expired, unless a refresh has moved the socket's own `expires_at`.
    Expiry,
    /// Its client had time enough to answer the close.
    Linger,
    /// Its turn in the drain has come.
    Drain,
    /// It should have been welcomed by now.
    Welcome,
    /// It should have answered a probe by now.
    Probe,
}

/// Deadlines in the order of time.
#[derive(Default)]
pub(super) struct Deadlines(BinaryHeap<Reverse<(Instant, SocketKey, Deadline)>>);

impl Deadlines {
    pub(super) fn add(&mut self, at: Instant, key: SocketKey, deadline: Deadline) {
        self.0.push(Reverse((at, key, deadline)));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Keeps those of sockets for which `keep` is true.
    pub(super) fn retain(&mut self, keep: impl Fn(SocketKey) -> bool) {
        self.0.retain(|Reverse((_, key, _))| keep(*key));
    }

    /// Removes and returns the deadlines that have passed, and when they were.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(Instant, SocketKey, Deadline)> {
        let mut out = Vec::new();
        while let Some(&Reverse((at, key, deadline))) = self.0.peek()
            && at <= now
        {
            self.0.pop();
            out.push((at, key, deadline));
        }
        out
    }
}
