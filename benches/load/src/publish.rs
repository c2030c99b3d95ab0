//! Publishers, closed loop (the next request when the last is answered) or open loop (requests are due at a rate, whatever
//! the hub does, and latency counts from when they were due).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};

use crate::{
    Failure,
    http::{Connection, request_with},
    measure::Counters,
    target::Target,
};

/// What to publish, and how fast.
#[derive(Debug, Clone, Copy)]
pub struct Publishing {
    /// Connections that publish.
    pub publishers: usize,
    /// Events a second over all of them; `None`: as fast as answers come.
    pub rate: Option<f64>,
    /// Number of users, who get events in turn. 0: events are broadcasts.
    pub users: usize,
    /// Bytes of an event's data, roughly.
    pub payload: usize,
}

/// Publishers at work.
pub struct Publishers {
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<Result<(), Failure>>>,
}

impl Publishers {
    pub fn start(target: &Target, publishing: Publishing, counters: &Arc<Counters>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (turn, begun) = (Arc::<AtomicU64>::default(), Instant::now());
        let lanes = (0..publishing.publishers)
            .map(|lane| {
                let (target, counters, stop, turn) = (target.clone(), counters.clone(), stop.clone(), turn.clone());
                tokio::spawn(async move {
                    let mut connection = Connection::open(target.addr(lane)).await?;
                    let path = target.path("/events");
                    let pad = "x".repeat(publishing.payload);
                    while !stop.load(Relaxed) {
                        let n = turn.fetch_add(1, Relaxed);
                        if let Some(rate) = publishing.rate {
                            tokio::time::sleep_until(begun + Duration::from_secs_f64(n as f64 / rate)).await;
                        }
                        let due = match publishing.rate {
                            // The moment when it was due, not when it was sent.
                            Some(rate) => {
                                let late = begun.elapsed().as_micros() as f64 - n as f64 / rate * 1e6;
                                counters.now_us().saturating_sub(late.max(0.0) as u64)
                            }
                            None => counters.now_us(),
                        };
                        let whom = match publishing.users {
                            0 => r#""audience":"all""#.to_owned(),
                            users => format!(r#""user_id":"{}""#, Target::user(n as usize % users)),
                        };
                        let body = format!(
                            r#"{{{whom},"event_category":"session","event_type":"load","entity_type":"bench","entity_id":"{n}","event_data":{{"due":{due},"pad":"{pad}"}}}}"#
                        );
                        let answer = connection.send(&request_with("POST", &path, &target.host, &target.key, &body)).await?;
                        let ok = answer.status == 200;
                        counters.answered(ok, counters.now_us().saturating_sub(due));
                    }
                    Ok(())
                })
            })
            .collect();
        Self { stop, lanes }
    }

    /// Returns when every request has its response.
    pub async fn stop(self) -> Result<(), Failure> {
        self.stop.store(true, Relaxed);
        for lane in self.lanes {
            lane.await.map_err(|error| Failure::Answer(error.to_string()))??;
        }
        Ok(())
    }
}
