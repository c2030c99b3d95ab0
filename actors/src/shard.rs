//! One shard: a thread with its registry, the sessions of the users and apps that belong there, and a socket loop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use actix::{Addr, Arbiter, Handler, Message, dev::SendError};

use crate::{
    config::RealtimeConfig,
    context::{Ports, ShardContext},
    protocol::Close,
    registry::{Registry, messages::Resync},
    socket_loop::{SocketLoop, handle::SocketLoopHandle},
    supervise::{ActorSlot, Tasks},
};

/// How often a resync is tried again that did not fit the registry's mailbox.
const RESYNC_CHECK: std::time::Duration = std::time::Duration::from_millis(250);

/// The handle of a shard.
pub(crate) struct Shard {
    registry: ActorSlot<Registry>,
    context: Arc<ShardContext>,
    open_sockets: Arc<AtomicUsize>,
    /// Something may not have been routed: the registry must compare its streams with the store.
    needs_resync: Arc<AtomicBool>,
}

impl Shard {
    /// Starts the thread.
    pub(crate) fn start(config: &RealtimeConfig, ports: Ports, tasks: &Tasks) -> Self {
        let socket_loop = SocketLoopHandle::default();
        let context = Arc::new(ShardContext {
            config: config.clone(),
            ports,
            socket_loop: socket_loop.clone(),
            connections: AtomicUsize::new(0),
        });
        let arbiter = Arbiter::new().handle();
        let for_registry = context.clone();
        let registry = actix::Actor::start_in_arbiter(&arbiter, move |ctx| Registry::new(for_registry, ctx));
        let shard = Self {
            registry: ActorSlot::new(registry),
            context: context.clone(),
            open_sockets: Arc::default(),
            needs_resync: Arc::default(),
        };

        let (loop_tasks, loop_config, open) = (tasks.clone(), config.clone(), shard.open_sockets.clone());
        arbiter.spawn(async move {
            let build = || SocketLoop::new(&socket_loop, &loop_config, open.clone()).run();
            loop_tasks.keep_running("socket_loop", build).await;
        });
        let rebuild = move || {
            let registry = Registry::start(context.clone());
            // They were counted by the registry that is gone.
            context.socket_loop.close_all(Close::Internal);
            context.ports.limiter.recount();
            registry
        };
        arbiter.spawn(shard.registry.clone().keep_running("registry", tasks.clone(), rebuild));
        let (tasks, registry, needs_resync) = (tasks.clone(), shard.registry.clone(), shard.needs_resync.clone());
        arbiter.spawn(async move {
            let build = || pass_on_resyncs(registry.clone(), needs_resync.clone());
            tasks.keep_running("resyncs", build).await;
        });
        shard
    }

    /// The registry that runs now.
    pub(crate) fn registry(&self) -> Addr<Registry> {
        self.registry.addr()
    }

    pub(crate) fn context(&self) -> &ShardContext {
        &self.context
    }

    /// Sockets open now.
    pub(crate) fn open_sockets(&self) -> usize {
        self.open_sockets.load(Ordering::Relaxed)
    }

    /// Has all streams of the shard compared with the store soon.
    pub(crate) fn resync(&self) {
        self.needs_resync.store(true, Ordering::SeqCst);
    }

    /// Sends a message that may be lost: where the mailbox is full, the shard is resynchronised instead.
    pub(crate) fn hint<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        Registry: Handler<M>,
    {
        if let Err(SendError::Full(_)) = self.registry().try_send(message) {
            self.resync();
        }
    }
}

async fn pass_on_resyncs(registry: ActorSlot<Registry>, needs_resync: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(RESYNC_CHECK).await;
        if needs_resync.swap(false, Ordering::SeqCst) && registry.addr().try_send(Resync).is_err() {
            needs_resync.store(true, Ordering::SeqCst);
        }
    }
}
