//! When a pump must look at which socket: heartbeats by a wheel, single moments by a heap. No timer a socket.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use tokio::time::Instant;

use super::SocketKey;

/// Sockets spread over the ticks of one heartbeat period by when they came.
pub(super) struct Heartbeats {
    slots: Vec<Vec<SocketKey>>,
    now: usize,
}

impl Heartbeats {
    pub(super) fn new(period: Duration, tick: Duration) -> Self {
        let ticks = (period.as_millis() / tick.as_millis()).max(1);
        Self { slots: vec![Vec::new(); usize::try_from(ticks).unwrap_or(1)], now: 0 }
    }

    /// Its first beat is one period from now.
    pub(super) fn add(&mut self, key: SocketKey) {
        self.slots[self.now].push(key);
    }

    /// Goes one tick on. The sockets whose beat it is, if any; give them back with [`Heartbeats::put_back`].
    pub(super) fn turn(&mut self) -> Option<Vec<SocketKey>> {
        self.now = (self.now + 1) % self.slots.len();
        let beating = std::mem::take(&mut self.slots[self.now]);
        (!beating.is_empty()).then_some(beating)
    }

    pub(super) fn put_back(&mut self, keys: Vec<SocketKey>) {
        self.slots[self.now] = keys;
    }
}

/// Why a socket must be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Its token may have run out, unless a refresh moved the socket's own moment.
    Expiry,
    /// It had its time to answer the close.
    Linger,
    /// Its turn in the drain has come.
    Drain,
    /// It should have been welcomed by now.
    Welcome,
}

/// Moments in order.
#[derive(Default)]
pub(super) struct Deadlines(BinaryHeap<Reverse<(Instant, SocketKey, Due)>>);

impl Deadlines {
    pub(super) fn add(&mut self, at: Instant, key: SocketKey, due: Due) {
        self.0.push(Reverse((at, key, due)));
    }

    pub(super) fn due(&mut self, now: Instant) -> Vec<(SocketKey, Due)> {
        let mut out = Vec::new();
        while let Some(&Reverse((at, key, due))) = self.0.peek()
            && at <= now
        {
            self.0.pop();
            out.push((key, due));
        }
        out
    }
}
