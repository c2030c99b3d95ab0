//! Whether a batch waits for those who are about to come. Publishers that send the next event when the last one is answered
//! all send at once when a batch is done; without waiting, they miss the next one, and each waits for two. A batch that waited
//! in vain makes the next ones wait less often.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};

/// A batch waits for company no longer than the last one took to write, divided by this.
const SHARE: u32 = 3;
/// Nor longer than this: a database that stood still for seconds says nothing of the next batch.
const MOST: Duration = Duration::from_millis(20);
/// Waiting less than the timer's resolution is not possible.
const LEAST: Duration = Duration::from_millis(1);
/// A batch of this many shares its way to the store well enough.
const ENOUGH: usize = 64;
/// Greatest number of batches between two attempts to wait, where waiting was in vain.
const MOST_PASSED: u32 = 64;

/// What the batches before tell about the next.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// How many submissions may come: those that the last batch had, whose publishers go on, and those that waited for its end.
    expected: usize,
    /// How long writing the last one took.
    took: Duration,
    /// How many batches pass before one waits again.
    pass: u32,
    passed: u32,
}

/// One batch being gathered.
#[derive(Debug)]
pub(super) struct Gathering {
    expected: usize,
    /// Until when it waits. `None`: it takes what is there.
    until: Option<Instant>,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    DidNotWait,
    Came,
    InVain,
}

impl Company {
    pub(super) fn gather(&mut self) -> Gathering {
        let patience = (self.took / SHARE).min(MOST);
        let is_worth_it = (2..ENOUGH).contains(&self.expected) && patience >= LEAST;
        if is_worth_it && self.passed < self.pass {
            self.passed += 1;
            return Gathering { expected: 0, until: None, outcome: Outcome::DidNotWait };
        }
        let until = is_worth_it.then(|| Instant::now() + patience);
        Gathering { expected: self.expected, until, outcome: Outcome::DidNotWait }
    }

    pub(super) fn gathered(&mut self, gathering: &Gathering) {
        match gathering.outcome {
            Outcome::DidNotWait => {}
            Outcome::Came => (self.pass, self.passed) = (0, 0),
            Outcome::InVain => (self.pass, self.passed) = ((self.pass * 2 + 1).min(MOST_PASSED), 0),
        }
    }

    /// A batch of so many submissions is written, and others waited meanwhile.
    pub(super) fn wrote(&mut self, submissions: usize, waiting: usize, took: Duration) {
        (self.expected, self.took) = (submissions + waiting, took);
    }
}

impl Gathering {
    /// The next submission. `None` where the batch waits for none.
    pub(super) async fn next<T>(&mut self, queue: &mut mpsc::UnboundedReceiver<T>, size: usize) -> Option<T> {
        if let Ok(one) = queue.try_recv() {
            return Some(one);
        }
        let until = self.until?;
        if size >= self.expected {
            self.outcome = Outcome::Came;
            return None;
        }
        let one = tokio::time::timeout_at(until, queue.recv()).await;
        if one.is_err() {
            // Where publishers do not wait for each other, about as much of the usual size comes as is waited of the usual time.
            self.outcome = if size * 4 >= self.expected * 3 { Outcome::Came } else { Outcome::InVain };
        }
        one.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gathers a batch from a queue; returns its size and how long that took.
    async fn gathered(company: &mut Company, queue: &mut mpsc::UnboundedReceiver<()>) -> (usize, Duration) {
        let began = Instant::now();
        let mut gathering = company.gather();
        let mut size = usize::from(queue.recv().await.is_some());
        while gathering.next(queue, size).await.is_some() {
            size += 1;
        }
        company.gathered(&gathering);
        (size, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_for_the_publishers_of_the_last_one() {
        let (sender, mut queue) = mpsc::unbounded_channel();
        let mut company = Company::default();
        company.wrote(2, 1, Duration::from_millis(30));
        sender.send(()).unwrap();
        tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let _ = sender.send(());
            }
            std::future::pending::<()>().await;
        });
        assert_eq!(gathered(&mut company, &mut queue).await, (3, Duration::from_millis(4)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_stood_still_makes_nobody_wait_as_long() {
        let (sender, mut queue) = mpsc::unbounded_channel();
        let mut company = Company::default();
        company.wrote(2, 0, Duration::from_secs(15));
        sender.send(()).unwrap();
        assert_eq!(gathered(&mut company, &mut queue).await, (1, MOST));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_in_vain_becomes_rare() {
        let (sender, mut queue) = mpsc::unbounded_channel();
        let mut company = Company::default();
        let mut waited = 0;
        for _ in 0..1000 {
            company.wrote(2, 0, Duration::from_millis(30));
            sender.send(()).unwrap();
            let (size, took) = gathered(&mut company, &mut queue).await;
            assert!(size == 1 && took <= Duration::from_millis(10), "a third of what the last one took");
            waited += u32::from(!took.is_zero());
        }
        assert!((1..=24).contains(&waited), "{waited}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_publisher_a_fast_store_and_a_large_batch_wait_for_nobody() {
        let (sender, mut queue) = mpsc::unbounded_channel();
        let mut company = Company::default();
        let slow = Duration::from_millis(30);
        for (size, took) in [(1, slow), (8, Duration::from_millis(2)), (ENOUGH, slow)] {
            company.wrote(size, 0, took);
            sender.send(()).unwrap();
            assert_eq!(gathered(&mut company, &mut queue).await, (1, Duration::ZERO));
        }
    }
}
