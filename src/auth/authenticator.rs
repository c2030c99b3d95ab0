//! Verification of credentials.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use moka::future::Cache;
use oriva_hub_actors::{
    model::{AppId, Identity, KeyId, Scope, Timestamp, UserId},
    ports::{Credentials, Expiry, RefreshError},
};
use secrecy::SecretString;
use tokio::sync::Semaphore;

use super::{ApiKeySecret, TokenError, Tokens};
use crate::{
    config::{Secrets, secret_matches},
    store::{App, Store, StoreError},
};

/// Greatest number of keys and of apps in the cache.
const CACHED: u64 = 10_000;
/// Lifetime of a cache entry that is not invalidated.
const CACHED_FOR: Duration = Duration::from_secs(60);

/// How long a key that nobody has is remembered.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// Keys that were never seen here and are looked up at once. Whoever sends made-up keys takes no more of the store than this.
const LOOKUPS: usize = 4;
/// How long a key that was good is known to be none that somebody made up.
const SEEN_FOR: Duration = Duration::from_secs(24 * 3600);

/// An app's server with a valid key.
#[derive(Debug, Clone)]
pub struct KeyHolder {
    /// The app whose key it is.
    pub app: Arc<App>,
    /// The key that was presented.
    pub key: KeyId,
}

/// A user with a valid token.
#[derive(Debug, Clone)]
pub struct TokenHolder {
    /// The user.
    pub user: UserId,
    /// The app that made the token.
    pub issuer: Arc<App>,
    /// When the token ends.
    pub expires_at: Timestamp,
}

/// The caller behind a credential.
#[derive(Debug, Clone)]
pub enum Caller {
    /// An app, by its API key.
    App(KeyHolder),
    /// A user, by a token.
    User(TokenHolder),
    /// The operator, by the admin key.
    Admin,
}

/// Why a credential is refused.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Neither a key nor a token of this hub.
    #[error("the credential is not known")]
    Unknown,
    /// The key was revoked.
    #[error("the key was revoked")]
    Revoked,
    /// The token's time is over.
    #[error("the token has expired")]
    Expired,
    /// The token is signed, but what it says is not accepted.
    #[error(transparent)]
    Token(TokenError),
    /// The app is not active.
    #[error("the app is not active")]
    Inactive,
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A key in the cache.
struct KnownKey {
    id: KeyId,
    is_revoked: bool,
    app: Arc<App>,
}

/// Verifies credentials.
pub struct Authenticator {
    store: Arc<dyn Store>,
    tokens: Tokens,
    admin_key: SecretString,
    keys: Cache<[u8; 32], Arc<KnownKey>>,
    apps: Cache<AppId, Arc<App>>,
    unknown: Cache<[u8; 32], ()>,
    /// Keys that were good once. They are looked up again without waiting behind those that may be made up.
    seen: Cache<[u8; 32], ()>,
    lookups: Semaphore,
    /// Rises when cached entries may be wrong.
    generation: AtomicU64,
    /// When keys were last used, until a worker writes it. So no request costs a write.
    used: Mutex<HashMap<KeyId, Timestamp>>,
}

impl Authenticator {
    /// Looks credentials up in `store`, and verifies tokens with the secret among `secrets`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, secrets: &Secrets) -> Self {
        Self {
            store,
            tokens: Tokens::new(&secrets.token_secret),
            admin_key: secrets.admin_key.clone(),
            keys: Cache::builder().max_capacity(CACHED).time_to_live(CACHED_FOR).build(),
            apps: Cache::builder().max_capacity(CACHED).time_to_live(CACHED_FOR).build(),
            unknown: Cache::builder().max_capacity(CACHED).time_to_live(UNKNOWN_FOR).build(),
            seen: Cache::builder().max_capacity(CACHED).time_to_live(SEEN_FOR).build(),
            lookups: Semaphore::new(LOOKUPS),
            generation: AtomicU64::new(0),
            used: Mutex::default(),
        }
    }

    /// Verifies an API key, a user token or the admin key.
    ///
    /// # Errors
    /// [`AuthError`]. All variants but `Store` are a refusal.
    pub async fn authenticate(&self, credential: &str) -> Result<Caller, AuthError> {
        if let Some(key) = ApiKeySecret::parse(credential) {
            return self.key_holder(&key).await.map(Caller::App);
        }
        if secret_matches(&self.admin_key, credential) {
            return Ok(Caller::Admin);
        }
        self.token_holder(credential).await.map(Caller::User)
    }

    async fn key_holder(&self, key: &ApiKeySecret) -> Result<KeyHolder, AuthError> {
        let hash = key.hash();
        if self.unknown.contains_key(&hash) {
            return Err(AuthError::Unknown);
        }
        let (generation, was_seen) = (self.generation(), self.seen.contains_key(&hash));
        let known = self.cached(&self.keys, hash, async {
            let _turn = if was_seen { None } else { self.lookups.acquire().await.ok() };
            let found = self.store.key_by_hash(&hash).await?;
            Ok(found.map(|(key, app)| {
                Arc::new(KnownKey { id: key.id, is_revoked: key.revoked_at.is_some(), app: Arc::new(app) })
            }))
        });
        let Some(known) = known.await? else {
            if generation == self.generation() {
                self.unknown.insert(hash, ()).await;
            }
            return Err(AuthError::Unknown);
        };
        if !was_seen {
            self.seen.insert(hash, ()).await;
        }
        let KnownKey { id, is_revoked, app } = &*known;
        if *is_revoked {
            return Err(AuthError::Revoked);
        }
        if !app.is_active {
            return Err(AuthError::Inactive);
        }
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(*id, Timestamp::now());
        Ok(KeyHolder { app: app.clone(), key: *id })
    }

    async fn token_holder(&self, token: &str) -> Result<TokenHolder, AuthError> {
        let token = self.tokens.verify(token).map_err(|error| match error {
            TokenError::Expired => AuthError::Expired,
            TokenError::Claims(_) => AuthError::Token(error),
            TokenError::Invalid => AuthError::Unknown,
        })?;
        let issuer = self.app(&token.app).await?.ok_or(AuthError::Unknown)?;
        if !issuer.is_active {
            return Err(AuthError::Inactive);
        }
        Ok(TokenHolder { user: token.user, issuer, expires_at: token.expires_at })
    }

    /// Returns an app, from the cache if it is there.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn app(&self, id: &AppId) -> Result<Option<Arc<App>>, StoreError> {
        self.cached(&self.apps, id.clone(), async { Ok(self.store.app(id).await?.map(Arc::new)) }).await
    }

    /// Returns what a cache has, or reads it: once, for however many ask at the same time. What is not there is not
    /// cached.
    async fn cached<K, V>(
        &self,
        cache: &Cache<K, V>,
        key: K,
        read: impl Future<Output = Result<Option<V>, StoreError>>,
    ) -> Result<Option<V>, StoreError>
    where
        K: Hash + Eq + Clone + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
    {
        let generation = self.generation();
        // The error of a missing entry is `None`.
        let read = async { read.await.map_err(Some)?.ok_or(None) };
        match cache.try_get_with_by_ref(&key, read).await {
            Ok(value) => {
                if generation != self.generation() {
                    // It was read before a change and cached after it.
                    cache.invalidate(&key).await;
                }
                Ok(Some(value))
            }
            Err(error) if error.is_none() => Ok(None),
            // The others that waited are told no more than that.
            Err(error) => Err(Arc::into_inner(error).flatten().unwrap_or_else(StoreError::no_answer)),
        }
    }

    /// What issues and verifies tokens.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Rises with [`Authenticator::forget`]. What was authenticated under an earlier generation must be checked again.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Empties the caches of apps and keys.
    pub fn forget(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.keys.invalidate_all();
        self.apps.invalidate_all();
        self.unknown.invalidate_all();
    }

    /// Takes the times at which keys were last used, to be written.
    #[must_use]
    pub fn take_used(&self) -> Vec<(KeyId, Timestamp)> {
        std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner)).into_iter().collect()
    }
}

/// What the users of an app see.
#[must_use]
pub fn scope_of(app: &App) -> Scope {
    if app.is_platform { Scope::AllApps } else { Scope::App(app.id.clone()) }
}

impl KeyHolder {
    /// Who the connection belongs to.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::App { app: self.app.id.clone(), key: self.key }
    }

    /// A user of the app, on a connection that the app opened for that user.
    #[must_use]
    pub fn identity_of(&self, user: UserId) -> Identity {
        Identity::User { user, issuer: self.app.id.clone(), key: Some(self.key), scope: scope_of(&self.app) }
    }
}

impl TokenHolder {
    /// Who the connection belongs to.
    #[must_use]
    pub fn identity(&self) -> Identity {
        let scope = scope_of(&self.issuer);
        Identity::User { user: self.user.clone(), issuer: self.issuer.id.clone(), key: None, scope }
    }

    /// When the token ends.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        let remaining = self.expires_at.unix_ms().saturating_sub(Timestamp::now().unix_ms());
        Expiry { at: self.expires_at, remaining: Duration::from_millis(u64::try_from(remaining).unwrap_or(0)) }
    }
}

#[async_trait]
impl Credentials for Authenticator {
    async fn refresh(&self, token: &str, holder: &Identity) -> Result<Expiry, RefreshError> {
        let refused = |code, message: &str| RefreshError { code, message: message.to_owned() };
        if holder.grant().key.is_some() {
            return Err(refused("validation_failed", "an app's key does not run out: there is nothing to refresh"));
        }
        match self.token_holder(token).await {
            Ok(new) if new.identity() == *holder => Ok(new.expiry()),
            Ok(_) => Err(refused("forbidden", "the token is another user's, or another app's")),
            Err(AuthError::Expired) => Err(refused("token_expired", "the token has expired")),
            Err(AuthError::Store(_)) => Err(refused("overloaded", "tokens cannot be verified now; try again")),
            Err(AuthError::Token(reason)) => Err(refused("unauthenticated", &reason.to_string())),
            Err(_) => Err(refused("unauthenticated", "the token is not valid")),
        }
    }
}
