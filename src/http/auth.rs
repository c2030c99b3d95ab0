//! Credentials as handler arguments: a handler's signature says who may call it (ARCHITECTURE.md, invariant 8).
//!
//! The order of checks is that of contract §1: 401, then 404 for an app that does not exist, then 403 for an app that is
//! not the caller's, then 429. The body is read after that, so a caller that is refused costs no memory.

use std::{marker::PhantomData, net::IpAddr, pin::Pin, sync::Arc};

use actix_web::{
    FromRequest, HttpMessage as _, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
    web::Data,
};
use oriva_hub_actors::model::{AppId, TraceParent, UserId};

use super::{
    client_address::client_address,
    path,
    problem::{Code, Problem},
    rate_limit::{Charge, RouteClass},
    request_id,
};
use crate::{
    auth::{AuthError, Caller, KeyHolder},
    hub::Hub,
    limits::RateLimitKey,
    store::{AccessScope, App, Audit, Origin},
};

/// Characters of a `User-Agent` that are stored.
const USER_AGENT_CHARACTERS: usize = 512;

/// Where clients of the original platform send a key, instead of `Authorization`.
const API_KEY: &str = "x-api-key";

const WANTS_KEY: &str = "this route wants an app's API key";

/// An app's server at one of the app's own routes. The request counts against the limit of class `C`.
pub struct AppKey<C> {
    holder: KeyHolder,
    class: PhantomData<C>,
}

impl<C: RouteClass> AppKey<C> {
    /// The app and its key.
    #[must_use]
    pub fn holder(&self) -> &KeyHolder {
        &self.holder
    }

    /// Counts `more` requests beyond the first: a batch costs its length.
    ///
    /// # Errors
    /// 413 where the batch could never pass, and 429. Nothing more is counted then.
    pub async fn consume_more(&self, request: &HttpRequest, hub: &Hub, more: u32) -> Result<(), Problem> {
        Charge::of_app(&self.holder).consume_more::<C>(request, hub, more).await
    }

    /// The request's origin, for the audit log.
    #[must_use]
    pub fn origin(&self, request: &HttpRequest) -> Origin {
        origin(request, self.holder.app.id.to_string())
    }

    /// The actor that audit rows name.
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
            let hub = hub_from_request(&request)?;
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
            Charge::of_app(&holder).consume::<C>(&request, &hub, 1).await?;
            Ok(Self { holder, class: PhantomData })
        })
    }
}

/// A user's device, or an app's server, at a route for notifications. The path names no app.
pub struct InboxAccess<C> {
    app: Arc<App>,
    scope: AccessScope,
    /// The user of the path, if it names one.
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
    /// 404 if it names none.
    pub fn user(&self) -> Result<&UserId, Problem> {
        self.user.as_ref().ok_or_else(Problem::not_found)
    }

    /// The caller's app: the key's, or the one that issued the token.
    #[must_use]
    pub fn app_id(&self) -> &AppId {
        &self.app.id
    }

    /// The request's origin, for the audit log.
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
            let hub = hub_from_request(&request)?;
            let caller = authenticate(&request, &hub).await?;
            let user = path::user_id(&request)?;
            let (app, token_user, charge) = match caller {
                Caller::App(holder) => (holder.app.clone(), None, Charge::of_app(&holder)),
                Caller::User(holder) => {
                    let key = RateLimitKey::User(holder.issuer.id.clone(), holder.user.clone());
                    (holder.issuer, Some(holder.user), Charge::of_user(key))
                }
                Caller::Admin => {
                    return Err(Problem::new(Code::Forbidden, "this route wants a user's token or an app's API key"));
                }
            };
            if let (Some(own), Some(asked)) = (&token_user, &user)
                && own != asked
            {
                return Err(Problem::new(
                    Code::Forbidden,
                    "a user's token opens only that user's own notifications and presence",
                ));
            }
            charge.consume::<C>(&request, &hub, 1).await?;
            let scope = AccessScope { user: token_user, app: (!app.is_platform).then(|| app.id.clone()) };
            Ok(Self { app, scope, user, class: PhantomData })
        })
    }
}

/// The operator, with the admin key.
pub struct Admin {
    ip: Option<IpAddr>,
}

impl Admin {
    /// The actor that audit rows name.
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
            let hub = hub_from_request(&request)?;
            match authenticate(&request, &hub).await? {
                Caller::Admin => Ok(Self { ip: client_address(&request) }),
                Caller::App(_) | Caller::User(_) => {
                    Err(Problem::new(Code::Forbidden, "this route wants the admin key"))
                }
            }
        })
    }
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
    let credential = credential(request.headers())
        .ok_or_else(|| Problem::new(Code::Unauthenticated, "send Authorization: Bearer and a credential"))?;
    let caller = hub.auth().authenticate(credential).await;
    if let Err(AuthError::Token(reason)) = &caller {
        tracing::info!(request_id = %request_id::current(), %reason, "token refused");
    }
    Ok(caller?)
}

/// The credential of `Authorization: Bearer`, or of `X-API-Key` if there is no header `Authorization`.
pub(super) fn credential(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION);
    let Some(value) = values.next() else {
        return headers.get(API_KEY)?.to_str().ok().map(str::trim);
    };
    if values.next().is_some() {
        // Which of them a proxy believed is not known.
        return None;
    }
    let (scheme, credential) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

fn hub_from_request(request: &HttpRequest) -> Result<Data<Hub>, Problem> {
    request.app_data::<Data<Hub>>().cloned().ok_or_else(|| Problem::new(Code::Internal, "the hub is not built"))
}
