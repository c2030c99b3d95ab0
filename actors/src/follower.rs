//! Follows one stream: puts events in order, notices what is missing and asks for it. Pure; the only place that
//! knows the offset rule (architecture, invariant 3).

use std::{collections::VecDeque, sync::Arc};

use crate::{
    model::{Offset, Published, StreamKind},
    ports::Page,
};

/// Events kept while a page is being fetched; older ones are dropped and fetched too.
const HELD: usize = 512;

/// What a follower wants from the store next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    /// A page of what comes after this offset.
    Page {
        after: Offset,
    },
}

/// A position in one stream, and what came ahead of it.
#[derive(Debug)]
pub(crate) struct Follower {
    kind: StreamKind,
    position: Offset,
    /// The highest offset known to exist.
    known: Offset,
    /// Events that came while a page is under way, in the order they came.
    held: VecDeque<Arc<Published>>,
    fetching: bool,
}

impl Follower {
    /// Stands at `position`: everything up to there has been seen.
    pub(crate) fn at(kind: StreamKind, position: Offset) -> Self {
        Self { kind, position, known: position, held: VecDeque::new(), fetching: false }
    }

    pub(crate) fn position(&self) -> Offset {
        self.position
    }

    /// Takes an event from a hint (registry, bus) and appends to `ready` what may be delivered now.
    pub(crate) fn offer(&mut self, event: Arc<Published>, ready: &mut Vec<Arc<Published>>) -> Need {
        let offset = event.offset_in(self.kind);
        self.known = self.known.max(offset);
        if offset <= self.position {
            return Need::Nothing;
        }
        if offset == self.position + 1 && !self.fetching {
            self.position = offset;
            ready.push(event);
            return Need::Nothing;
        }
        if self.held.len() == HELD {
            self.held.pop_front();
        }
        self.held.push_back(event);
        self.next_need()
    }

    /// Learns that the stream reaches to `head`, without the events.
    pub(crate) fn learn(&mut self, head: Offset) -> Need {
        self.known = self.known.max(head);
        if self.position < self.known { self.next_need() } else { Need::Nothing }
    }

    /// Takes the page asked for. Where history no longer reaches back to the gap, the gap is passed over.
    pub(crate) fn page(&mut self, page: Page, ready: &mut Vec<Arc<Published>>) -> Need {
        self.fetching = false;
        self.known = self.known.max(page.head);
        if page.events.is_empty() {
            // All that was missing is gone: what the store's end covers cannot be waited for.
            self.position = self.position.max(page.head);
            self.known = self.position;
        }
        for event in page.events {
            let offset = event.offset_in(self.kind);
            if offset > self.position {
                self.position = offset;
                ready.push(event);
            }
        }
        // What was held comes mostly in order; sorting makes it so, and by now it is short.
        let mut held = std::mem::take(&mut self.held);
        held.make_contiguous().sort_by_key(|event| event.offset_in(self.kind));
        for event in held {
            let offset = event.offset_in(self.kind);
            if offset == self.position + 1 {
                self.position = offset;
                ready.push(event);
            } else if offset > self.position {
                self.held.push_back(event);
            }
        }
        if self.position < self.known { self.next_need() } else { Need::Nothing }
    }

    /// The page asked for did not come; says what to ask for again.
    pub(crate) fn failed(&mut self) -> Need {
        self.fetching = false;
        if self.position < self.known { self.next_need() } else { Need::Nothing }
    }

    fn next_need(&mut self) -> Need {
        if self.fetching {
            Need::Nothing
        } else {
            self.fetching = true;
            Need::Page { after: self.position }
        }
    }
}

/// Asking for a stream's end: one question at a time, and one more where something came up meanwhile. However often a
/// store that does not answer is asked for, one question waits.
#[derive(Debug, Default)]
pub(crate) struct HeadQuery {
    under_way: bool,
    again: bool,
}

impl HeadQuery {
    /// Whether to ask now.
    pub(crate) fn ask(&mut self) -> bool {
        self.again = self.under_way;
        !std::mem::replace(&mut self.under_way, true)
    }

    /// Notes the answer. Whether to ask again: it may have been read before what came up.
    pub(crate) fn answered(&mut self) -> bool {
        self.under_way = std::mem::take(&mut self.again);
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::event;

    #[test]
    fn a_streams_end_is_asked_for_once_at_a_time_and_once_more() {
        let mut query = HeadQuery::default();
        assert!(query.ask());
        assert!(!query.ask() && !query.ask());
        assert!(query.answered(), "what came up meanwhile is looked at");
        assert!(!query.answered());
        assert!(query.ask());
        assert!(!query.answered());
    }

    fn stream(n: Offset) -> Vec<Arc<Published>> {
        (1..=n).map(|offset| event("alice", offset, offset)).collect()
    }

    fn offsets(events: &[Arc<Published>]) -> Vec<Offset> {
        events.iter().map(|event| event.offset_in(StreamKind::User)).collect()
    }

    #[test]
    fn the_next_one_is_delivered_and_an_earlier_one_dropped() {
        let events = stream(2);
        let (mut follower, mut ready) = (Follower::at(StreamKind::User, 0), Vec::new());
        for index in [0, 0, 1, 0] {
            assert_eq!(follower.offer(events[index].clone(), &mut ready), Need::Nothing);
        }
        assert_eq!(offsets(&ready), [1, 2]);
    }

    #[test]
    fn a_later_one_waits_until_the_gap_is_filled() {
        let events = stream(5);
        let (mut follower, mut ready) = (Follower::at(StreamKind::User, 1), Vec::new());
        assert_eq!(follower.offer(events[3].clone(), &mut ready), Need::Page { after: 1 });
        assert_eq!(follower.offer(events[4].clone(), &mut ready), Need::Nothing, "one page at a time");
        assert!(ready.is_empty());
        let page = Page { events: events[1..3].to_vec(), head: 3 };
        assert_eq!(follower.page(page, &mut ready), Need::Nothing);
        assert_eq!(offsets(&ready), [2, 3, 4, 5]);
    }

    #[test]
    fn history_that_no_longer_reaches_back_is_passed_over() {
        let events = stream(9);
        let (mut follower, mut ready) = (Follower::at(StreamKind::User, 1), Vec::new());
        follower.learn(9);
        assert_eq!(follower.page(Page { events: events[6..].to_vec(), head: 9 }, &mut ready), Need::Nothing);
        assert_eq!(offsets(&ready), [7, 8, 9]);
    }

    #[test]
    fn history_that_is_gone_altogether_is_not_waited_for() {
        let events = stream(9);
        let (mut follower, mut ready) = (Follower::at(StreamKind::User, 1), Vec::new());
        follower.learn(8);
        assert_eq!(follower.page(Page { events: Vec::new(), head: 8 }, &mut ready), Need::Nothing);
        assert_eq!(follower.offer(events[8].clone(), &mut ready), Need::Nothing);
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
            let (mut follower, mut ready) = (Follower::at(StreamKind::User, 0), Vec::new());
            let mut pending = None;
            let mut asked = 0;
            let mut serve = |follower: &mut Follower, ready: &mut Vec<_>, after: Offset| {
                asked += 1;
                if asked % fail_every == 0 {
                    return follower.failed();
                }
                let from = after as usize;
                let to = (from + page_size).min(events.len());
                follower.page(Page { events: events[from..to].to_vec(), head: 40 }, ready)
            };
            for (step, hint) in hints.into_iter().enumerate() {
                let need = follower.offer(events[hint].clone(), &mut ready);
                if let Need::Page { after } = need {
                    prop_assert!(pending.replace(after).is_none(), "two pages at once");
                }
                if step % 3 == 0 && let Some(after) = pending.take()
                    && let Need::Page { after } = serve(&mut follower, &mut ready, after) {
                        pending = Some(after);
                    }
            }
            let mut need = match pending {
                Some(after) => Need::Page { after },
                None => follower.learn(40),
            };
            while let Need::Page { after } = need {
                need = serve(&mut follower, &mut ready, after);
            }
            prop_assert_eq!(offsets(&ready), (1..=40).collect::<Vec<_>>());
        }
    }
}
