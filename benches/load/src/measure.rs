//! What is measured: latencies, counts by second, and what processes cost.

use std::{
    cell::RefCell,
    fs,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The longest latency that is told apart, in µs.
const LONGEST_US: u64 = 120_000_000;

/// A fresh histogram of µs.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_US, 3).expect("bounds that hold")
}

/// What happened, counted by whoever sees it.
pub struct Counters {
    begun: Instant,
    delivered: AtomicU64,
    lost: AtomicU64,
    repeated: AtomicU64,
    pings: AtomicU64,
    closed: AtomicU64,
    requests: AtomicU64,
    refused: AtomicU64,
    latency: Mutex<(Histogram<u64>, Histogram<u64>)>,
    answered: Mutex<(Histogram<u64>, Histogram<u64>)>,
}

thread_local! {
    /// Latencies of this thread that nobody has yet, so that sockets do not wait for each other at one lock.
    static PENDING: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}
/// How many a thread keeps before it hands them over.
const PENDING_AT_MOST: usize = 256;

impl Default for Counters {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            delivered: AtomicU64::default(),
            lost: AtomicU64::default(),
            repeated: AtomicU64::default(),
            pings: AtomicU64::default(),
            closed: AtomicU64::default(),
            requests: AtomicU64::default(),
            refused: AtomicU64::default(),
            latency: Mutex::new((histogram(), histogram())),
            answered: Mutex::new((histogram(), histogram())),
        }
    }
}

impl Counters {
    /// µs on the tool's clock; what events carry as `due`.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub fn delivered(&self, latency_us: Option<u64>) {
        self.delivered.fetch_add(1, Relaxed);
        let Some(latency) = latency_us else { return };
        PENDING.with_borrow_mut(|pending| {
            pending.push(latency);
            if pending.len() >= PENDING_AT_MOST {
                self.hand_over(pending);
            }
        });
    }

    fn hand_over(&self, pending: &mut Vec<u64>) {
        let mut both = lock(&self.latency);
        for latency in pending.drain(..) {
            both.0.saturating_record(latency);
            both.1.saturating_record(latency);
        }
    }

    /// Hands over what this thread still has.
    pub fn settle(&self) {
        PENDING.with_borrow_mut(|pending| self.hand_over(pending));
    }

    pub fn lost(&self, count: u64) {
        self.lost.fetch_add(count, Relaxed);
    }

    pub fn repeated(&self) {
        self.repeated.fetch_add(1, Relaxed);
    }

    pub fn pinged(&self) {
        self.pings.fetch_add(1, Relaxed);
    }

    pub fn closed(&self) {
        self.closed.fetch_add(1, Relaxed);
    }

    /// A request was answered so long after it was due.
    pub fn answered(&self, ok: bool, latency_us: u64) {
        self.requests.fetch_add(1, Relaxed);
        if !ok {
            self.refused.fetch_add(1, Relaxed);
            return;
        }
        let mut both = lock(&self.answered);
        both.0.saturating_record(latency_us);
        both.1.saturating_record(latency_us);
    }

    /// Forgets what was so far: the warm-up.
    pub fn reset(&self) {
        self.settle();
        for counter in [&self.delivered, &self.requests, &self.refused] {
            counter.store(0, Relaxed);
        }
        *lock(&self.latency) = (histogram(), histogram());
        *lock(&self.answered) = (histogram(), histogram());
    }

    pub fn count_delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    pub fn count_requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// The second that just ended.
    fn second(&self) -> (Latency, Latency) {
        let take = |both: &Mutex<(Histogram<u64>, Histogram<u64>)>| {
            let mut both = lock(both);
            let latency = Latency::from_histogram(&both.1);
            both.1.reset();
            latency
        };
        (take(&self.latency), take(&self.answered))
    }

    pub fn totals(&self) -> Totals {
        Totals {
            delivered: self.delivered.load(Relaxed),
            lost: self.lost.load(Relaxed),
            repeated: self.repeated.load(Relaxed),
            closed: self.closed.load(Relaxed),
            requests: self.requests.load(Relaxed),
            refused: self.refused.load(Relaxed),
            delivery: Latency::from_histogram(&lock(&self.latency).0),
            answer: Latency::from_histogram(&lock(&self.answered).0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Percentiles, in µs.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Latency {
    pub fn from_histogram(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| if histogram.is_empty() { 0 } else { histogram.value_at_quantile(quantile) };
        Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: histogram.max(),
        }
    }
}

/// What was counted over a whole run.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Totals {
    pub delivered: u64,
    pub lost: u64,
    pub repeated: u64,
    pub closed: u64,
    pub requests: u64,
    pub refused: u64,
    /// From when an event was due until a socket had it.
    pub delivery: Latency,
    /// From when a request was due until it was answered.
    pub answer: Latency,
}

/// What a process has cost so far.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time of all its threads, in seconds.
    pub cpu_seconds: f64,
    /// Resident, its share of what is shared: Pss, in KiB.
    pub memory_kib: u64,
}

/// Looks at a process, where it is one of this machine's.
pub fn cost(pid: u32) -> Option<Cost> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields behind the name, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let line = |file: &str, name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        text.lines().find(|line| line.starts_with(name))?.split_whitespace().nth(1)?.parse().ok()
    };
    let memory_kib = line("smaps_rollup", "Pss:").or_else(|| line("status", "VmRSS:"))?;
    // The kernel's clock ticks are hundredths of a second wherever Linux runs as it is shipped.
    Some(Cost { cpu_seconds: ticks as f64 / 100.0, memory_kib })
}

/// One second of a run.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Second {
    pub at_seconds: f64,
    pub connections: u64,
    pub delivered: u64,
    pub requests: u64,
    pub delivery: Latency,
    pub answer: Latency,
    pub server: Option<Cost>,
    pub client: Option<Cost>,
}

/// Writes down every second of a run until it is dropped.
pub struct Recorder {
    seconds: Arc<Mutex<Vec<Second>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    pub fn start(
        counters: &Arc<Counters>,
        connections: &Arc<AtomicU64>,
        pids: Vec<u32>,
        show: impl Fn(&Second) + Send + 'static,
    ) -> Self {
        let seconds = Arc::<Mutex<Vec<Second>>>::default();
        let (counters, connections, into) = (counters.clone(), connections.clone(), seconds.clone());
        let task = tokio::spawn(async move {
            let (begun, mut before) = (Instant::now(), (0, 0));
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let now = (counters.count_delivered(), counters.count_requests());
                let (delivery, answer) = counters.second();
                let second = Second {
                    at_seconds: begun.elapsed().as_secs_f64(),
                    connections: connections.load(Relaxed),
                    // A reset in between counts from the reset.
                    delivered: now.0.checked_sub(before.0).unwrap_or(now.0),
                    requests: now.1.checked_sub(before.1).unwrap_or(now.1),
                    delivery,
                    answer,
                    server: sum(&pids),
                    client: cost(std::process::id()),
                };
                before = now;
                show(&second);
                lock(&into).push(second);
            }
        });
        Self { seconds, task }
    }

    pub fn seconds(&self) -> Vec<Second> {
        lock(&self.seconds).clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The cost of several processes together: a hub's nodes, or a server and its database.
pub fn sum(pids: &[u32]) -> Option<Cost> {
    let costs: Vec<Cost> = pids.iter().filter_map(|pid| cost(*pid)).collect();
    (!costs.is_empty()).then(|| Cost {
        cpu_seconds: costs.iter().map(|cost| cost.cpu_seconds).sum(),
        memory_kib: costs.iter().map(|cost| cost.memory_kib).sum(),
    })
}
