//! The HTTP server: routes for requests, the stream for upgrades, over TCP or TLS.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_cors::Cors;
use actix_http::{HttpService, Protocol, error::DispatchError};
use actix_rt::net::TcpStream;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, fn_service, map_config};
use actix_tls::accept::{
    TlsError,
    rustls_0_23::{Acceptor, TlsStream, reexports::ServerConfig},
};
use actix_web::{
    App, Error,
    dev::AppConfig,
    middleware::{Condition, from_fn},
    web::Data,
};

use socket2::TcpKeepalive;

use super::{connection::Connection, error::ServeError};
use crate::{
    config::Config,
    http::{
        KEEP_ALIVE, MaxBodyBytes, OwnTls, PendingAnswers, TrustedProxies, admission, openapi, request_context, routes,
        stream,
    },
    hub::Hub,
};

const REQUEST_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The kernel asks the other end of a silent connection whether it is there: after this time, …
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// … and again at this interval.
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Connections to one HTTP worker. The limit of open files comes first.
const MAX_CONNECTIONS: usize = 100_000;

/// Headers of answers that a page of another origin may read.
const EXPOSED: [&str; 12] = [
    "x-request-id",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "location",
    "idempotency-replayed",
    "allow",
    "accept-encoding",
    "www-authenticate",
];

/// The OpenAPI document of what a node serves, in JSON or in YAML.
///
/// # Errors
/// Where it cannot be encoded.
pub fn api_document(json: bool) -> Result<String, String> {
    if json { openapi::json_text() } else { openapi::yaml() }
}

/// Binds an address, without listening yet.
pub(super) fn bind(addr: SocketAddr) -> Result<socket2::Socket, ServeError> {
    let bind = || {
        let socket = socket2::Socket::new(socket2::Domain::for_address(addr), socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    bind().map_err(|error| ServeError::Bind(addr, error))
}

/// The HTTP server, its routes for requests and the stream for upgrades, over TCP or TLS.
macro_rules! http_service {
    ($config:expr, $hub:expr, $pending:expr, $own_tls:expr) => {{
        let (hub, config): (Arc<Hub>, Config) = ($hub.clone(), $config.clone());
        let upgrade = hub.clone();
        let app = App::new()
            .app_data(Data::from(hub))
            .app_data(Data::new(MaxBodyBytes(config.server.max_body_bytes)))
            .app_data(Data::new($pending.clone()))
            .app_data(Data::new(OwnTls($own_tls)))
            .app_data(Data::new(TrustedProxies::new(&config.server.trusted_proxies)))
            .configure(routes)
            .wrap(from_fn(admission))
            .wrap(Condition::new(!config.server.cors.allowed_origins.is_empty(), cors(&config)))
            .wrap(from_fn(request_context));
        HttpService::build()
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(REQUEST_HEAD_TIMEOUT)
            .client_disconnect_timeout(Duration::from_secs(1))
            .on_connect_ext(|connection: &Connection<_>, extensions| {
                extensions.insert(connection.closing().clone());
            })
            .upgrade(fn_service(move |pair| {
                let served = stream::upgrade(upgrade.clone(), pair);
                async move { served.await.map_err(Error::from) }
            }))
            .finish(map_config(app.into_factory().map_err(|error: Error| error.error_response()), |_| {
                AppConfig::default()
            }))
    }};
}

/// Starts the HTTP server.
pub(super) fn serve_http(
    config: &Config,
    hub: Arc<Hub>,
    listener: TcpListener,
    tls: Option<ServerConfig>,
) -> Result<actix_server::Server, ServeError> {
    let builder = actix_server::Server::build()
        .workers(config.threads())
        .max_concurrent_connections(MAX_CONNECTIONS)
        .shutdown_timeout(config.server.shutdown_timeout_seconds)
        .disable_signals();
    let (config, pending) = (config.clone(), PendingAnswers::new(config.server.max_pending_answer_bytes));
    let builder = match tls {
        None => builder.listen("http", listener, move || {
            fn_service(async |stream: TcpStream| {
                let peer = prepare(&stream);
                Ok::<_, DispatchError>((Connection::new(stream), Protocol::Http1, peer))
            })
            .and_then(http_service!(config, hub, pending, false))
        })?,
        Some(tls) => builder.listen("https", listener, move || {
            Acceptor::new(tls.clone())
                .map_err(TlsError::into_service_error)
                .map(|stream: TlsStream<TcpStream>| {
                    let peer = prepare(stream.get_ref().0);
                    (Connection::new(stream), Protocol::Http1, peer)
                })
                .and_then(http_service!(config, hub, pending, true).map_err(TlsError::Service))
        })?,
    };
    Ok(builder.run())
}

/// Sets what every accepted connection needs. Returns who is at its other end.
fn prepare(stream: &TcpStream) -> Option<SocketAddr> {
    let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE).with_interval(TCP_KEEPALIVE_INTERVAL);
    // A connection that is gone already fails when it is read.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
    stream.peer_addr().ok()
}

fn cors(config: &Config) -> Cors {
    let cors = Cors::default().allow_any_method().allow_any_header().expose_headers(EXPOSED).max_age(3600);
    config.server.cors.allowed_origins.iter().fold(cors, |cors, origin| match origin.as_str() {
        "*" => cors.allow_any_origin(),
        origin => cors.allowed_origin(origin),
    })
}
