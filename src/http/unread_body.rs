//! The rest of a refused request's body is read off, so that its connection serves the next request. actix-http would end it.

use std::{cell::RefCell, rc::Rc, time::Duration};

use actix_web::{
    HttpMessage as _,
    dev::{Payload, ServiceRequest},
};
use futures_util::{StreamExt as _, stream::poll_fn};

/// Bytes that are read off at most. A longer body costs more than a connection.
const MAX_BYTES: u64 = 64 * 1024;
/// How long the client has to send them.
const WITHIN: Duration = Duration::from_secs(1);

/// A body that a handler may leave unread.
pub(super) struct UnreadBody(Rc<RefCell<Payload>>);

impl UnreadBody {
    /// Lends a request's body to its handler. `None` if there is none, or one that is too long to read off.
    pub(super) fn lend(request: &mut ServiceRequest) -> Option<Self> {
        let length = request.headers().get("content-length")?.to_str().ok()?.parse::<u64>().ok()?;
        if length == 0 || length > MAX_BYTES {
            return None;
        }
        let body = Rc::new(RefCell::new(request.take_payload()));
        let lent = body.clone();
        let stream = poll_fn(move |cx| lent.borrow_mut().poll_next_unpin(cx));
        request.set_payload(Payload::Stream { payload: Box::pin(stream) });
        Some(Self(body))
    }

    /// Reads what the handler left. If not all of it comes in time, the connection ends with the answer.
    pub(super) async fn read_off(self) {
        let mut rest = poll_fn(|cx| self.0.borrow_mut().poll_next_unpin(cx));
        let _ = tokio::time::timeout(WITHIN, async { while let Some(Ok(_)) = rest.next().await {} }).await;
    }
}
