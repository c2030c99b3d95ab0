//! A socket's catching up with what it missed: `subscribed`, the replay, `resumed`, then live, with no seam to see
//! (contract §5).

use std::{collections::VecDeque, sync::Arc};

use super::member::{Positions, Subscription};
use crate::{
    model::{Offset, Published, StreamKind},
    ports::Page,
    protocol::FrameId,
};

/// A replay under way.
#[derive(Debug)]
pub(super) struct Replay {
    pub id: Option<FrameId>,
    /// Tells this replay's pages from those of one that was given up.
    pub turn: u32,
    /// Where the client said it was.
    pub after: Positions,
    /// Where the socket had been served to when the replay was asked for.
    pub served: Positions,
    /// What it held then.
    pub previously: Vec<Subscription>,
    /// Streams whose history must be seen to reach back before anything is sent.
    pub unchecked: Vec<StreamKind>,
    /// Read, and not pushed yet.
    pub queue: VecDeque<(StreamKind, Arc<Published>)>,
    pub waiting: Option<Waiting>,
    pub replayed: u64,
}

/// What a replay cannot go on without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    Page(StreamKind),
    Drained,
}

impl Replay {
    /// Whether this event was sent to the socket before the replay began, under a pattern it held then.
    pub(super) fn sent_before(&self, kind: StreamKind, event: &Published) -> bool {
        let offset = event.offset_in(kind);
        offset <= self.served.of(kind)
            && self
                .previously
                .iter()
                .any(|held| held.since.of(kind) < offset && held.pattern.matches(event.full_type()))
    }
}

/// Whether a stream's history still holds everything after `after`, seen from the first page of it.
pub(super) fn reaches_back(page: &Page, kind: StreamKind, after: Offset) -> bool {
    match page.events.first() {
        Some(first) => first.offset_in(kind) == after + 1,
        None => page.head == after,
    }
}
