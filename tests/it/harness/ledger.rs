//! Publishes under load, and keeps a ledger: events acknowledged, and events received on each socket. Both must be
//! equal at the end.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{App, Socket};

/// Where nodes listen now.
pub type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

/// The n-th of the present addresses.
fn pick(addresses: &Addresses, n: usize) -> Option<SocketAddr> {
    let addresses = addresses.lock().expect("no thread panicked");
    (!addresses.is_empty()).then(|| addresses[n % addresses.len()])
}

/// Publishers that go on after a failed request.
pub struct Load {
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<()>>,
    ledger: Arc<Ledger>,
}

/// The responses that publishers got.
#[derive(Default)]
pub struct Ledger {
    acknowledged: Mutex<Vec<(u64, String)>>,
    /// The status of every response other than 200.
    refused: Mutex<Vec<u16>>,
    /// Requests without a response: their node was killed.
    unanswered: AtomicUsize,
}

impl Ledger {
    pub fn acknowledged(&self) -> Vec<(u64, String)> {
        self.acknowledged.lock().expect("no thread panicked").clone()
    }

    pub fn refused(&self) -> Vec<u16> {
        self.refused.lock().expect("no thread panicked").clone()
    }

    pub fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::SeqCst)
    }
}

impl Load {
    /// Starts `lanes` publishers, which go round the nodes and pause between two events.
    pub fn start(app: &App, addresses: &Addresses, user: &str, lanes: usize, pause: Duration) -> Self {
        let (stop, ledger) = (Arc::new(AtomicBool::new(false)), Arc::new(Ledger::default()));
        let lanes = (0..lanes)
            .map(|lane| {
                let (app, addresses, user) = (app.clone(), addresses.clone(), user.to_owned());
                let (stop, ledger) = (stop.clone(), ledger.clone());
                tokio::spawn(async move {
                    for n in 0_usize.. {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let Some(addr) = pick(&addresses, lane + n) else {
                            tokio::time::sleep(pause).await;
                            continue;
                        };
                        let event = App::event(&user, format!("{lane}-{n}"));
                        let url = format!("http://{addr}/api/v1/apps/{}/events", app.id);
                        let request = app.client().post(url).bearer_auth(&app.key).json(&event);
                        let request = request.timeout(Duration::from_secs(30));
                        match request.send().await {
                            Ok(answer) if answer.status() == 200 => match answer.json::<Value>().await {
                                Ok(body) => {
                                    let id = body["event_id"].as_str().expect("an id").to_owned();
                                    let offset = body["offset"].as_u64().expect("an offset");
                                    ledger.acknowledged.lock().expect("no thread panicked").push((offset, id));
                                }
                                Err(_) => drop(ledger.unanswered.fetch_add(1, Ordering::SeqCst)),
                            },
                            Ok(answer) => {
                                ledger.refused.lock().expect("no thread panicked").push(answer.status().as_u16());
                                tokio::time::sleep(pause * 5).await;
                            }
                            Err(_) => {
                                ledger.unanswered.fetch_add(1, Ordering::SeqCst);
                                tokio::time::sleep(pause * 5).await;
                            }
                        }
                        tokio::time::sleep(pause).await;
                    }
                })
            })
            .collect();
        Self { stop, lanes, ledger }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Stops the publishers when all open requests have their response.
    pub async fn stop(self) -> Arc<Ledger> {
        self.stop.store(true, Ordering::SeqCst);
        for lane in self.lanes {
            lane.await.expect("a lane ends well");
        }
        self.ledger
    }
}

/// A well-behaved client: one socket, which reconnects to another node with `after` when it is closed.
pub struct Watcher {
    received: Arc<Mutex<Vec<(u64, String)>>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Returns when it is subscribed.
    pub async fn start(addresses: &Addresses, first: usize, credential: &str) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(AtomicUsize::new(0));
        let (addresses, credential) = (addresses.clone(), credential.to_owned());
        let (into, count) = (received.clone(), connections.clone());
        let task = tokio::spawn(async move {
            for n in first.. {
                if let Some(addr) = pick(&addresses, n) {
                    watch(addr, &credential, &into, &count).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let watcher = Self { received, connections, task };
        super::eventually("a watcher is subscribed", async || watcher.connections() > 0).await;
        watcher
    }

    /// How often it was subscribed.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn received(&self) -> Vec<(u64, String)> {
        self.received.lock().expect("no thread panicked").clone()
    }

    /// How far it has come.
    pub fn last(&self) -> u64 {
        self.received.lock().expect("no thread panicked").last().map_or(0, |(offset, _)| *offset)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, to its end.
async fn watch(addr: SocketAddr, credential: &str, received: &Mutex<Vec<(u64, String)>>, subscribed: &AtomicUsize) {
    let Ok(Ok(mut socket)) = tokio::time::timeout(Duration::from_secs(10), Socket::open(addr, credential)).await else {
        return;
    };
    let last = received.lock().expect("no thread panicked").last().map_or(0, |(offset, _): &(u64, String)| *offset);
    if !socket.try_send(json!({"action": "subscribe", "event_types": ["**"], "after": last})).await {
        return;
    }
    while let Ok(frame) = socket.next().await {
        match frame["type"].as_str() {
            Some("event") => {
                let id = frame["event_id"].as_str().expect("an id").to_owned();
                let offset = frame["offset"].as_u64().expect("an offset");
                received.lock().expect("no thread panicked").push((offset, id));
            }
            Some("subscribed") => drop(subscribed.fetch_add(1, Ordering::SeqCst)),
            Some("resumed") => assert_eq!(frame["recovered"], true, "{frame}"),
            other => panic!("unexpected {other:?}: {frame}"),
        }
    }
}

/// Waits until all watchers are at the end of their stream, and compares what they received with what was acknowledged:
/// every
/// offset once and in order, the same events everywhere, and nothing acknowledged missing. Returns the number of
/// events.
pub async fn settle(ledger: &Ledger, watchers: &[Watcher]) -> u64 {
    let acknowledged = ledger.acknowledged();
    let highest = acknowledged.iter().map(|(offset, _)| *offset).max().unwrap_or(0);
    super::eventually("every socket has what was acknowledged", async || {
        watchers.iter().all(|watcher| watcher.last() >= highest)
    })
    .await;
    // Events that were written but not acknowledged come too.
    super::eventually("all sockets end at the same offset", async || {
        let ends: Vec<u64> = watchers.iter().map(Watcher::last).collect();
        tokio::time::sleep(Duration::from_secs(2)).await;
        ends.iter().all(|end| *end == ends[0]) && watchers.iter().all(|watcher| watcher.last() == ends[0])
    })
    .await;
    let first = watchers[0].received();
    for watcher in watchers {
        let received = watcher.received();
        let offsets: Vec<u64> = received.iter().map(|(offset, _)| *offset).collect();
        let expected: Vec<u64> = (1..=received.len() as u64).collect();
        let wrong = offsets.iter().zip(&expected).position(|(is, must)| is != must);
        assert_eq!(wrong, None, "each once and in order: {:?}", wrong.map(|at| &offsets[at.saturating_sub(2)..]));
        assert!(received == first, "the same everywhere");
    }
    for (offset, id) in &acknowledged {
        let at = usize::try_from(*offset).expect("small") - 1;
        assert_eq!(first.get(at).map(|(_, id)| id), Some(id), "acknowledged at {offset}");
    }
    first.len() as u64
}
