//! `GET /events/stream` (contract §5): turns an upgrade request into a socket of a socket loop, or rejects it.
//!
//! Upgrade requests never reach the routes. The HTTP server passes them here with the connection itself, so that the
//! connection leaves actix's dispatcher and its 12 KiB of buffers.

mod handshake;

use std::sync::Arc;

use actix_codec::{AsyncRead, AsyncWrite, Framed};
use actix_http::{
    HttpMessage as _, Request, Response, ResponseBuilder,
    body::BodySize,
    h1::{Codec, Message},
    ws,
};
use actix_web::http::header::{self, HeaderValue};
use futures_util::SinkExt as _;
use oriva_hub_actors::{
    AcquireError, Opening, ReservedConnection, Transport, metric_names,
    model::{Identity, UserId},
    ports::Expiry,
    protocol::{ClientFrame, Close},
};

use self::handshake::{Offer, StreamParameters};
use super::{
    middleware::add_security_headers,
    openapi::answers::{Checked, Limited},
    problem::{Code, Problem},
    request_id,
};
use crate::{
    auth::{AuthError, Caller},
    hub::Hub,
    store::FaultyField,
};

const PATH: &str = "/api/v1/events/stream";
/// The echo endpoint of the Autobahn test cases. Only in test builds.
#[cfg(feature = "echo")]
const ECHO_PATH: &str = "/test/echo";

/// A connection that can become a socket's transport.
pub trait IntoTransport: AsyncRead + AsyncWrite + Unpin + 'static {
    /// # Errors
    /// Where its reactor does not release it.
    fn into_transport(self) -> std::io::Result<Transport>;
}

impl IntoTransport for actix_rt::net::TcpStream {
    fn into_transport(self) -> std::io::Result<Transport> {
        Transport::plain(self)
    }
}

impl IntoTransport for actix_tls::accept::rustls_0_23::TlsStream<actix_rt::net::TcpStream> {
    fn into_transport(self) -> std::io::Result<Transport> {
        Ok(Transport::tls(self))
    }
}

/// Why a request does not become a stream: as an HTTP error, and as a close code for clients that cannot read it.
struct Rejection {
    problem: Problem,
    close: Close,
}

impl Rejection {
    fn new(code: Code, detail: &str, close: Close) -> Self {
        Self { problem: Problem::new(code, detail), close }
    }
}

/// Opens the WebSocket stream (RFC 6455).
///
/// Send `Upgrade: websocket`. The credential may also be in `?token=` or in a subprotocol. docs/asyncapi.json describes
/// frames and close codes. A request without an upgrade gets 400.
#[utoipa::path(
    get,
    path = "/api/v1/events/stream",
    operation_id = "openStream",
    tag = "Stream",
    responses(
        (status = 101, description = "The socket is open"),
        Limited,
        Checked
    ),
    security(("user_token" = []), ("app_key" = [])),
)]
pub async fn not_an_upgrade() -> Problem {
    let detail = "ask for this address with the headers Connection: Upgrade and Upgrade: websocket, and no other protocol \
                  in the second (RFC 6455)";
    Problem::new(Code::ValidationFailed, detail)
}

/// Serves one upgrade request.
///
/// # Errors
/// Where the connection fails. All other problems are answered to the client.
pub async fn upgrade<T: IntoTransport>(
    hub: Arc<Hub>,
    (request, framed): (Request, Framed<T, Codec>),
) -> Result<(), std::io::Error> {
    let id = request_id::choose(request.headers());
    request_id::scope(id.clone(), serve(hub, id, request, framed)).await
}

async fn serve<T: IntoTransport>(
    hub: Arc<Hub>,
    id: String,
    request: Request,
    mut framed: Framed<T, Codec>,
) -> Result<(), std::io::Error> {
    #[cfg(feature = "echo")]
    if request.path() == ECHO_PATH {
        let deflate = handshake::deflate(&request);
        accept(&mut framed, &request, &id, false, deflate).await?;
        let parts = framed.into_parts();
        hub.realtime().echo(parts.io.into_transport()?, parts.read_buf, deflate.is_some());
        return Ok(());
    }
    if request.path() != PATH {
        return reject(&mut framed, &id, &Problem::no_route(request.path())).await;
    }
    if let Err(error) = handshake::verify(&request) {
        return reject(&mut framed, &id, &Problem::new(Code::ValidationFailed, error.to_string())).await;
    }
    let (offer, parameters) = Offer::read(&request);
    let generation = hub.auth().generation();
    match admit(&hub, &offer, parameters).await {
        Ok(Admitted { identity, expiry, subscribe, reserved }) => {
            let deflate = offer.deflate.filter(|_| hub.realtime().compresses());
            accept(&mut framed, &request, &id, offer.speaks_v1, deflate).await?;
            tracing::info!(
                request_id = id,
                app_id = %identity.app(),
                user_id = identity.user().map(|user| tracing::field::debug(user.as_str())),
                "stream opened"
            );
            metrics::counter!(metric_names::STREAMS_OPENED).increment(1);
            let parts = framed.into_parts();
            let opening = Opening { identity: identity.clone(), expiry, deflate: deflate.is_some(), subscribe };
            reserved.attach(parts.io.into_transport()?, parts.read_buf, opening);
            if generation != hub.auth().generation() {
                recheck(&hub, &offer, &identity).await;
            }
            Ok(())
        }
        Err(Rejection { problem, close }) => {
            metrics::counter!(metric_names::STREAMS_REFUSED, "code" => problem.code.slug()).increment(1);
            let (code, reason) = (problem.code.slug(), &problem.detail);
            tracing::info!(request_id = id, code, reason, "stream refused");
            if !offer.speaks_v1 {
                return reject(&mut framed, &id, &problem).await;
            }
            // A browser tells its page nothing about the answer to a failed upgrade. So the socket is accepted and
            // closed with a code.
            accept(&mut framed, &request, &id, true, None).await?;
            hub.realtime().close_rejected(framed.into_parts().io.into_transport()?, close);
            Ok(())
        }
    }
}

/// Closes a race with a change of apps or keys: a socket that was opening meanwhile was not among those that were
/// compared with the store. From now on it is.
async fn recheck(hub: &Hub, offer: &Offer, identity: &Identity) {
    let Some(credential) = &offer.credential else { return };
    let close = match hub.auth().authenticate(credential).await {
        Ok(caller) if identify(&caller, identity.user()).is_none_or(|(now, _)| now != *identity) => Close::TokenExpired,
        Err(AuthError::Revoked | AuthError::Inactive) => Close::Revoked,
        // A token that ended meanwhile closes its own socket; what the store does not answer, identity_watch asks again.
        Ok(_) | Err(_) => return,
    };
    hub.realtime().close_grants([(identity.grant(), close)].into());
}

struct Admitted {
    identity: Arc<Identity>,
    expiry: Option<Expiry>,
    subscribe: Option<ClientFrame>,
    reserved: ReservedConnection,
}

async fn admit(
    hub: &Hub,
    offer: &Offer,
    parameters: Result<StreamParameters, Vec<FaultyField>>,
) -> Result<Admitted, Rejection> {
    if hub.is_draining() {
        return Err(Rejection {
            problem: Problem::overloaded("the hub is stopping; ask again"),
            close: Close::GoingAway,
        });
    }
    let Some(credential) = &offer.credential else {
        let detail = "send a credential: ?token=, Authorization: Bearer, or the subprotocols oriva.v1, bearer.TOKEN";
        return Err(Rejection::new(Code::Unauthenticated, detail, Close::TokenExpired));
    };
    let caller = hub.auth().authenticate(credential).await.map_err(|error| match error {
        AuthError::Inactive => Rejection::new(Code::Forbidden, "the app is not active", Close::Revoked),
        AuthError::Revoked => Rejection { problem: error.into(), close: Close::Revoked },
        AuthError::Store(_) => Rejection { problem: error.into(), close: Close::Internal },
        AuthError::Unknown | AuthError::Expired | AuthError::Token(_) => {
            Rejection { problem: error.into(), close: Close::TokenExpired }
        }
    })?;
    let forbidden = |detail| Rejection::new(Code::Forbidden, detail, Close::Revoked);
    let app = match &caller {
        Caller::App(holder) => &holder.app.id,
        Caller::User(holder) => &holder.issuer.id,
        Caller::Admin => return Err(forbidden("the admin key opens no stream")),
    };
    let parameters =
        parameters.map_err(|faults| Rejection { problem: Problem::invalid(faults), close: Close::BadAddress })?;
    if parameters.app_id.is_some_and(|asked| asked != *app) {
        return Err(forbidden("app_id is not the credential's own app"));
    }
    let (identity, expiry) = identify(&caller, parameters.user_id.as_ref())
        .ok_or_else(|| forbidden("user_id is not the token's own user"))?;
    let reserved = hub.realtime().acquire(&identity).await.map_err(|error| match error {
        AcquireError::LimitReached { limit } => {
            Rejection { problem: Problem::connection_limit(limit), close: Close::TooManyConnections }
        }
        AcquireError::Draining => {
            Rejection { problem: Problem::overloaded("no new streams now"), close: Close::GoingAway }
        }
    })?;
    Ok(Admitted { identity: Arc::new(identity), expiry, subscribe: parameters.subscribe, reserved })
}

/// Who a socket of this caller belongs to, and until when. `None` where the caller may not open one for `user`.
fn identify(caller: &Caller, user: Option<&UserId>) -> Option<(Identity, Option<Expiry>)> {
    match (caller, user) {
        (Caller::App(holder), Some(user)) => Some((holder.identity_of(user.clone()), None)),
        (Caller::App(holder), None) => Some((holder.identity(), None)),
        (Caller::User(holder), user) if user.is_none_or(|user| *user == holder.user) => {
            Some((holder.identity(), Some(holder.expiry())))
        }
        (Caller::User(_) | Caller::Admin, _) => None,
    }
}

async fn accept<T: IntoTransport>(
    framed: &mut Framed<T, Codec>,
    request: &Request,
    id: &str,
    speaks_v1: bool,
    deflate: Option<&'static str>,
) -> Result<(), std::io::Error> {
    let mut response = ws::handshake_response(request.head());
    if let Some(agreed) = deflate {
        response.insert_header((header::SEC_WEBSOCKET_EXTENSIONS, agreed));
    }
    if speaks_v1 {
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, handshake::V1));
    }
    response.insert_header(("x-request-id", id));
    let response: Response<()> = response.message_body(()).map_err(|error| std::io::Error::other(error.to_string()))?;
    framed.send(Message::Item((response, BodySize::None))).await
}

async fn reject<T: IntoTransport>(
    framed: &mut Framed<T, Codec>,
    id: &str,
    problem: &Problem,
) -> Result<(), std::io::Error> {
    let body = problem.body();
    let mut response = ResponseBuilder::new(problem.code.status());
    response.insert_header((header::CONTENT_TYPE, "application/problem+json"));
    response.insert_header(("x-request-id", id));
    if let Some(seconds) = problem.retry_after {
        response.insert_header((header::RETRY_AFTER, seconds.to_string()));
    }
    if problem.code == Code::ValidationFailed {
        // What a client of another version may come back with (RFC 6455 §4.2.2).
        response.insert_header((header::SEC_WEBSOCKET_VERSION, handshake::VERSION));
    }
    if problem.code == Code::Unauthenticated || problem.code == Code::TokenExpired {
        response.insert_header((header::WWW_AUTHENTICATE, r#"Bearer realm="oriva-hub""#));
    }
    response.force_close();
    let mut response: Response<()> =
        response.message_body(()).map_err(|error| std::io::Error::other(error.to_string()))?;
    add_security_headers(response.headers_mut(), false);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    // Head and body in one write, because many clients read only what comes with the head.
    framed.feed(Message::Item((response, BodySize::Sized(body.len() as u64)))).await?;
    framed.feed(Message::Chunk(Some(body.into()))).await?;
    framed.feed(Message::Chunk(None)).await?;
    framed.flush().await?;
    framed.close().await
}
