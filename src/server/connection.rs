//! An accepted connection of the HTTP server that has to make progress. actix-http limits the first head of a connection
//! and nothing after it: without this, a client that never finishes its second head, or never reads an answer, keeps a
//! file and the answer's memory for as long as it likes.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_codec::{AsyncRead, AsyncWrite, ReadBuf};
use oriva_hub_actors::Transport;
use tokio::time::{Instant, Sleep};

use crate::http::{ClosingAnswer, stream::IntoTransport};

/// How long a head may take from its first byte.
const HEAD: Duration = Duration::from_secs(10);
/// How long an answer may wait for a client that takes nothing of it.
const STALLED: Duration = Duration::from_secs(30);
/// How long nothing may be written: longer than the slowest answer and the longest keep-alive.
const SILENT: Duration = Duration::from_secs(90);

/// What the connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// The first byte of a request.
    Request,
    /// The rest of a head, of which this many bytes of its end have come.
    Head { matched: usize },
    /// The rest of the request, and its answer.
    Answer,
    /// Its client, to read.
    Reader,
}

impl Waiting {
    fn limit(self) -> Duration {
        match self {
            Self::Request | Self::Answer => SILENT,
            Self::Head { .. } => HEAD,
            Self::Reader => STALLED,
        }
    }
}

/// A connection with a deadline for each thing that it waits for.
pub(super) struct Connection<T> {
    io: T,
    waiting: Waiting,
    since: Instant,
    /// Fires at the deadline, or before it and is set anew.
    timer: Pin<Box<Sleep>>,
    closing: Rc<ClosingAnswer>,
}

impl<T> Connection<T> {
    pub(super) fn new(io: T) -> Self {
        let since = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(since + SILENT));
        Self { io, waiting: Waiting::Request, since, timer, closing: Rc::default() }
    }

    /// Set once an answer said that it is the last.
    pub(super) fn closing(&self) -> &Rc<ClosingAnswer> {
        &self.closing
    }

    fn wait_for(&mut self, waiting: Waiting) {
        self.waiting = waiting;
        self.since = Instant::now();
        let due = self.since + waiting.limit();
        // A later deadline is set when the timer fires: so a request in one piece costs no timer.
        if due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
    }

    /// Fails once the deadline has passed. Until then the task is woken at it.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Result<(), io::Error> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let due = self.since + self.waiting.limit();
            if due <= Instant::now() {
                tracing::debug!(waiting = ?self.waiting, "connection ended: no progress");
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.timer.as_mut().reset(due);
        }
        Ok(())
    }

    fn on_read(&mut self, bytes: &[u8]) {
        // A handshake record (RFC 8446 §5.1). The parser answers it with 400, which a TLS client cannot read.
        if matches!(self.waiting, Waiting::Request) && bytes.starts_with(&[0x16, 0x03]) {
            tracing::info!("a client speaks TLS to the plain port: is its URL https, or server.tls not set?");
        }
        let mut matched = match self.waiting {
            Waiting::Request => 0,
            Waiting::Head { matched } => matched,
            Waiting::Answer | Waiting::Reader => return,
        };
        const END: &[u8] = b"\r\n\r\n";
        for byte in bytes {
            matched = match byte {
                byte if *byte == END[matched] => matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if matched == END.len() {
                return self.wait_for(Waiting::Answer);
            }
        }
        match &mut self.waiting {
            Waiting::Head { matched: place } => *place = matched,
            _ => self.wait_for(Waiting::Head { matched }),
        }
    }

    /// Notes how a write went. `then` is waited for once it is done.
    fn on_write<W>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<W>>,
        then: Waiting,
    ) -> Poll<io::Result<W>> {
        match written {
            Poll::Ready(result) => {
                self.wait_for(then);
                Poll::Ready(result)
            }
            Poll::Pending => {
                if self.waiting != Waiting::Reader {
                    self.wait_for(Waiting::Reader);
                }
                self.poll_deadline(cx)?;
                Poll::Pending
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_deadline(cx)?;
        if self.closing.is_set() {
            // What comes behind the last request is not read (RFC 9112 §9.6).
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.on_read(&buffer.filled()[before..]);
        // The deadline may be new.
        self.poll_deadline(cx)?;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        // A body comes after `100 Continue`, and then the answer.
        let then = if bytes.starts_with(b"HTTP/1.1 100") { Waiting::Answer } else { Waiting::Request };
        self.on_write(cx, written, then)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_flush(cx) {
            Poll::Pending => self.on_write(cx, Poll::Pending, Waiting::Request),
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<T: IntoTransport> IntoTransport for Connection<T> {
    fn into_transport(self) -> io::Result<Transport> {
        self.io.into_transport()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    fn connection() -> (DuplexStream, Connection<DuplexStream>) {
        let (client, server) = duplex(64);
        (client, Connection::new(server))
    }

    async fn read(connection: &mut Connection<DuplexStream>, bytes: usize) -> io::Result<()> {
        connection.read_exact(&mut vec![0; bytes]).await.map(drop)
    }

    /// How long the connection lives while its server reads.
    async fn life(connection: &mut Connection<DuplexStream>) -> Duration {
        let begun = Instant::now();
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_ten_seconds_whichever_request_it_is_of() {
        let (mut client, mut connection) = connection();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(40)).await;
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            read(&mut connection, 18).await.unwrap();
            tokio::time::sleep(Duration::from_secs(60)).await;
            connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            client.read_exact(&mut [0; 27]).await.unwrap();
        }
        client.write_all(b"G").await.unwrap();
        read(&mut connection, 1).await.unwrap();
        tokio::time::sleep(Duration::from_secs(4)).await;
        client.write_all(b"ET\r\n\r").await.unwrap();
        read(&mut connection, 5).await.unwrap();
        assert_eq!(life(&mut connection).await.as_secs(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_and_its_answer_are_no_head() {
        let (mut client, mut connection) = connection();
        for expected in [&b""[..], b"HTTP/1.1 100 Continue\r\n\r\n"] {
            client.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
            read(&mut connection, 19).await.unwrap();
            connection.write_all(expected).await.unwrap();
            client.read_exact(&mut vec![0; expected.len()]).await.unwrap();
            for _ in 0..3 {
                client.write_all(b"{}").await.unwrap();
                read(&mut connection, 2).await.unwrap();
                // As long as its reader waits for more, and the handler for a database.
                let more = tokio::time::timeout(Duration::from_secs(20), connection.read_u8()).await;
                assert!(more.is_err(), "{more:?}");
            }
            connection.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            client.read_exact(&mut [0; 27]).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_given_up() {
        let (_client, mut connection) = connection();
        assert_eq!(life(&mut connection).await.as_secs(), 90);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_thirty_seconds_for_a_reader_who_takes_nothing() {
        let (mut client, mut connection) = connection();
        let begun = Instant::now();
        let read = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                client.read_exact(&mut [0; 64]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(connection.write_all(&[0; 300]), read);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 90, "30 s after the last byte was taken");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_behind_the_last_request() {
        let (mut client, mut connection) = connection();
        connection.closing().set();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let reading = tokio::time::timeout(Duration::from_secs(1), connection.read_u8()).await;
        assert!(reading.is_err());
    }
}
