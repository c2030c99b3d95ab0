//! The byte stream under a WebSocket: TCP, or TLS over it.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The interface of a TLS session to a socket loop.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Duplex")
    }
}

/// A connection that moves from the HTTP server to a socket loop.
#[derive(Debug)]
pub enum Transport {
    /// Registered with no reactor. The socket loop registers it with its own thread's.
    Plain(std::net::TcpStream),
    /// A TLS session cannot be moved: it stays on the reactor that accepted it and wakes the socket loop from there.
    /// Boxed, because it is large, and most hubs let a proxy do TLS.
    Tls(Box<dyn Duplex>),
}

impl Transport {
    /// Takes a plain connection from this thread's reactor.
    ///
    /// # Errors
    /// Where the reactor does not release it.
    pub fn plain(stream: TcpStream) -> io::Result<Self> {
        stream.into_std().map(Self::Plain)
    }

    /// A connection that this process encrypts.
    #[must_use]
    pub fn tls(stream: impl Duplex + 'static) -> Self {
        Self::Tls(Box::new(stream))
    }

    /// Registers it with this thread's reactor.
    pub(super) fn into_wire(self) -> io::Result<Wire> {
        Ok(match self {
            Self::Plain(stream) => Wire::Plain(TcpStream::from_std(stream)?),
            Self::Tls(stream) => Wire::Tls(stream),
        })
    }
}

/// A connection that a socket loop polls.
#[derive(Debug)]
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<dyn Duplex>),
}

impl Wire {
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    /// A TLS session may keep records after a write. This writes them.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Half-closes. Best effort: the peer sees the end either way when the socket is dropped.
    pub(super) fn shutdown(&mut self, cx: &mut Context<'_>) {
        let _ = match self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
    }
}
