//! Keeps the bus connected: connects, serves until the connection is lost, and connects again with backoff.

use std::{
    cell::RefCell,
    collections::HashSet,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix_rt::Arbiter;
use backon::BackoffBuilder as _;
use oriva_hub_actors::{
    Tasks,
    model::{NodeId, StreamKey},
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    connection::{BusConnection, Disconnect, Inputs, SILENCE},
    status::{BusStatus, Command, Outgoing},
};
use crate::{
    bus::BusEvent,
    error_chain::error_chain,
    redis_client::{PushReceiver, RedisClient, RedisConnections, push_queue},
};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The task behind [`super::RedisBus`].
pub(super) struct RedisBusTask {
    client: Arc<RedisClient>,
    node: NodeId,
    status: Arc<BusStatus>,
    inputs: Inputs,
    events: mpsc::Sender<BusEvent>,
    /// The streams that sessions here follow.
    followed: RefCell<HashSet<StreamKey>>,
}

impl RedisBusTask {
    pub(super) fn new(
        client: Arc<RedisClient>,
        node: NodeId,
        status: Arc<BusStatus>,
        commands: mpsc::UnboundedReceiver<Command>,
        outgoing: mpsc::Receiver<Outgoing>,
        events: mpsc::Sender<BusEvent>,
    ) -> Self {
        let inputs = Inputs { commands, outgoing };
        Self { client, node, status, inputs, events, followed: RefCell::default() }
    }

    /// Starts the task on a thread of its own, where it is restarted after a panic.
    pub(super) fn start(self, tasks: Tasks) {
        Arbiter::new().spawn_fn(move || {
            let task = Rc::new(tokio::sync::Mutex::new(self));
            actix_rt::spawn(async move {
                let build = || {
                    let task = task.clone();
                    async move { task.lock().await.run().await }
                };
                tasks.keep_running("bus", build).await;
            });
        });
    }

    async fn run(&mut self) {
        // After a panic the bus still counts as connected: the task that panicked did not say otherwise.
        self.disconnected();
        let pauses = || {
            let builder = backon::ExponentialBuilder::default().with_min_delay(FIRST_PAUSE);
            builder.with_max_delay(LONGEST_PAUSE).with_jitter().without_max_times().build()
        };
        let mut pause = pauses();
        let mut logged = None;
        loop {
            let (pushes, pushed) = push_queue();
            let (client, status) = (self.client.clone(), self.status.clone());
            let connect = client.connect(pushes, move || status.receive_dropped.store(true, Ordering::SeqCst));
            let reason = match self.while_disconnected(connect).await {
                Some(Ok(connections)) => {
                    let started = Instant::now();
                    let reason = self.serve(connections, pushed).await;
                    self.disconnected();
                    if started.elapsed() > SILENCE {
                        (pause, logged) = (pauses(), None);
                    }
                    reason
                }
                Some(Err(error)) => error.into(),
                None => Disconnect::Stopped,
            };
            if matches!(reason, Disconnect::Stopped) {
                return;
            }
            let error = &reason as &dyn std::error::Error;
            let why = Some(error_chain(error));
            if logged != why {
                logged = why;
                tracing::warn!(error, "bus is away; registries ask the store until it is back");
            }
            let pause = pause.next().unwrap_or(LONGEST_PAUSE);
            if self.while_disconnected(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    fn disconnected(&self) {
        self.client.set(None);
        self.status.set_up(false);
        self.status.peers().clear();
    }

    /// Waits for `something` without a connection. Who wants to follow a stream is answered at once, by dropping the
    /// confirmation; what is to be sent is dropped. `None` where nobody uses the bus any more.
    async fn while_disconnected<T>(&mut self, something: impl Future<Output = T>) -> Option<T> {
        let Inputs { commands, outgoing } = &mut self.inputs;
        let drop_inputs = async {
            loop {
                tokio::select! {
                    command = commands.recv() => match command {
                        Some(Command::Follow(stream, _)) => { self.followed.borrow_mut().insert(stream); }
                        Some(Command::Unfollow(stream)) => { self.followed.borrow_mut().remove(&stream); }
                        None => return,
                    },
                    message = outgoing.recv() => match message {
                        Some(message) => {
                            self.status.unqueued(1, message.bytes);
                            self.status.publish_dropped.store(true, Ordering::SeqCst);
                        }
                        None => return,
                    },
                }
            }
        };
        tokio::select! {
            done = something => Some(done),
            () = drop_inputs => None,
        }
    }

    /// Serves until the connection is lost.
    async fn serve(&mut self, connections: RedisConnections, pushed: PushReceiver) -> Disconnect {
        let connection = BusConnection {
            client: &self.client,
            node: self.node,
            status: &self.status,
            events: &self.events,
            followed: &self.followed,
            is_sharded: connections.subscriber.is_sharded(),
        };
        connection.run(connections, pushed, &mut self.inputs).await
    }
}
