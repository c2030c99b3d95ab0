//! Many sockets, opened at a given speed and read until the run ends.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::ProgressBar;
use memchr::memmem::Finder;
use tokio::{sync::watch, task::JoinHandle};

use crate::{Failure, measure::Counters, socket::Socket, target::Target};

/// A credential to connect with, and the last offset that it has seen.
pub type ReservedConnection = (String, Option<u64>);

/// How sockets are opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// Greatest number of concurrent handshakes.
    pub at_once: usize,
    /// Source addresses on loopback: one address has ports for some 28 000 connections to one server.
    pub sources: u8,
}

/// Open sockets that are being read.
pub struct Fleet {
    sockets: Vec<(usize, JoinHandle<Option<Socket>>)>,
    stop: watch::Sender<bool>,
}

impl Fleet {
    /// Opens a socket for each reserved connection, and passes each duration to `opened`.
    pub async fn open(
        target: &Target,
        reserved: Vec<ReservedConnection>,
        opening: Opening,
        (counters, connections): (&Arc<Counters>, &Arc<AtomicU64>),
        progress: &ProgressBar,
        opened: impl Fn(Duration) + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let (stop, stopped) = watch::channel(false);
        let finder = crate::socket::due_finder();
        let (reserved, next) = (Arc::new(reserved), Arc::<AtomicUsize>::default());
        let opened = Arc::new(opened);
        let openers: Vec<_> = (0..opening.at_once.max(1))
            .map(|_| {
                let (target, reserved, next) = (target.clone(), reserved.clone(), next.clone());
                let (counters, finder, stopped) = (counters.clone(), finder.clone(), stopped.clone());
                let (connections, progress, opened) = (connections.clone(), progress.clone(), opened.clone());
                tokio::spawn(async move {
                    let mut mine = Vec::new();
                    loop {
                        let n = next.fetch_add(1, Relaxed);
                        let Some(connection) = reserved.get(n) else { return Ok::<_, Failure>(mine) };
                        let begun = Instant::now();
                        let socket = one(&target, n, connection, opening.sources, &finder).await?;
                        opened(begun.elapsed());
                        connections.fetch_add(1, Relaxed);
                        progress.inc(1);
                        mine.push((n, follow(socket, counters.clone(), stopped.clone(), connections.clone())));
                    }
                })
            })
            .collect();
        let mut sockets = Vec::new();
        for opener in openers {
            sockets.extend(opener.await.map_err(|error| Failure::Answer(error.to_string()))??);
        }
        Ok(Self { sockets, stop })
    }

    /// Stops reading and closes all sockets. Returns the last offset of each.
    pub async fn close(self) -> Vec<u64> {
        let _ = self.stop.send(true);
        let mut seen = vec![0; self.sockets.len()];
        for (n, socket) in self.sockets {
            if let Ok(Some(socket)) = socket.await {
                seen[n] = socket.last;
            }
        }
        seen
    }
}

async fn one(
    target: &Target,
    n: usize,
    (token, after): &ReservedConnection,
    sources: u8,
    finder: &Arc<Finder<'static>>,
) -> Result<Socket, Failure> {
    let addr = target.addr(n);
    let source = (sources > 1 && addr.ip().is_loopback()).then(|| {
        let last = u8::try_from(n % usize::from(sources)).unwrap_or(0) + 1;
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)), 0)
    });
    Socket::open(addr, source, &target.host, token, *after, finder).await
}

fn follow(
    mut socket: Socket,
    counters: Arc<Counters>,
    mut stopped: watch::Receiver<bool>,
    connections: Arc<AtomicU64>,
) -> JoinHandle<Option<Socket>> {
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = socket.follow(&counters, |_| false) => ended,
            _ = stopped.wait_for(|stop| *stop) => Ok(()),
        };
        connections.fetch_sub(1, Relaxed);
        counters.settle();
        match ended {
            Ok(()) => Some(socket),
            Err(_) => {
                counters.closed();
                None
            }
        }
    })
}
