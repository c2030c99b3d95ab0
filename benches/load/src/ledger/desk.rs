//! Requests: an app of the tool's own, and lanes that publish, notify and dismiss. A request is sent again, under its
//! idempotency key, until it has an answer: so what was accepted is known.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::book::Book;
use crate::Failure;

const TIMEOUT: Duration = Duration::from_secs(20);
/// The pause before a request is sent again.
const PAUSE: Duration = Duration::from_millis(500);
/// How often a request is sent again after the run has ended.
const LAST_ATTEMPTS: usize = 60;

pub struct Desk {
    client: Client,
    urls: Vec<url::Url>,
    next: AtomicUsize,
    admin_key: String,
    app: String,
    key: String,
    tokens: Vec<String>,
    marks: AtomicU64,
}

/// An answer, whatever it is.
struct Answer {
    status: StatusCode,
    body: Value,
}

impl Desk {
    /// Makes an app with budgets that no run exceeds, and a token for every user.
    pub async fn open(urls: &[url::Url], admin_key: &str, users: usize) -> Result<Self, Failure> {
        let client = Client::builder().timeout(TIMEOUT).build().map_err(failed)?;
        let app = format!("ledger-{:08x}", rand::random::<u32>());
        let mut desk = Self {
            client,
            urls: urls.to_vec(),
            next: AtomicUsize::new(0),
            admin_key: admin_key.to_owned(),
            app,
            key: String::new(),
            tokens: Vec::new(),
            marks: AtomicU64::new(0),
        };
        let made = desk
            .must("POST", "/api/v1/admin/apps", admin_key, Some(json!({"app_id": desk.app, "name": "ledger"})))
            .await?;
        made["api_key"].as_str().unwrap_or_default().clone_into(&mut desk.key);
        let most = 1_000_000_000;
        let limits = json!({"limits": {"publish": most, "read": most, "notify": most, "webhooks": most}});
        desk.must("PATCH", &format!("/api/v1/admin/apps/{}", desk.app), admin_key, Some(limits)).await?;
        for user in 0..users {
            let path = desk.path(&format!("/users/{}/tokens", desk.user(user)));
            let made = desk.must("POST", &path, &desk.key, Some(json!({"ttl_seconds": 86_400}))).await?;
            desk.tokens.push(made["token"].as_str().unwrap_or_default().to_owned());
        }
        Ok(desk)
    }

    pub fn app(&self) -> &str {
        &self.app
    }

    /// Of this run alone: a user's stream outlives it.
    fn user(&self, n: usize) -> String {
        format!("{}-{n}", self.app)
    }

    pub fn token(&self, user: usize) -> &str {
        &self.tokens[user]
    }

    /// The addresses in turn.
    pub fn url(&self) -> &url::Url {
        &self.urls[self.next.fetch_add(1, Relaxed) % self.urls.len()]
    }

    fn path(&self, rest: &str) -> String {
        format!("/api/v1/apps/{}{rest}", self.app)
    }

    /// Registers the endpoint. Returns its secret.
    pub async fn register_webhook(&self, url: &str) -> Result<String, Failure> {
        // As patient as a run may need: the hub may be down for long.
        let webhook = json!({"webhook_url": url, "subscribed_events": ["**"], "max_retries": 10});
        let made = self.must("POST", &self.path("/webhooks"), &self.key, Some(webhook)).await?;
        Ok(made["webhook_secret"].as_str().unwrap_or_default().to_owned())
    }

    /// Sends the app away again; what it has done stays.
    pub async fn close(&self) {
        let path = format!("/api/v1/admin/apps/{}", self.app);
        let _ = self.must("PATCH", &path, &self.admin_key, Some(json!({"is_active": false}))).await;
    }

    /// One lane: what is due, one after the other, until it is told to halt.
    pub async fn work(&self, lane: usize, pause: Duration, book: &Book, halted: watch::Receiver<bool>) {
        let mut due = tokio::time::interval(pause);
        let mut unread: Vec<(usize, String)> = Vec::new();
        for turn in 0_usize.. {
            let mut halt = halted.clone();
            tokio::select! {
                _ = due.tick() => {}
                _ = halt.wait_for(|halted| *halted) => return,
            }
            let user = (turn * 31 + lane * 17) % self.tokens.len();
            match turn % 5 {
                0 => self.notify(user, book, &halted, &mut unread).await,
                1 if !unread.is_empty() => {
                    let (user, id) = unread.swap_remove(turn % unread.len());
                    self.dismiss(user, &id, book, &halted).await;
                }
                _ => self.publish(user, book, &halted).await,
            }
        }
    }

    async fn publish(&self, user: usize, book: &Book, halted: &watch::Receiver<bool>) {
        let mark = self.marks.fetch_add(1, Relaxed);
        let answer = self
            .insist("POST", &self.path("/events"), &self.key, &super::event(&self.user(user), mark), book, halted)
            .await;
        if let Some(event) = answer.as_ref().and_then(|answer| answer["event_id"].as_str()) {
            book.accept(user, event);
        }
    }

    async fn notify(
        &self,
        user: usize,
        book: &Book,
        halted: &watch::Receiver<bool>,
        unread: &mut Vec<(usize, String)>,
    ) {
        let mark = self.marks.fetch_add(1, Relaxed);
        let body = json!({"user_id": self.user(user), "title": format!("mark {mark}"), "body": "From the ledger"});
        let answer = self.insist("POST", &self.path("/notifications"), &self.key, &body, book, halted).await;
        if let Some(id) = answer.as_ref().and_then(|answer| answer["notification_id"].as_str()) {
            book.accept(user, &format!("notification.created {id}"));
            book.unread(user, 1);
            unread.push((user, id.to_owned()));
        }
    }

    async fn dismiss(&self, user: usize, id: &str, book: &Book, halted: &watch::Receiver<bool>) {
        let body = json!({"status": "dismissed", "dismissed_from": "ledger"});
        let path = format!("/api/v1/notifications/{id}");
        // Dismissing twice changes nothing, so it needs no key.
        if self.insist("PATCH", &path, &self.tokens[user], &body, book, halted).await.is_some() {
            book.accept(user, &format!("notification.dismissed {id}"));
            book.unread(user, -1);
        }
    }

    /// Sends a request until it has an answer. `None` where it never had one, or was refused for good.
    async fn insist(
        &self,
        method: &str,
        path: &str,
        credential: &str,
        body: &Value,
        book: &Book,
        halted: &watch::Receiver<bool>,
    ) -> Option<Value> {
        let key = format!("{:032x}", rand::random::<u128>());
        let mut attempts_after_the_end = 0;
        loop {
            match self.ask(method, path, credential, Some(body), Some(&key)).await {
                Ok(Answer { status, body }) if status.is_success() => return Some(body),
                Ok(Answer { status, body }) => {
                    book.refused.fetch_add(1, Relaxed);
                    // 409: the first attempt is being worked on.
                    if status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 429) {
                        book.fault("refused for good", format!("{method} {path}: {status} {body}"));
                        return None;
                    }
                }
                Err(_) => {
                    book.repeated_requests.fetch_add(1, Relaxed);
                }
            }
            attempts_after_the_end += usize::from(*halted.borrow());
            if attempts_after_the_end > LAST_ATTEMPTS {
                book.fault("never answered", format!("{method} {path}"));
                return None;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Users whose unread count is not what the book says. `None` where they cannot be asked.
    pub async fn counts(&self, book: &Book) -> Option<Vec<String>> {
        let mut wrong = Vec::new();
        for (user, token) in self.tokens.iter().enumerate() {
            let path = format!("/api/v1/users/{}/notifications/counts", self.user(user));
            let counts = self.must("GET", &path, token, None).await.ok()?;
            let (is, must) = (counts["unread"].as_u64()?, book.unread_of(user));
            if is != must {
                wrong.push(format!("user {user}: {is} unread, and {must} were made and not dismissed"));
            }
        }
        Some(wrong)
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        credential: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Answer, reqwest::Error> {
        let url = format!("{}{path}", self.url().as_str().trim_end_matches('/'));
        let method = method.parse().unwrap_or(reqwest::Method::GET);
        let mut request = self.client.request(method, url).bearer_auth(credential);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await?;
        let status = answer.status();
        Ok(Answer {
            status,
            body: answer
                .json()
                .await
                .or_else(|error| if status.is_success() { Err(error) } else { Ok(Value::Null) })?,
        })
    }

    /// A request that must succeed, within some attempts.
    async fn must(&self, method: &str, path: &str, credential: &str, body: Option<Value>) -> Result<Value, Failure> {
        let mut last = Failure::Closed;
        for _ in 0..20 {
            match self.ask(method, path, credential, body.as_ref(), None).await {
                Ok(Answer { status, body }) if status.is_success() => return Ok(body),
                Ok(Answer { status, body }) if status.is_client_error() && status.as_u16() != 429 => {
                    return Err(Failure::Refused(status.as_u16(), body.to_string()));
                }
                Ok(Answer { status, body }) => last = Failure::Refused(status.as_u16(), body.to_string()),
                Err(error) => last = failed(error),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(last)
    }
}

fn failed(error: reqwest::Error) -> Failure {
    Failure::Answer(error.without_url().to_string())
}
