//! An HTTP/1.1 client for webhooks: hyper's, with the guard's resolver, and with bounds on what an answer may cost before its
//! status is known. reqwest would read interim answers (1xx) without end.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, Uri, body::Incoming, ext::on_informational};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::sync::Notify;
use tower_service::Service;

use super::resolver::GuardedResolver;

/// How long connecting may take: TCP, over all addresses in turn, and TLS.
const CONNECT: Duration = Duration::from_secs(5);
const IDLE_FOR: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read before they are parsed: its whole head, and a piece of its body.
const READ_BYTES: usize = 64 * 1024;
/// Interim answers (RFC 9110 §15.2) after which a request is given up.
const MAX_INTERIM: usize = 16;

/// A client for one scheme. A request has a connection to itself, so one that hangs harms no other.
#[derive(Clone)]
pub(super) struct WebhookClient(Client<TimedConnector, Full<Bytes>>);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoAnswer {
    /// Nothing was sent: there was no connection in time.
    #[error("no connection (TCP and TLS) within {} s", .0.as_secs())]
    SlowConnect(Duration),
    /// Interim answers, and no end of them.
    #[error("answered {MAX_INTERIM} times with an interim status (1xx), and with no other")]
    Flood,
    /// Anything else.
    #[error(transparent)]
    Failed(Error),
}

impl WebhookClient {
    /// `idle_per_host`: connections that are kept. `tls`: whether requests go over TLS, or all in clear.
    ///
    /// # Errors
    /// Where the system's certificates cannot be read.
    pub(super) fn new(
        resolver: GuardedResolver,
        tls: bool,
        idle_per_host: usize,
        deadline: Duration,
    ) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connect = CONNECT.min(deadline);
        // Each address has its share of the time.
        tcp.set_connect_timeout(Some(connect));
        let builder = HttpsConnectorBuilder::new().try_with_platform_verifier()?;
        let builder = if tls { builder.https_only() } else { builder.https_or_http() };
        let connector = TimedConnector { inner: builder.enable_http1().wrap_connector(tcp), within: connect };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(idle_per_host)
            .http1_max_buf_size(READ_BYTES)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request, and waits for the head of its answer. Dropping the future ends the connection.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, NoAnswer> {
        let (interim, flooded) = (AtomicUsize::new(0), Arc::new(Notify::new()));
        let tells = flooded.clone();
        on_informational(&mut request, move |_| {
            if interim.fetch_add(1, Ordering::Relaxed) + 1 == MAX_INTERIM {
                tells.notify_one();
            }
        });
        tokio::select! {
            biased;
            () = flooded.notified() => Err(NoAnswer::Flood),
            answer = self.0.request(request) => answer.map_err(|error| match slow_connect(&error) {
                Some(within) => NoAnswer::SlowConnect(within),
                None => NoAnswer::Failed(error),
            }),
        }
    }
}

impl NoAnswer {
    /// Whether nothing was sent, because there was no connection.
    pub(super) fn is_connect(&self) -> bool {
        match self {
            Self::SlowConnect(_) => true,
            Self::Flood => false,
            Self::Failed(error) => error.is_connect(),
        }
    }
}

/// Connects within a time, TLS included.
#[derive(Clone)]
struct TimedConnector {
    inner: HttpsConnector<HttpConnector<GuardedResolver>>,
    within: Duration,
}

/// There was no connection within this time.
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} s", .0.as_secs())]
struct Slow(Duration);

type ConnectError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for TimedConnector {
    type Response = <HttpsConnector<HttpConnector<GuardedResolver>> as Service<Uri>>::Response;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connection, within) = (self.inner.call(uri), self.within);
        Box::pin(async move {
            match tokio::time::timeout(within, connection).await {
                Ok(connected) => connected,
                Err(_) => Err(Slow(within).into()),
            }
        })
    }
}

/// The time that connecting took too long for, if that is what went wrong: on the whole, or at each of the addresses.
fn slow_connect(error: &Error) -> Option<Duration> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(Slow(within)) = error.downcast_ref() {
            return Some(*within);
        }
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return Some(CONNECT);
        }
        cause = error.source();
    }
    None
}
