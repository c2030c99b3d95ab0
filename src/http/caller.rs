//! Credentials as handler arguments: the access rule of a route stands in its signature (architecture, invariant 8).
//!
//! The order of checks is contract §1's: 401, 404 for an app that does not exist, 403 for one that is not the caller's,
//! 429; the body is read after that.

use std::{marker::PhantomData, net::IpAddr, pin::Pin};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderMap},
    web::Data,
};
use oriva_hub_actors::model::AppId;

use super::problem::{Code, Problem};
use crate::{
    auth::{Caller, KeyHolder},
    hub::Hub,
    limits::{Budget, Class, Exhausted, Spender},
    store::Audit,
};

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
    /// Reading.
    Read => Some(Class::Read);
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
    pub fn spend_more(&self, request: &HttpRequest, hub: &Hub, cost: u32) -> Result<(), Problem> {
        spend(request, hub, &self.holder, C::CLASS, cost)
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
                    return Err(Problem::new(Code::Forbidden, "this credential does not open that app"));
                }
                _ => {}
            }
            let Caller::App(holder) = caller else {
                return Err(Problem::new(Code::Forbidden, "this route wants an app's API key"));
            };
            spend(&request, &hub, &holder, C::CLASS, 1)?;
            Ok(Self { holder, class: PhantomData })
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
                Caller::Admin => Ok(Self { ip: request.peer_addr().map(|address| address.ip()) }),
                Caller::App(_) | Caller::User(_) => {
                    Err(Problem::new(Code::Forbidden, "this route wants the admin key"))
                }
            }
        })
    }
}

async fn authenticate(request: &HttpRequest, hub: &Hub) -> Result<Caller, Problem> {
    let credential = bearer(request.headers())
        .ok_or_else(|| Problem::new(Code::Unauthenticated, "send Authorization: Bearer and a credential"))?;
    Ok(hub.auth().authenticate(credential).await?)
}

/// The credential of an `Authorization: Bearer` header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

fn hub_of(request: &HttpRequest) -> Result<Data<Hub>, Problem> {
    request.app_data::<Data<Hub>>().cloned().ok_or_else(|| Problem::new(Code::Internal, "the hub is not built"))
}

fn spend(request: &HttpRequest, hub: &Hub, holder: &KeyHolder, class: Option<Class>, cost: u32) -> Result<(), Problem> {
    let Some(class) = class else { return Ok(()) };
    let own = holder.app.limits.get(class.as_str()).copied();
    let note = |budget: Budget| request.extensions_mut().insert(budget);
    match hub.limits().spend(&Spender::App(holder.app.id.clone()), class, own, cost) {
        Ok(budget) => {
            budget.map(note);
            Ok(())
        }
        Err(Exhausted(budget)) => {
            note(budget);
            Err(Exhausted(budget).into())
        }
    }
}
