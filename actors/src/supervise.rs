//! Restarts long-lived tasks and actors that panic: neither tokio nor actix does. The hub reports which one is down.

use std::{
    collections::BTreeMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use actix::{Actor, Addr};
use futures_util::FutureExt as _;
use tokio::time::Instant;

use crate::metric_names;

/// The pause before the first restart. It doubles while the task keeps failing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A task that has run for this long counts as up again.
const STABLE: Duration = Duration::from_secs(2);
/// How often an actor is looked at: actix tells nobody when one panics.
const ACTOR_CHECK: Duration = Duration::from_millis(250);

/// The long-lived tasks of one node, and which of them are down. Cheap to clone.
#[derive(Clone, Default)]
pub struct Tasks {
    down: Arc<Mutex<BTreeMap<&'static str, usize>>>,
    #[cfg(any(test, feature = "testing"))]
    poisons: Arc<Mutex<BTreeMap<&'static str, Arc<tokio::sync::Notify>>>>,
}

impl Tasks {
    /// A task that panicked and does not run stably again; `None` where all run. `/readyz` names it.
    #[must_use]
    pub fn down(&self) -> Option<&'static str> {
        self.table().keys().next().copied()
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark_down(&self, name: &'static str) {
        tracing::error!(task = name, "task panicked; restarting it: report it with the panic above");
        metrics::counter!(metric_names::TASK_RESTARTS, "task" => name).increment(1);
        *self.table().entry(name).or_default() += 1;
    }

    fn mark_up(&self, name: &'static str) {
        let mut table = self.table();
        if let Some(count) = table.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                table.remove(name);
            }
        }
    }

    /// The names of all tasks that were started, actors apart.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.poisons.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Makes a task panic where it waits, to prove that it is restarted.
    #[cfg(any(test, feature = "testing"))]
    pub fn poison(&self, name: &str) {
        if let Some(poison) = self.poisons.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            poison.notify_one();
        }
    }

    #[cfg(any(test, feature = "testing"))]
    async fn poisonable(&self, name: &'static str, task: impl Future<Output = ()>) {
        let poison = self.poisons.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default().clone();
        tokio::select! {
            () = task => {}
            () = poison.notified() => panic!("{name} was told to panic"),
        }
    }

    /// Runs what `build` makes, and runs it anew after every panic, with backoff. Returns when it ends by itself.
    pub async fn keep_running<F: Future<Output = ()>>(&self, name: &'static str, mut build: impl FnMut() -> F) {
        metrics::counter!(metric_names::TASK_RESTARTS, "task" => name).increment(0);
        let mut is_down = false;
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            let task = build();
            #[cfg(any(test, feature = "testing"))]
            let task = self.poisonable(name, task);
            let task = AssertUnwindSafe(task).catch_unwind();
            tokio::pin!(task);
            let outcome = if is_down {
                tokio::select! {
                    outcome = &mut task => Some(outcome),
                    () = tokio::time::sleep(STABLE) => None,
                }
            } else {
                None
            };
            let outcome = match outcome {
                Some(outcome) => outcome,
                None => {
                    if std::mem::take(&mut is_down) {
                        self.mark_up(name);
                    }
                    task.await
                }
            };
            if outcome.is_ok() {
                if is_down {
                    self.mark_up(name);
                }
                return;
            }
            if !std::mem::replace(&mut is_down, true) {
                self.mark_down(name);
            }
            if started.elapsed() > STABLE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The address of an actor that is replaced when the actor ends. Cheap to clone.
pub(crate) struct ActorSlot<A: Actor>(Arc<RwLock<Addr<A>>>);

impl<A: Actor> Clone for ActorSlot<A> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<A: Actor<Context = actix::Context<A>>> ActorSlot<A> {
    pub(crate) fn new(addr: Addr<A>) -> Self {
        Self(Arc::new(RwLock::new(addr)))
    }

    /// The actor that runs now.
    pub(crate) fn addr(&self) -> Addr<A> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the actor by what `rebuild` starts whenever it has ended, with the same pauses as for tasks. Must run on
    /// the actor's thread. Never returns.
    pub(crate) async fn keep_running(self, name: &'static str, tasks: Tasks, rebuild: impl Fn() -> Addr<A>) {
        metrics::counter!(metric_names::TASK_RESTARTS, "task" => name).increment(0);
        let mut pause = FIRST_PAUSE;
        loop {
            let started = Instant::now();
            while self.addr().connected() {
                tokio::time::sleep(ACTOR_CHECK).await;
            }
            if started.elapsed() > STABLE {
                pause = FIRST_PAUSE;
            }
            tasks.mark_down(name);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = rebuild();
            tasks.mark_up(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_restarted_and_down_until_it_runs_stably() {
        let tasks = Tasks::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let (counted, supervised) = (runs.clone(), tasks.clone());
        let supervisor = async move {
            let build = move || {
                let run = counted.fetch_add(1, Ordering::SeqCst);
                async move {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    assert!(run >= 3, "fails three times");
                    tokio::time::sleep(Duration::from_secs(60)).await;
                }
            };
            supervised.keep_running("test", build).await;
        };
        let observer = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(tasks.down(), Some("test"));
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert_eq!((tasks.down(), runs.load(Ordering::SeqCst)), (None, 4));
        };
        tokio::join!(supervisor, observer);
        assert_eq!(runs.load(Ordering::SeqCst), 4, "a task that ends by itself is not restarted");
    }
}
