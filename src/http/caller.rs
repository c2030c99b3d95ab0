//! Credentials as handler arguments: the access rule of a route stands in its signature (architecture, invariant 8).
//!
//! The order of checks is contract §1's: 401, 404 for an app that does not exist, 403 for one that is not the caller's,
//! 429; the body is read after that.

use std::{marker::PhantomData, net::IpAddr, pin::Pin, sync::Arc};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
    web::Data,
};
use oriva_hub_actors::model::{AppId, TraceParent, UserId};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    client_address::client_address,
    problem::{Code, Problem},
};
use crate::{
    auth::{Caller, KeyHolder},
    hub::Hub,
    limits::{Class, RateLimitKey, RateLimitStatus, RateLimited},
    store::{AccessScope, App, Audit, Origin},
};

/// What is kept of a `User-Agent`.
const USER_AGENT_CHARACTERS: usize = 512;

const WANTS_KEY: &str = "this route wants an app's API key";

/// The class of a route, as a type.
pub trait RouteClass: 'static {
    /// `None`: not limited.
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
    /// Publishing.
    Publish => Some(Class::Publish);
    /// Creating notifications.
    Notify => Some(Class::Notify);
    /// Reading.
    Read => Some(Class::Read);
    /// Webhooks.
    Webhooks => Some(Class::Webhooks);
    /// Not limited.
    Unlimited => None;
}

/// An app's server at one of its own routes, one request of the class's budget spent.
pub struct AppKey<C> {
    holder: KeyHolder,
    class: PhantomData<C>,
}

impl<C: RouteClass> AppKey<C> {
    #[must_use]
    pub fn holder(&self) -> &KeyHolder {
        &self.holder
    }

    /// Spends more of the budget, for a batch that costs its length. The first request was spent on the way in.
    ///
    /// # Errors
    /// 429, and nothing more was spent.
    pub async fn consume_more(&self, request: &HttpRequest, hub: &Hub, cost: u32) -> Result<(), Problem> {
        consume(request, hub, &Charge::from_key(&self.holder), C::CLASS, cost).await
    }

    /// Where the request came from.
    #[must_use]
    pub fn origin(&self, request: &HttpRequest) -> Origin {
        origin(request, self.holder.app.id.to_string())
    }

    /// Who an audit row names.
    #[must_use]
    pub fn audit(&self, request: &HttpRequest) -> Audit {
        Audit { actor: self.holder.app.id.to_string(), ip: client_address(request) }
    }
}

impl<C: RouteClass> FromRequest for AppKey<C> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let hub = hub_of(&request)?;
            let caller = authenticate(&request, &hub).await?;
            let asked = request.match_info().get("app_id").map(AppId::parse);
            let own = match &caller {
                Caller::App(holder) => Some(&holder.app.id),
                Caller::User(_) | Caller::Admin => None,
            };
            match &asked {
                Some(Err(_)) => return Err(Problem::not_found()),
                Some(Ok(asked)) if own != Some(asked) => {
                    hub.auth().app(asked).await?.ok_or_else(Problem::not_found)?;
                    return Err(Problem::new(
                        Code::Forbidden,
                        match own {
                            Some(_) => "this credential does not open that app",
                            None => WANTS_KEY,
                        },
                    ));
                }
                _ => {}
            }
            let Caller::App(holder) = caller else {
                return Err(Problem::new(Code::Forbidden, WANTS_KEY));
            };
            consume(&request, &hub, &Charge::from_key(&holder), C::CLASS, 1).await?;
            Ok(Self { holder, class: PhantomData })
        })
    }
}

/// Who sees and changes notifications: a user's device or an app's server, at a route that names neither app nor key.
pub struct InboxAccess<C> {
    app: Arc<App>,
    scope: AccessScope,
    /// The user of the path, where it names one.
    user: Option<UserId>,
    class: PhantomData<C>,
}

impl<C: RouteClass> InboxAccess<C> {
    /// What the caller may see and change.
    #[must_use]
    pub fn scope(&self) -> &AccessScope {
        &self.scope
    }

    /// The user whose inbox the path names.
    ///
    /// # Errors
    /// 404 where it names none.
    pub fn user(&self) -> Result<&UserId, Problem> {
        self.user.as_ref().ok_or_else(Problem::not_found)
    }

    /// The caller's app: the key's, or the one that issued the token.
    #[must_use]
    pub fn app_id(&self) -> &AppId {
        &self.app.id
    }

    /// Where the request came from.
    #[must_use]
    pub fn origin(&self, request: &HttpRequest) -> Origin {
        let actor = match &self.scope.user {
            Some(user) => format!("user:{user}"),
            None => self.app.id.to_string(),
        };
        origin(request, actor)
    }
}

impl<C: RouteClass> FromRequest for InboxAccess<C> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let hub = hub_of(&request)?;
            let caller = authenticate(&request, &hub).await?;
            let user = named_user(&request).as_deref().map(UserId::parse);
            let user = user.transpose().map_err(|rule| Problem::malformed_id("user_id", &rule))?;
            if user.as_ref().is_some_and(|user| user.as_str().contains(char::REPLACEMENT_CHARACTER)) {
                // The path was no UTF-8.
                return Err(Problem::not_found());
            }
            let (app, token_user, charge) = match caller {
                Caller::App(holder) => (holder.app.clone(), None, Charge::from_key(&holder)),
                Caller::User(holder) => {
                    let key = RateLimitKey::User(holder.issuer.id.clone(), holder.user.clone());
                    (holder.issuer, Some(holder.user), Charge { key, limits_of: None })
                }
                Caller::Admin => {
                    return Err(Problem::new(Code::Forbidden, "this route wants a user's token or an app's API key"));
                }
            };
            if let (Some(own), Some(asked)) = (&token_user, &user)
                && own != asked
            {
                return Err(Problem::new(Code::Forbidden, "a token opens what is its own user's alone"));
            }
            consume(&request, &hub, &charge, C::CLASS, 1).await?;
            let scope = AccessScope { user: token_user, app: (!app.is_platform).then(|| app.id.clone()) };
            Ok(Self { app, scope, user, class: PhantomData })
        })
    }
}

/// The operator.
pub struct Admin {
    ip: Option<IpAddr>,
}

impl Admin {
    /// Who an audit row names.
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit { actor: "admin".to_owned(), ip: self.ip }
    }
}

impl FromRequest for Admin {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let hub = hub_of(&request)?;
            match authenticate(&request, &hub).await? {
                Caller::Admin => Ok(Self { ip: client_address(&request) }),
                Caller::App(_) | Caller::User(_) => {
                    Err(Problem::new(Code::Forbidden, "this route wants the admin key"))
                }
            }
        })
    }
}

/// The user of the path, all of it decoded: what `match_info` gives keeps `%2B`, `%2F` and `%25`.
fn named_user(request: &HttpRequest) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        user_id: String,
    }
    request.match_info().load::<Named>().ok().map(|named| named.user_id)
}

fn origin(request: &HttpRequest, actor: String) -> Origin {
    let user_agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    Origin {
        actor,
        ip: client_address(request),
        user_agent: user_agent.map(|text| text.chars().take(USER_AGENT_CHARACTERS).collect::<String>().into()),
        trace: request.extensions().get::<TraceParent>().copied(),
    }
}

async fn authenticate(request: &HttpRequest, hub: &Hub) -> Result<Caller, Problem> {
    let credential = bearer(request.headers())
        .ok_or_else(|| Problem::new(Code::Unauthenticated, "send Authorization: Bearer and a credential"))?;
    Ok(hub.auth().authenticate(credential).await?)
}

/// An id of the hub's making in a path, in the one form that it is made in: an id has one address.
///
/// # Errors
/// 404.
pub(super) fn path_id(text: &str) -> Result<Uuid, Problem> {
    let id: Uuid = text.parse().map_err(|_| Problem::not_found())?;
    if id.to_string() == text { Ok(id) } else { Err(Problem::not_found()) }
}

/// The credential of an `Authorization: Bearer` header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

fn hub_of(request: &HttpRequest) -> Result<Data<Hub>, Problem> {
    request.app_data::<Data<Hub>>().cloned().ok_or_else(|| Problem::new(Code::Internal, "the hub is not built"))
}

/// Whose budget a request spends of.
struct Charge {
    key: RateLimitKey,
    /// The app whose own limits hold.
    limits_of: Option<Arc<App>>,
}

impl Charge {
    fn from_key(holder: &KeyHolder) -> Self {
        Self { key: RateLimitKey::App(holder.app.id.clone()), limits_of: Some(holder.app.clone()) }
    }
}

async fn consume(
    request: &HttpRequest,
    hub: &Hub,
    charge: &Charge,
    class: Option<Class>,
    cost: u32,
) -> Result<(), Problem> {
    let Some(class) = class else { return Ok(()) };
    let own = charge.limits_of.as_ref().and_then(|app| app.limits.get(class.as_str()).copied());
    let set_status = |status: RateLimitStatus| request.extensions_mut().insert(status);
    match hub.limits().consume(&charge.key, class, own, cost).await {
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
