//! Turns that apps take one after the other, so that one with much work delays no other by more than a turn each.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use oriva_hub_actors::model::AppId;
use tokio::sync::oneshot;

/// A bounded number of turns at once. Apps that wait get them in rotation; within an app, who came first.
#[derive(Clone)]
pub(super) struct FairTurns(Arc<Mutex<State>>);

struct State {
    free: usize,
    /// Who waits, by app; the hub itself is `None`. Empty queues are removed.
    waiting: HashMap<Option<AppId>, VecDeque<oneshot::Sender<Turn>>>,
    /// The apps that wait, in the order of their next turns.
    rotation: VecDeque<Option<AppId>>,
}

/// The right to work now. Dropping it ends the turn.
pub(super) struct Turn(Arc<Mutex<State>>);

impl FairTurns {
    /// At most `at_once` turns at a time.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: at_once, waiting: HashMap::new(), rotation: VecDeque::new() })))
    }

    /// Waits for a turn of an app, or of the hub itself. Who stops waiting takes none.
    pub(super) async fn take(&self, app: Option<&AppId>) -> Turn {
        let waiter = {
            let mut state = lock(&self.0);
            if state.free > 0 {
                state.free -= 1;
                return Turn(self.0.clone());
            }
            let (sender, waiter) = oneshot::channel();
            let queue = state.waiting.entry(app.cloned()).or_default();
            queue.push_back(sender);
            if queue.len() == 1 {
                state.rotation.push_back(app.cloned());
            }
            waiter
        };
        // Every sender is kept until it has sent a turn.
        waiter.await.unwrap_or_else(|_| unreachable!("a waiting turn was dropped"))
    }
}

impl State {
    /// The next one in rotation, if anybody waits.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let app = self.rotation.pop_front()?;
        let queue = self.waiting.get_mut(&app)?;
        let next = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&app);
        } else {
            self.rotation.push_back(app);
        }
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        while let Some(next) = state.next() {
            if next.is_closed() {
                continue;
            }
            drop(state);
            // Who stopped waiting just now drops the turn that it was sent, which goes on to the next.
            drop(next.send(Self(self.0.clone())));
            return;
        }
        state.free += 1;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(name: &str) -> AppId {
        AppId::parse(name).unwrap()
    }

    #[tokio::test]
    async fn apps_take_turns_however_much_one_of_them_wants() {
        let turns = FairTurns::new(1);
        let first = turns.take(Some(&app("busy"))).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for name in ["busy", "busy", "busy", "quiet", "busy", "other"] {
            let (turns, order) = (turns.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _turn = turns.take(Some(&app(name))).await;
                order.lock().unwrap().push(name);
            }));
            tokio::task::yield_now().await;
        }
        // One that stops waiting costs nobody a turn.
        tasks.remove(1).abort();
        tokio::task::yield_now().await;
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), ["busy", "quiet", "other", "busy", "busy"]);
        assert_eq!(lock(&turns.0).free, 1);
    }
}
