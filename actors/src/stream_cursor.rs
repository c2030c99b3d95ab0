//! The position of one reader in one stream: puts events in order, notices gaps, and says what to ask for. Pure, and
//! the only file that knows the offset rule (ARCHITECTURE.md, invariant 3).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    model::{Offset, StreamKind},
    ports::Page,
    protocol::PublishedEvent,
};

/// Greatest number of early events to keep, …
const REORDER_BUFFER: usize = 512;
/// … and of their bytes. Further ones are dropped and fetched from the store later.
const REORDER_BYTES: usize = 1 << 20;
/// How long to wait for an overtaken event before asking the store.
pub(crate) const REORDER_WINDOW: Duration = Duration::from_millis(10);

/// What a cursor needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// A call of [`StreamCursor::reorder_timeout`] after [`REORDER_WINDOW`]: the missing event is most likely on its
    /// way.
    WaitForReorder,
    /// The page of events after this offset.
    Page {
        after: Offset,
    },
}

/// The position, and the events that arrived early.
#[derive(Debug)]
pub(crate) struct StreamCursor {
    kind: StreamKind,
    position: Offset,
    /// The highest offset known to exist.
    head: Offset,
    /// Events that arrived early.
    buffered: BTreeMap<Offset, Arc<PublishedEvent>>,
    buffered_bytes: usize,
    /// A page, or the timeout of the reorder window, is pending.
    is_waiting: bool,
    /// The highest offset known to exist when the pending page was requested.
    head_when_asked: Offset,
}

impl StreamCursor {
    /// A cursor at `position`: everything up to there was delivered.
    pub(crate) fn at(kind: StreamKind, position: Offset) -> Self {
        Self {
            kind,
            position,
            head: position,
            buffered: BTreeMap::new(),
            buffered_bytes: 0,
            is_waiting: false,
            head_when_asked: 0,
        }
    }

    pub(crate) fn position(&self) -> Offset {
        self.position
    }

    /// Takes an event from the registry or the bus, and appends to `ready` what can be delivered now. Events of two
    /// nodes overtake each other, so a gap that closes within the reorder window costs no query.
    pub(crate) fn accept(&mut self, event: Arc<PublishedEvent>, ready: &mut Vec<Arc<PublishedEvent>>) -> Need {
        let offset = event.offset_in(self.kind);
        self.head = self.head.max(offset);
        if offset <= self.position {
            return Need::Nothing;
        }
        if offset == self.position + 1 {
            self.position = offset;
            ready.push(event);
        } else {
            self.buffered_bytes += event.bytes();
            if let Some(repeated) = self.buffered.insert(offset, event) {
                self.buffered_bytes -= repeated.bytes();
            }
        }
        self.release(ready);
        while self.buffered.len() > REORDER_BUFFER || self.buffered_bytes > REORDER_BYTES {
            // Drops the event that is farthest from being deliverable.
            let Some((_, event)) = self.buffered.pop_last() else { break };
            self.buffered_bytes -= event.bytes();
        }
        if self.position == self.head || std::mem::replace(&mut self.is_waiting, true) {
            Need::Nothing
        } else {
            Need::WaitForReorder
        }
    }

    /// The reorder window is over. Asks the store for what is still missing.
    pub(crate) fn reorder_timeout(&mut self) -> Need {
        self.is_waiting = false;
        self.request_page()
    }

    /// Learns from the store that the stream has reached `head`.
    pub(crate) fn observe_head(&mut self, head: Offset) -> Need {
        self.head = self.head.max(head);
        self.request_page()
    }

    /// Takes the page that was requested. If retention deleted the missing events, the gap is skipped.
    pub(crate) fn page(&mut self, page: Page, ready: &mut Vec<Arc<PublishedEvent>>) -> Need {
        self.is_waiting = false;
        if page.head < self.head_when_asked {
            // Offsets are assigned in commit order, so every event that a message names is in the store by now. An
            // event beyond that head is not from this store.
            self.buffered.retain(|offset, _| *offset > self.head_when_asked);
            if self.head == self.head_when_asked {
                self.head = self.position;
            }
        }
        self.head = self.head.max(page.head);
        if page.events.is_empty() {
            // Everything that was missing is deleted: nothing up to the store's head can still come.
            self.position = self.position.max(page.head);
        }
        for event in page.events {
            let offset = event.offset_in(self.kind);
            if offset > self.position {
                self.position = offset;
                ready.push(event);
            }
        }
        self.buffered = self.buffered.split_off(&(self.position + 1));
        self.buffered_bytes = self.buffered.values().map(|event| event.bytes()).sum();
        self.release(ready);
        if self.position < page.head || self.buffered.is_empty() {
            self.request_page()
        } else if self.position == self.head || std::mem::replace(&mut self.is_waiting, true) {
            Need::Nothing
        } else {
            // It was committed after the page was read, so it is on its way.
            Need::WaitForReorder
        }
    }

    /// The page could not be read. Says what to request again.
    pub(crate) fn page_failed(&mut self) -> Need {
        self.is_waiting = false;
        self.request_page()
    }

    /// Delivers buffered events as far as they follow the position.
    fn release(&mut self, ready: &mut Vec<Arc<PublishedEvent>>) {
        while let Some(entry) = self.buffered.first_entry()
            && *entry.key() <= self.position + 1
        {
            let (offset, event) = entry.remove_entry();
            self.buffered_bytes -= event.bytes();
            if offset > self.position {
                self.position = offset;
                ready.push(event);
            }
        }
    }

    fn request_page(&mut self) -> Need {
        if self.position == self.head || std::mem::replace(&mut self.is_waiting, true) {
            Need::Nothing
        } else {
            self.head_when_asked = self.head;
            Need::Page { after: self.position }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::event;

    fn stream(n: Offset) -> Vec<Arc<PublishedEvent>> {
        (1..=n).map(|offset| event("alice", offset, offset)).collect()
    }

    fn offsets(events: &[Arc<PublishedEvent>]) -> Vec<Offset> {
        events.iter().map(|event| event.offset_in(StreamKind::User)).collect()
    }

    #[test]
    fn the_next_one_is_delivered_and_an_earlier_one_dropped() {
        let events = stream(2);
        let (mut cursor, mut ready) = (StreamCursor::at(StreamKind::User, 0), Vec::new());
        for index in [0, 0, 1, 0] {
            assert_eq!(cursor.accept(events[index].clone(), &mut ready), Need::Nothing);
        }
        assert_eq!(offsets(&ready), [1, 2]);
    }

    #[test]
    fn a_later_one_waits_until_the_gap_is_filled() {
        let events = stream(5);
        let (mut cursor, mut ready) = (StreamCursor::at(StreamKind::User, 1), Vec::new());
        assert_eq!(cursor.accept(events[3].clone(), &mut ready), Need::WaitForReorder);
        assert_eq!(cursor.accept(events[4].clone(), &mut ready), Need::Nothing, "one question at a time");
        assert_eq!(cursor.reorder_timeout(), Need::Page { after: 1 });
        assert!(ready.is_empty());
        let page = Page { events: events[1..3].to_vec(), head: 5 };
        assert_eq!(cursor.page(page, &mut ready), Need::Nothing);
        assert_eq!(offsets(&ready), [2, 3, 4, 5]);
    }

    #[test]
    fn what_was_only_overtaken_needs_no_page() {
        let events = stream(4);
        let (mut cursor, mut ready) = (StreamCursor::at(StreamKind::User, 1), Vec::new());
        assert_eq!(cursor.accept(events[3].clone(), &mut ready), Need::WaitForReorder);
        assert_eq!(cursor.accept(events[1].clone(), &mut ready), Need::Nothing);
        assert_eq!(offsets(&ready), [2], "the next one is delivered while another is waited for");
        assert_eq!(cursor.accept(events[2].clone(), &mut ready), Need::Nothing);
        assert_eq!(offsets(&ready), [2, 3, 4]);
        assert_eq!(cursor.reorder_timeout(), Need::Nothing);
        assert_eq!(cursor.observe_head(4), Need::Nothing);
    }

    #[test]
    fn what_is_held_is_bounded_and_what_is_dropped_is_fetched() {
        let events = stream(REORDER_BUFFER as Offset + 10);
        let (mut cursor, mut ready) = (StreamCursor::at(StreamKind::User, 0), Vec::new());
        for event in &events[1..] {
            cursor.accept(event.clone(), &mut ready);
        }
        assert!(ready.is_empty() && cursor.buffered.len() == REORDER_BUFFER);
        cursor.accept(events[0].clone(), &mut ready);
        assert_eq!(ready.len(), REORDER_BUFFER + 1);
        assert_eq!(cursor.reorder_timeout(), Need::Page { after: REORDER_BUFFER as Offset + 1 });
    }

    #[test]
    fn an_event_that_the_store_does_not_know_is_forgotten() {
        let events = stream(9);
        let (mut cursor, mut ready) = (StreamCursor::at(StreamKind::User, 1), Vec::new());
        assert_eq!(cursor.accept(events[8].clone(), &mut ready), Need::WaitForReorder);
        assert_eq!(cursor.reorder_timeout(), Need::Page { after: 1 });
        assert_eq!(cursor.page(Page { events: Vec::new(), head: 1 }, &mut ready), Need::Nothing, "no endless asking");
        assert!(ready.is_empty() && cursor.buffered.is_empty());
        assert_eq!(cursor.accept(events[1].clone(), &mut ready), Need::Nothing);
        assert_eq!(offsets(&ready), [2]);
    }

    #[test]
    fn history_that_no_longer_reaches_back_is_passed_over() {
        let events = stream(9);
        let (mut cursor, mut ready) = (StreamCursor::at(StreamKind::User, 1), Vec::new());
        cursor.observe_head(9);
        assert_eq!(cursor.page(Page { events: events[6..].to_vec(), head: 9 }, &mut ready), Need::Nothing);
        assert_eq!(offsets(&ready), [7, 8, 9]);
    }

    #[test]
    fn history_that_is_gone_altogether_is_not_waited_for() {
        let events = stream(9);
        let (mut cursor, mut ready) = (StreamCursor::at(StreamKind::User, 1), Vec::new());
        cursor.observe_head(8);
        assert_eq!(cursor.page(Page { events: Vec::new(), head: 8 }, &mut ready), Need::Nothing);
        assert_eq!(cursor.accept(events[8].clone(), &mut ready), Need::Nothing);
        assert_eq!(offsets(&ready), [9]);
    }

    proptest! {
        /// Whatever a hint loses, repeats or reorders, the follower ends with every event once and in order.
        #[test]
        fn every_event_once_and_in_order(
            hints in prop::collection::vec(0_usize..40, 0..200),
            page_size in 1_usize..20,
            fail_every in 2_usize..7,
        ) {
            let events = stream(40);
            let (mut cursor, mut ready) = (StreamCursor::at(StreamKind::User, 0), Vec::new());
            let mut pending = None;
            let mut asked = 0;
            let mut serve = |cursor: &mut StreamCursor, ready: &mut Vec<_>, after: Offset| {
                asked += 1;
                if asked % fail_every == 0 {
                    return cursor.page_failed();
                }
                let from = after as usize;
                let to = (from + page_size).min(events.len());
                cursor.page(Page { events: events[from..to].to_vec(), head: 40 }, ready)
            };
            for (step, hint) in hints.into_iter().enumerate() {
                let need = cursor.accept(events[hint].clone(), &mut ready);
                prop_assert!(need == Need::Nothing || pending.replace(need).is_none(), "two questions at once");
                if step % 3 == 0 {
                    let need = match pending.take() {
                        Some(Need::Page { after }) => serve(&mut cursor, &mut ready, after),
                        Some(Need::WaitForReorder) => cursor.reorder_timeout(),
                        Some(Need::Nothing) | None => Need::Nothing,
                    };
                    if need != Need::Nothing {
                        pending = Some(need);
                    }
                }
            }
            let mut need = pending.unwrap_or(Need::Nothing);
            if need == Need::Nothing {
                need = cursor.observe_head(40);
            }
            loop {
                need = match need {
                    Need::Page { after } => serve(&mut cursor, &mut ready, after),
                    Need::WaitForReorder => cursor.reorder_timeout(),
                    Need::Nothing if cursor.position() < 40 => cursor.observe_head(40),
                    Need::Nothing => break,
                };
            }
            prop_assert_eq!(offsets(&ready), (1..=40).collect::<Vec<_>>());
        }
    }
}
