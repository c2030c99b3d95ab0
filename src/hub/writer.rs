//! The one way into the event tables. Batches form by themselves: while a transaction runs, what arrives waits and goes
//! with the next, so an idle hub adds no delay and a busy one shares its commits.

use std::{sync::Arc, time::Instant};

use oriva_hub_actors::{
    Realtime, Tasks, Webhooks, metric_names,
    model::AppId,
    protocol::PublishedEvent,
    traces::{Span, SpanKind},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{error::HubError, idempotency::Idempotency, in_flight_keys::InFlightKeys};
use crate::store::{Appended, Operation, Origin, Store, StoreError, Submission, within_deadline};

/// Events that may wait, those being written included; past that a request is told to come back.
const WAITING_EVENTS: usize = 16 * 1024;
/// Events of one transaction; a single batch request may be as large.
const TRANSACTION_EVENTS: usize = 1000;

/// How often a submission is tried again that conflicts with another node's transaction.
const REPEATS: usize = 3;

struct Job {
    submission: Submission,
    answer: oneshot::Sender<Result<Appended, HubError>>,
    _room: OwnedSemaphorePermit,
}

/// The writer's handle.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::UnboundedSender<Job>,
    /// Bounds the queue by events, not by requests.
    room: Arc<Semaphore>,
    /// Idempotency keys whose first request is being written.
    in_flight: Arc<InFlightKeys>,
}

impl Writer {
    /// Starts the writer, which ends when its last handle is gone. What is committed is told to
    /// `online`, and `webhooks` are nudged to what they got.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, online: Realtime, webhooks: Webhooks, tasks: &Tasks) -> Self {
        let (queue, jobs) = mpsc::unbounded_channel();
        let (jobs, tasks) = (Arc::new(tokio::sync::Mutex::new(jobs)), tasks.clone());
        actix_rt::spawn(async move {
            let build = || {
                let (store, online, webhooks, jobs) = (store.clone(), online.clone(), webhooks.clone(), jobs.clone());
                async move { run(&*store, &online, &webhooks, &mut *jobs.lock().await).await }
            };
            tasks.keep_running("writer", build).await;
        });
        Self { queue, room: Arc::new(Semaphore::new(WAITING_EVENTS)), in_flight: Arc::default() }
    }

    /// Events that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        WAITING_EVENTS - self.room.available_permits()
    }

    /// Writes an operation. When it returns, the outcome is durable, and the users who are online have the events.
    ///
    /// # Errors
    /// [`HubError::Overloaded`] where too much waits already, or the database is away. If the connection broke during the
    /// commit, the operation may have been written all the same: a repeat under an idempotency key finds out.
    pub async fn write<O: Operation>(&self, app: &AppId, origin: Origin, operation: O) -> Result<O::Outcome, HubError> {
        self.write_submission::<O>(Submission::new(app, origin, operation)).await
    }

    /// Writes an operation once for its idempotency key.
    ///
    /// # Errors
    /// [`HubError::Conflict`] while another request under the same key is being written, and as [`Writer::write`].
    pub async fn write_once<O: Operation>(
        &self,
        app: &AppId,
        origin: Origin,
        operation: O,
        idempotency: Option<Idempotency>,
    ) -> Result<O::Outcome, HubError> {
        let Some(idempotency) = idempotency else { return self.write(app, origin, operation).await };
        let in_flight = self.in_flight.begin(app, &idempotency.key);
        let _in_flight = in_flight
            .ok_or_else(|| HubError::Conflict("a request with this Idempotency-Key is being worked on".to_owned()))?;
        let claim = Some(idempotency.into_claim());
        self.write_submission::<O>(Submission { claim, ..Submission::new(app, origin, operation) }).await
    }

    async fn write_submission<O: Operation>(&self, mut submission: Submission) -> Result<O::Outcome, HubError> {
        let mut span = Span::begin("transaction", SpanKind::Internal, submission.origin.trace);
        submission.origin.trace = span.context();
        let written = self.submit(submission).await;
        if let Err(error) = &written
            && span.is_recorded()
        {
            span.failed(error.to_string());
        }
        let appended = written?;
        tracing::debug!(events = appended.events.len(), "written");
        // The store answers each operation with its own outcome.
        O::outcome(appended.outcome).ok_or(HubError::Overloaded)
    }

    async fn submit(&self, submission: Submission) -> Result<Appended, HubError> {
        // One that is larger than all the room there is takes all of it.
        let count = u32::try_from(submission.work.weight().clamp(1, WAITING_EVENTS)).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(count).map_err(|_| HubError::Overloaded)?;
        let (answer, answered) = oneshot::channel();
        self.queue.send(Job { submission, answer, _room: room }).map_err(|_| HubError::Overloaded)?;
        answered.await.map_err(|_| HubError::Overloaded)?
    }
}

async fn run(store: &dyn Store, online: &Realtime, webhooks: &Webhooks, jobs: &mut mpsc::UnboundedReceiver<Job>) {
    let mut next = None;
    while let Some(first) = match next.take() {
        Some(job) => Some(job),
        None => jobs.recv().await,
    } {
        let mut events = first.submission.work.weight();
        let mut batch = vec![first];
        while let Ok(job) = jobs.try_recv() {
            events += job.submission.work.weight();
            if events > TRANSACTION_EVENTS {
                next = Some(job);
                break;
            }
            batch.push(job);
        }
        write_batch(store, online, webhooks, batch).await;
    }
}

async fn write_batch(store: &dyn Store, online: &Realtime, webhooks: &Webhooks, batch: Vec<Job>) {
    let (submissions, waiting): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|job| (job.submission, (job.answer, job._room))).unzip();
    let began = Instant::now();
    let appended = append(store, &submissions).await;
    metrics::histogram!(metric_names::WRITER_BATCH).record(submissions.len() as f64);
    metrics::histogram!(metric_names::WRITER_COMMIT).record(began.elapsed().as_secs_f64());
    let outcomes = match appended {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        // One that cannot be written must not take the others with it; and what stood in another node's way, or had it
        // in its own, goes through alone.
        Err(StoreError::Contended) => one_by_one(store, online, &submissions).await,
        Err(error) if submissions.len() > 1 && !matches!(error, StoreError::Unavailable(_)) => {
            one_by_one(store, online, &submissions).await
        }
        Err(error) => {
            if error.is_outcome_unknown() {
                online.resync_all_nodes();
            }
            let error = HubError::from(error);
            submissions.iter().map(|_| Err(error.clone())).collect::<Vec<_>>()
        }
    };
    let (mut committed, mut enqueued_for): (Vec<Arc<PublishedEvent>>, Vec<_>) = (Vec::new(), Vec::new());
    for outcome in outcomes.iter().flatten() {
        committed.extend_from_slice(&outcome.events);
        enqueued_for.extend_from_slice(&outcome.enqueued_for);
    }
    enqueued_for.sort_unstable();
    enqueued_for.dedup();
    // Told before the answers: in the order of commit, whatever the answered do next.
    online.publish(&committed);
    webhooks.nudge(enqueued_for);
    for (outcome, (answer, _room)) in outcomes.into_iter().zip(waiting) {
        // Nobody waits any more where the client went away; what is written is written.
        let _ = answer.send(outcome);
    }
}

async fn append(store: &dyn Store, submissions: &[Submission]) -> Result<Vec<Appended>, StoreError> {
    within_deadline(store, store.append(submissions)).await
}

async fn one_by_one(
    store: &dyn Store,
    online: &Realtime,
    submissions: &[Submission],
) -> Vec<Result<Appended, HubError>> {
    let mut outcomes = Vec::with_capacity(submissions.len());
    for submission in submissions {
        let mut outcome = append(store, std::slice::from_ref(submission)).await;
        for _ in 0..REPEATS {
            if !matches!(outcome, Err(StoreError::Contended)) {
                break;
            }
            outcome = append(store, std::slice::from_ref(submission)).await;
        }
        if outcome.as_ref().is_err_and(StoreError::is_outcome_unknown) {
            online.resync_all_nodes();
        }
        outcomes.push(outcome.map_err(HubError::from).and_then(|mut all| all.pop().ok_or(HubError::Overloaded)));
    }
    outcomes
}
