//! The one way to write events. Batches form by themselves: while a transaction runs, further submissions wait and go
//! into the next one. So an idle hub adds no delay, and a busy one shares its commits.

use std::{sync::Arc, time::Duration};

use oriva_hub_actors::{
    Realtime, Tasks, Webhooks, metric_names,
    model::AppId,
    protocol::PublishedEvent,
    traces::{Span, SpanKind},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

use super::{
    company::Company,
    error::HubError,
    idempotency::Idempotency,
    in_flight_keys::{InFlightKey, InFlightKeys},
    write_state::{WriteState, take_new_epoch},
};
use crate::store::{Appended, DEADLINE, KeyedOperation, Operation, Origin, Store, StoreError, Submission, before};

/// Greatest number of events in the queue, with those being written. Beyond it requests get 503.
const WAITING_EVENTS: usize = 16 * 1024;
/// Greatest size of the queue in KiB, with what is being written. Beyond it requests get 503.
const WAITING_KIB: usize = 64 * 1024;
/// A submission takes no more of the queue's memory than this, however large it is: or it would find room only when
/// nobody else writes.
const SUBMISSION_KIB: usize = WAITING_KIB / 4;
/// A transaction takes no further submission that would bring it over this many events. The first may have more alone.
const TRANSACTION_EVENTS: usize = 1000;
/// A transaction takes no further submission once it has this many bytes.
const TRANSACTION_BYTES: usize = 4 * 1024 * 1024;

/// How often a submission is tried again that conflicts with another node's transaction although it is alone in its own.
const REPEATS: usize = 3;
/// What a transaction may take at least, however long its submissions have waited for the one before.
const LEAST_TIME: Duration = Duration::from_secs(1);

struct Job {
    submission: Submission,
    since: Instant,
    waiting: Waiting,
}

/// The request that waits for a job, and what it holds until it has its answer, even if its client goes away.
struct Waiting {
    answer: oneshot::Sender<Result<Appended, HubError>>,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    _in_flight: Option<InFlightKey>,
}

/// The writer's handle.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::UnboundedSender<Job>,
    /// Bounds the queue by events, not by requests.
    events: Arc<Semaphore>,
    /// Bounds the queue by memory.
    kib: Arc<Semaphore>,
    /// Idempotency keys whose first request is being written.
    in_flight: InFlightKeys,
    state: WriteState,
}

impl Writer {
    /// Starts the writer. It ends when its last handle is dropped. Committed events go to `realtime`, and `webhooks` are
    /// nudged. `epoch` is the store's. `logs_events`: each event has a line in the log.
    #[must_use]
    pub fn start(
        store: &Arc<dyn Store>,
        realtime: &Realtime,
        webhooks: &Webhooks,
        epoch: Arc<str>,
        logs_events: bool,
        tasks: &Tasks,
    ) -> Self {
        let (queue, jobs) = mpsc::unbounded_channel();
        let (jobs, tasks) = (Arc::new(tokio::sync::Mutex::new(jobs)), tasks.clone());
        let state = WriteState::default();
        let (realtime, webhooks) = (realtime.clone(), webhooks.clone());
        let after = AfterCommit { realtime, webhooks, epoch, logs_events, state: state.clone() };
        let store = store.clone();
        actix_rt::spawn(async move {
            let mut is_restart = false;
            let build = || {
                let (store, after, jobs) = (store.clone(), after.clone(), jobs.clone());
                if std::mem::replace(&mut is_restart, true) {
                    // The one that panicked may have committed what it did not publish.
                    after.realtime.resync_all_nodes();
                }
                async move { run(&*store, &after, &mut *jobs.lock().await).await }
            };
            tasks.keep_running("writer", build).await;
        });
        Self {
            queue,
            events: Arc::new(Semaphore::new(WAITING_EVENTS)),
            kib: Arc::new(Semaphore::new(WAITING_KIB)),
            in_flight: InFlightKeys::default(),
            state,
        }
    }

    /// Whether the store takes writes.
    #[must_use]
    pub fn state(&self) -> WriteState {
        self.state.clone()
    }

    /// Number of events in the queue, with those being written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        WAITING_EVENTS - self.events.available_permits()
    }

    /// Writes an operation. When it returns, the outcome is durable, and the events are on their way to the users who
    /// are online.
    ///
    /// # Errors
    /// [`HubError::Overloaded`] where too much waits already, or the database is away. If the connection broke during the
    /// commit, the operation may have been written all the same: a repeat under an idempotency key finds out.
    pub async fn write<O: Operation>(&self, app: &AppId, origin: Origin, operation: O) -> Result<O::Outcome, HubError> {
        self.write_submission::<O>(Submission::new(app, origin, operation), None).await
    }

    /// Writes an operation once for its idempotency key.
    ///
    /// # Errors
    /// [`HubError::Conflict`] while another request under the same key is being written, and as [`Writer::write`].
    pub async fn write_once<O: KeyedOperation>(
        &self,
        app: &AppId,
        origin: Origin,
        operation: O,
        idempotency: Option<Idempotency>,
    ) -> Result<O::Outcome, HubError> {
        let Some(idempotency) = idempotency else { return self.write(app, origin, operation).await };
        let in_flight = self.in_flight.begin(app, &idempotency.key);
        let in_flight = in_flight
            .ok_or_else(|| HubError::Conflict("a request with this Idempotency-Key is being worked on".to_owned()))?;
        let claim = Some(idempotency.into_claim());
        self.write_submission::<O>(Submission { claim, ..Submission::new(app, origin, operation) }, Some(in_flight))
            .await
    }

    async fn write_submission<O: Operation>(
        &self,
        mut submission: Submission,
        in_flight: Option<InFlightKey>,
    ) -> Result<O::Outcome, HubError> {
        let mut span = Span::begin("transaction", SpanKind::Internal, submission.origin.trace);
        submission.origin.trace = span.context();
        let written = self.submit(submission, in_flight).await;
        if let Err(error) = &written
            && span.is_recorded()
        {
            span.failed(error.to_string());
        }
        let appended = written?;
        tracing::debug!(events = appended.events.len(), "written");
        O::outcome(appended.outcome).ok_or(HubError::Bug("the store answered with another operation's outcome"))
    }

    async fn submit(&self, submission: Submission, in_flight: Option<InFlightKey>) -> Result<Appended, HubError> {
        let events = submission.work.weight().clamp(1, WAITING_EVENTS);
        let kib = (submission.work.bytes() / 1024).clamp(1, SUBMISSION_KIB);
        let acquire = |of: &Arc<Semaphore>, count| {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            of.clone().try_acquire_many_owned(count).map_err(|_| HubError::Overloaded)
        };
        let permits = (acquire(&self.events, events)?, acquire(&self.kib, kib)?);
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { answer, _permits: permits, _in_flight: in_flight };
        self.queue.send(Job { submission, since: Instant::now(), waiting }).map_err(|_| HubError::Overloaded)?;
        // No answer: the writer panicked. What it wrote, if anything, is not known.
        answered.await.map_err(|_| HubError::Overloaded)?
    }
}

/// What happens to committed events.
#[derive(Clone)]
struct AfterCommit {
    realtime: Realtime,
    webhooks: Webhooks,
    epoch: Arc<str>,
    logs_events: bool,
    state: WriteState,
}

impl AfterCommit {
    /// Writes one line for each event, without its data.
    fn log(&self, committed: &[Arc<PublishedEvent>]) {
        if !self.logs_events {
            return;
        }
        for published in committed {
            let event = published.event();
            tracing::info!(
                event_id = %event.id,
                app_id = %event.app_id,
                // Quoted and escaped: an id may have any visible character.
                user_id = event.user_id.as_ref().map(|user| tracing::field::debug(user.as_str())),
                event_type = published.full_type(),
                offset = event.offsets.app,
                "event published"
            );
        }
    }
}

async fn run(store: &dyn Store, after: &AfterCommit, jobs: &mut mpsc::UnboundedReceiver<Job>) {
    let mut next = None;
    let mut company = Company::default();
    while let Some(first) = match next.take() {
        Some(job) => Some(job),
        None => jobs.recv().await,
    } {
        let mut events = first.submission.work.weight();
        let mut bytes = first.submission.work.bytes();
        let mut batch = vec![first];
        let mut gathering = company.gather();
        while bytes < TRANSACTION_BYTES
            && let Some(job) = gathering.next(jobs, batch.len()).await
        {
            events += job.submission.work.weight();
            bytes += job.submission.work.bytes();
            if events > TRANSACTION_EVENTS {
                next = Some(job);
                break;
            }
            batch.push(job);
        }
        company.gathered(&gathering);
        let (size, began) = (batch.len(), Instant::now());
        write_batch(store, after, batch).await;
        company.wrote(size, jobs.len() + usize::from(next.is_some()), began.elapsed());
    }
}

async fn write_batch(store: &dyn Store, after: &AfterCommit, batch: Vec<Job>) {
    let AfterCommit { realtime, webhooks, .. } = after;
    // What nobody waits for any more is not written: its client was told so, or is gone.
    let batch: Vec<Job> = batch.into_iter().filter(|job| !job.waiting.answer.is_closed()).collect();
    if batch.is_empty() {
        return;
    }
    let oldest = batch.iter().map(|job| job.since).min();
    let writing = after.state.writing(oldest);
    let began = Instant::now();
    // Submissions that have waited for a batch without an answer do not wait as long again.
    let deadline = oldest.map_or(began, |oldest| (oldest + DEADLINE).max(began + LEAST_TIME));
    let (submissions, waiting): (Vec<_>, Vec<_>) = batch.into_iter().map(|job| (job.submission, job.waiting)).unzip();
    let outcomes = write_all(store, after, &submissions, deadline).await;
    drop(writing);
    metrics::histogram!(metric_names::WRITER_BATCH).record(submissions.len() as f64);
    metrics::histogram!(metric_names::WRITER_COMMIT).record(began.elapsed().as_secs_f64());
    let (mut committed, mut enqueued_for): (Vec<Arc<PublishedEvent>>, Vec<_>) = (Vec::new(), Vec::new());
    for outcome in outcomes.iter().flatten() {
        committed.extend_from_slice(&outcome.events);
        enqueued_for.extend_from_slice(&outcome.enqueued_for);
    }
    enqueued_for.sort_unstable();
    enqueued_for.dedup();
    // Published before the answers, in the order of commits, whatever the callers do next.
    realtime.publish(&committed);
    webhooks.nudge(enqueued_for);
    for (outcome, Waiting { answer, _permits, _in_flight }) in outcomes.into_iter().zip(waiting) {
        // Before the answer: a client that has it may send the same key again at once.
        drop((_permits, _in_flight));
        // Fails if the client went away. What is written stays written.
        let _ = answer.send(outcome);
    }
    after.log(&committed);
}

/// Writes all in one transaction. If the database refuses that, writes them one by one: one that cannot be written must not
/// fail the others, and one that conflicted with another node's transaction succeeds alone.
async fn write_all(
    store: &dyn Store,
    after: &AfterCommit,
    submissions: &[Submission],
    deadline: Instant,
) -> Vec<Result<Appended, HubError>> {
    match append(store, after, submissions, deadline).await {
        Ok(outcomes) => outcomes.into_iter().map(Ok).collect(),
        Err(StoreError::Contended) => one_by_one(store, after, submissions, deadline).await,
        Err(error) if submissions.len() > 1 && is_of_one(&error) => {
            one_by_one(store, after, submissions, deadline).await
        }
        Err(error) => {
            let error = HubError::from(error);
            submissions.iter().map(|_| Err(error.clone())).collect()
        }
    }
}

/// Whether another submission may succeed after this one failed so.
fn is_of_one(error: &StoreError) -> bool {
    error.outage().is_none() && !matches!(error, StoreError::LostCommits)
}

async fn append(
    store: &dyn Store,
    after: &AfterCommit,
    submissions: &[Submission],
    deadline: Instant,
) -> Result<Vec<Appended>, StoreError> {
    let appended = before(store, deadline, store.append(submissions)).await;
    match &appended {
        Ok(_) => after.state.succeeded(),
        Err(StoreError::LostCommits) => take_new_epoch(store, &after.epoch, &after.state).await,
        Err(error) => {
            after.state.failed(error);
            if error.is_outcome_unknown() {
                after.realtime.resync_all_nodes();
            }
        }
    }
    appended
}

/// The first that fails for want of a lock, a connection or time fails the rest: each would wait for the same.
async fn one_by_one(
    store: &dyn Store,
    after: &AfterCommit,
    submissions: &[Submission],
    deadline: Instant,
) -> Vec<Result<Appended, HubError>> {
    let mut outcomes = Vec::with_capacity(submissions.len());
    let mut is_over = false;
    for submission in submissions {
        if is_over {
            outcomes.push(Err(HubError::Overloaded));
            continue;
        }
        let one = std::slice::from_ref(submission);
        let mut outcome = append(store, after, one, deadline).await;
        for _ in 0..REPEATS {
            if !matches!(outcome, Err(StoreError::Contended)) {
                break;
            }
            outcome = append(store, after, one, deadline).await;
        }
        is_over = outcome.as_ref().is_err_and(|error| !matches!(error, StoreError::Contended) && !is_of_one(error));
        outcomes.push(
            outcome
                .map_err(HubError::from)
                .and_then(|mut all| all.pop().ok_or(HubError::Bug("the store did not answer a submission"))),
        );
    }
    outcomes
}
