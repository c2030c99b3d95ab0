//! A network between two parts: a relay that passes bytes on later than it got them. TCP's own behaviour over a distance (a growing
//! window, losses) is not part of it.

use std::{
    net::SocketAddr,
    sync::mpsc as threads,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};

/// How much of a direction is under way at most: pieces of up to [`PIECE`] bytes.
const UNDER_WAY: usize = 256;
const PIECE: usize = 16 * 1024;

/// A thread that wakes tasks: the runtime's own clock goes by the millisecond, which is too coarse here.
#[derive(Clone)]
struct Clock(threads::Sender<(Instant, oneshot::Sender<()>)>);

impl Clock {
    /// Everybody who uses it waits equally long, so that who comes first is due first.
    fn start() -> Self {
        let (sender, waiting) = threads::channel::<(Instant, oneshot::Sender<()>)>();
        std::thread::spawn(move || {
            while let Ok((at, wake)) = waiting.recv() {
                #[expect(clippy::disallowed_methods, reason = "a thread for nothing else")]
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                let _ = wake.send(());
            }
        });
        Self(sender)
    }

    /// Ends at this moment.
    fn at(&self, moment: Instant) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        let _ = self.0.send((moment, wake));
        woken
    }
}

/// Listens, and relays every connection to `to`. Each direction takes half of `there_and_back`. Returns where it listens.
pub async fn start(to: SocketAddr, there_and_back: Duration) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let clock = Clock::start();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let clock = clock.clone();
            tokio::spawn(async move {
                let Ok(far) = TcpStream::connect(to).await else { return };
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
                let one_way = there_and_back / 2;
                tokio::join!(pass_on(from_near, to_far, one_way, &clock), pass_on(from_far, to_near, one_way, &clock));
            });
        }
    });
    Ok(addr)
}

/// What a question and its answer of one byte take over such a relay: the median of some.
pub async fn measure(there_and_back: Duration) -> std::io::Result<Duration> {
    let echo = TcpListener::bind("127.0.0.1:0").await?;
    let relay = start(echo.local_addr()?, there_and_back).await?;
    tokio::spawn(async move {
        let (mut socket, _) = echo.accept().await?;
        socket.set_nodelay(true)?;
        let mut byte = [0];
        while socket.read(&mut byte).await? > 0 {
            socket.write_all(&byte).await?;
        }
        std::io::Result::Ok(())
    });
    let mut socket = TcpStream::connect(relay).await?;
    socket.set_nodelay(true)?;
    let mut took = Vec::new();
    for _ in 0..31 {
        let began = Instant::now();
        socket.write_all(b"?").await?;
        socket.read_exact(&mut [0]).await?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(took[took.len() / 2])
}

async fn pass_on(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration, clock: &Clock) {
    let (pieces, mut due) = mpsc::channel::<(oneshot::Receiver<()>, Vec<u8>)>(UNDER_WAY);
    let receive = async move {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if pieces.send((clock.at(Instant::now() + delay), buffer[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let send = async move {
        while let Some((at, piece)) = due.recv().await {
            if at.await.is_err() || to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(receive, send);
}
