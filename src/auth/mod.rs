//! Authentication (contract §1): API keys, user tokens, the admin key. Results are cached, and the cache is emptied
//! when a credential changes.

mod api_key;
mod authenticator;
mod seal;
mod token;

pub use api_key::ApiKeySecret;
pub use authenticator::{AuthError, Authenticator, Caller, KeyHolder, TokenHolder, scope_of};
pub use seal::{SealError, Sealer};
pub use token::{TokenError, Tokens, UserToken};
