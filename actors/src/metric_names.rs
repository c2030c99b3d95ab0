//! The names and help texts of all metrics. `docs/OPERATING.md` explains them; a test compares it with this list.

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Durations or sizes, as buckets, sum and count.
    Histogram,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// What its values do.
    pub kind: Kind,
    /// The `# HELP` line.
    pub help: &'static str,
}

macro_rules! metric_table {
    ($($ident:ident: $kind:ident = $name:literal, $help:literal;)*) => {
        $(#[doc = $help]
        pub const $ident: &str = $name;)*

        /// All metrics.
        pub const ALL: &[Metric] = &[$(Metric { name: $name, kind: Kind::$kind, help: $help }),*];
    };
}

metric_table! {
    BUILD: Gauge = "oriva_build_info", "Always 1; the label says which version runs.";
    HTTP_REQUESTS: Histogram = "oriva_http_request_duration_seconds", "Requests by method, route and status, and how long they took.";
    STREAMS_OPENED: Counter = "oriva_streams_opened_total", "Sockets that were let in.";
    STREAMS_REFUSED: Counter = "oriva_streams_refused_total", "Upgrades that were refused, by error code.";
    SOCKETS: Gauge = "oriva_sockets", "Sockets open on this node.";
    SESSIONS: Gauge = "oriva_sessions", "Users and apps online on this node.";
    TASK_RESTARTS: Counter = "oriva_task_restarts_total", "Restarts of long-lived tasks that panicked, by task.";
    SOCKET_CLOSES: Counter = "oriva_socket_closes_total", "Sockets that the hub closed, by close code; 4008 is a client that was too slow.";
    FRAMES_SENT: Counter = "oriva_frames_sent_total", "Frames queued for sockets, heartbeats and closes among them.";
    BYTES_SENT: Counter = "oriva_frame_bytes_sent_total", "Bytes of those frames.";
    DELIVERY_LATENCY: Histogram = "oriva_delivery_latency_seconds", "From when this node wrote an event, or heard it from another, until its sockets were given it.";
    GAP_PAGES: Counter = "oriva_gap_pages_total", "Pages read from the store because an event was missed or overtaken, by stream.";
    OVERFLOWS: Counter = "oriva_session_overflows_total", "Messages that did not fit a session's mailbox; it then compares itself with the store.";
    BUS_STATE: Gauge = "oriva_bus_state", "1 for the state that this node's bus is in: none, connected, away, split.";
    WRITER_BATCH: Histogram = "oriva_writer_batch_submissions", "Submissions that shared one transaction.";
    WRITER_COMMIT: Histogram = "oriva_writer_commit_duration_seconds", "How long such a transaction took.";
    WRITER_QUEUE: Gauge = "oriva_writer_queue_events", "Events that wait to be written, those being written among them.";
    STORE_CONNECTIONS: Gauge = "oriva_store_connections", "Connections to the store, by whether they are idle or in use.";
    STORE_LOG_BYTES: Gauge = "oriva_store_log_bytes", "Size of SQLite's write-ahead log.";
    LOG_LINES_DROPPED: Counter = "oriva_log_lines_dropped_total", "Lines of the log that were dropped because nobody reads it.";
    COUNTING: Gauge = "oriva_counting_shared", "1 while limits and presence are counted as configured, 0 while this node counts alone although it should not.";
    STORE_FSYNC: Gauge = "oriva_store_fsync", "1 where PostgreSQL runs with fsync; 0 where a power cut loses what was acknowledged.";
    ATTEMPTS: Histogram = "oriva_webhook_attempt_duration_seconds", "Attempts at webhooks by outcome, and how long they took.";
    DELIVERIES_IN_FLIGHT: Gauge = "oriva_webhook_deliveries_in_flight", "Deliveries that this node has claimed.";
    CLOCK_AHEAD: Gauge = "oriva_clock_ahead_seconds", "How far this node's clock is ahead of the database's; negative where it is behind.";
    OLDEST_DUE: Gauge = "oriva_webhook_oldest_due_seconds", "For how long the oldest delivery has been due; 0 where none is.";
    WORKER_RUNS: Counter = "oriva_worker_runs_total", "Runs of the hub's own workers, by worker and outcome.";
    WORKER_SUCCESS: Gauge = "oriva_worker_last_success_timestamp_seconds", "When a worker last did its run, in seconds since 1970.";
    ANSWERS_PENDING: Gauge = "oriva_http_pending_answer_bytes", "Bytes of answers that their clients have not read yet.";
    CACHE_LOOKUPS: Counter = "oriva_cache_lookups_total", "Lookups by cache and outcome (hit, miss).";
    ROWS_RETIRED: Counter = "oriva_rows_retired_total", "Rows that retention archived or deleted, by table.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_convention_and_are_their_own() {
        let mut names: Vec<&str> = ALL.iter().map(|measure| measure.name).collect();
        assert!(names.iter().all(|name| name.starts_with("oriva_")));
        for Metric { name, kind, .. } in ALL {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
