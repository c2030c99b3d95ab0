//! Rate limits at the edge (contract §3): what a request counts against, and the headers that say what is left.

use std::sync::Arc;

use actix_web::{
    HttpMessage as _, HttpRequest,
    http::header::{HeaderMap, HeaderName, HeaderValue},
};

use super::problem::{Code, Problem};
use crate::{
    auth::KeyHolder,
    hub::Hub,
    limits::{Class, RateLimitKey, RateLimitStatus, RateLimited},
    store::App,
};

/// The rate-limit class of a route, as a type, so that it stands in the handler's signature.
pub trait RouteClass: 'static {
    /// `None`: the route is not limited.
    const CLASS: Option<Class>;
}

macro_rules! route_class {
    ($($(#[$doc:meta])* $name:ident => $class:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;
        impl RouteClass for $name {
            const CLASS: Option<Class> = $class;
        }
    )*};
}
route_class! {
    /// Publishing events.
    Publish => Some(Class::Publish);
    /// Creating notifications.
    Notify => Some(Class::Notify);
    /// Reading, and changing notifications.
    Read => Some(Class::Read);
    /// Managing webhooks.
    Webhooks => Some(Class::Webhooks);
    /// No limit.
    Unlimited => None;
}

/// What a request counts against.
pub struct Charge {
    key: RateLimitKey,
    /// The app whose own limits replace the configured ones.
    limits_of: Option<Arc<App>>,
}

impl Charge {
    /// The app whose server asks.
    #[must_use]
    pub fn of_app(holder: &KeyHolder) -> Self {
        Self { key: RateLimitKey::App(holder.app.id.clone()), limits_of: Some(holder.app.clone()) }
    }

    /// The user, under the app that issued the token.
    #[must_use]
    pub fn of_user(key: RateLimitKey) -> Self {
        Self { key, limits_of: None }
    }

    /// Takes `more` requests beyond the first, which was taken before the length of a batch was known.
    ///
    /// # Errors
    /// 413 where the batch could never pass, and 429.
    pub async fn consume_more<C: RouteClass>(
        &self,
        request: &HttpRequest,
        hub: &Hub,
        more: u32,
    ) -> Result<(), Problem> {
        let cost = u64::from(more) + 1;
        if let Some(budget) = C::CLASS.and_then(|class| hub.limits().budget(class, self.own::<C>()))
            && cost > u64::from(budget)
        {
            let detail =
                format!("a batch costs its length: {cost} is more than the budget of a whole window, {budget}");
            return Err(Problem::new(Code::PayloadTooLarge, detail));
        }
        self.consume::<C>(request, hub, more).await
    }

    /// The app's own limit of the class.
    fn own<C: RouteClass>(&self) -> Option<u32> {
        self.limits_of.as_ref()?.limits.get(C::CLASS?.as_str()).copied()
    }

    /// Takes `cost` requests from the limit, and notes what is left for the response's headers.
    ///
    /// # Errors
    /// 429 if fewer are left. Nothing is taken then.
    pub async fn consume<C: RouteClass>(&self, request: &HttpRequest, hub: &Hub, cost: u32) -> Result<(), Problem> {
        let Some(class) = C::CLASS else { return Ok(()) };
        let own = self.own::<C>();
        let set_status = |status: RateLimitStatus| request.extensions_mut().insert(status);
        match hub.limits().consume(&self.key, class, own, cost).await {
            Ok(status) => {
                status.map(set_status);
                Ok(())
            }
            Err(RateLimited(status)) => {
                set_status(status);
                Err(RateLimited(status).into())
            }
        }
    }
}

/// Adds both families of headers: `X-RateLimit-*`, which clients know, and those of draft-ietf-httpapi-ratelimit-headers.
pub(super) fn add_headers(headers: &mut HeaderMap, status: &RateLimitStatus) {
    let (limit, window) = (status.limit.requests, status.limit.window.as_secs());
    let left = status.reset_in.as_secs() + u64::from(status.reset_in.subsec_nanos() > 0);
    let reset = chrono::Utc::now().timestamp().unsigned_abs() + left;
    let class = status.class.as_str();
    for (name, value) in [
        ("x-ratelimit-limit", limit.to_string()),
        ("x-ratelimit-remaining", status.remaining.to_string()),
        ("x-ratelimit-reset", reset.to_string()),
        ("ratelimit-policy", format!(r#""{class}";q={limit};w={window}"#)),
        ("ratelimit", format!(r#""{class}";r={};t={left}"#, status.remaining)),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}
