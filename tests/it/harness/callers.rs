//! Clients of the HTTP API: `work_buddy.publish(…)`.

use std::{net::SocketAddr, sync::OnceLock};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::{Refused, Socket};

/// An HTTP response with its body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// `Null` if it is not JSON.
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or("")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The names of the faulty fields, sorted.
    pub fn fields(&self) -> Vec<&str> {
        let details = self.body["details"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut names: Vec<_> = details.iter().filter_map(|detail| detail["field"].as_str()).collect();
        names.sort_unstable();
        names
    }
}

pub fn client() -> reqwest::Client {
    // The hub installs it too, but a test may start no hub in this process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // One client for each runtime: its connections belong to the runtime that opened them.
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

pub async fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    credential: Option<&str>,
    headers: &[(&str, &str)],
    body: Option<Value>,
) -> Answer {
    let mut request = client().request(method.parse().expect("a method"), format!("http://{addr}{path}"));
    if let Some(credential) = credential {
        request = request.bearer_auth(credential);
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    read(request).await
}

pub async fn read(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("a body");
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null) }
}

/// An app's server.
#[derive(Clone)]
pub struct App {
    pub addr: SocketAddr,
    pub id: String,
    pub key: String,
    client: OnceLock<reqwest::Client>,
}

impl App {
    pub fn new(addr: SocketAddr, id: &str, key: &str) -> Self {
        Self { addr, id: id.to_owned(), key: key.to_owned(), client: OnceLock::new() }
    }

    /// The same app as a client of another hub.
    pub fn at(&self, addr: SocketAddr) -> Self {
        Self::new(addr, &self.id, &self.key)
    }

    pub fn client(&self) -> &reqwest::Client {
        self.client.get_or_init(client)
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("http://{}/api/v1/apps/{}{path}", self.addr, self.id);
        self.client().request(method.parse().expect("a method"), url).bearer_auth(&self.key)
    }

    /// Events that differ in their entity's id alone.
    pub fn event(user: &str, entity_id: impl ToString) -> Value {
        json!({
            "user_id": user,
            "event_category": "notification",
            "event_type": "created",
            "entity_type": "notification",
            "entity_id": entity_id.to_string(),
            "event_data": {"n": 1}
        })
    }

    pub async fn post(&self, event: &Value) -> Answer {
        read(self.request("POST", "/events").json(event)).await
    }

    pub async fn post_with_key(&self, event: &Value, idempotency_key: &str) -> Answer {
        read(self.request("POST", "/events").header("Idempotency-Key", idempotency_key).json(event)).await
    }

    /// Publishes an event, which must be accepted. Returns its offset in the app's stream.
    pub async fn publish(&self, user: &str, entity_id: impl ToString) -> u64 {
        let answer = self.post(&Self::event(user, entity_id)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["offset"].as_u64().expect("an offset")
    }

    pub async fn broadcast(&self, entity_id: impl ToString) -> u64 {
        let mut event = Self::event("", entity_id);
        event.as_object_mut().expect("an object").remove("user_id");
        event["audience"] = json!("all");
        let answer = self.post(&event).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["offset"].as_u64().expect("an offset")
    }

    pub async fn events(&self, query: &str) -> Answer {
        read(self.request("GET", &format!("/events{query}"))).await
    }

    /// A notification with the required fields alone.
    pub fn notification(user: &str, title: impl ToString) -> Value {
        json!({"user_id": user, "title": title.to_string(), "body": "body"})
    }

    pub async fn create(&self, notification: &Value) -> Answer {
        read(self.request("POST", "/notifications").json(notification)).await
    }

    /// Creates a notification, which must be accepted. Returns its id.
    pub async fn notify(&self, notification: &Value) -> String {
        let answer = self.create(notification).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["notification_id"].as_str().expect("an id").to_owned()
    }

    /// The inbox of one of its users, with a token of that user.
    pub async fn user(&self, user: &str) -> Inbox {
        Inbox { addr: self.addr, user: user.to_owned(), credential: self.token(user).await }
    }

    /// The inbox of a user, with the app's own key.
    pub fn inbox(&self, user: &str) -> Inbox {
        Inbox { addr: self.addr, user: user.to_owned(), credential: self.key.clone() }
    }

    /// Registers a webhook, which must be accepted. Returns the response.
    pub async fn webhook(&self, url: &str, events: &[&str]) -> Value {
        self.webhook_with(&json!({"webhook_url": url, "subscribed_events": events})).await
    }

    pub async fn webhook_with(&self, body: &Value) -> Value {
        let answer = read(self.request("POST", "/webhooks").json(body)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body
    }

    /// A request about a webhook.
    pub async fn webhook_request(&self, method: &str, id: &Value, path: &str, body: Option<Value>) -> Answer {
        let id = id.as_str().expect("an id");
        let request = self.request(method, &format!("/webhooks/{id}{path}"));
        read(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    pub async fn deliveries(&self, id: &Value, query: &str) -> Vec<Value> {
        let answer = self.webhook_request("GET", id, &format!("/deliveries{query}"), None).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body["deliveries"].as_array().expect("a list").clone()
    }

    /// A token for one of its users.
    pub async fn token(&self, user: &str) -> String {
        self.token_for(user, 3600).await
    }

    pub async fn token_for(&self, user: &str, ttl_seconds: u64) -> String {
        let path = format!("/users/{user}/tokens");
        let answer = read(self.request("POST", &path).json(&json!({"ttl_seconds": ttl_seconds}))).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["token"].as_str().expect("a token").to_owned()
    }

    /// Opens a socket for one of its users, and takes the `welcome`.
    pub async fn connect(&self, user: &str) -> Socket {
        Socket::open(self.addr, &self.token(user).await).await.expect("welcomed")
    }

    /// Opens a socket with the app's key, and takes the `welcome`.
    pub async fn connect_app(&self) -> Socket {
        self.try_connect_app().await.expect("welcomed")
    }

    pub async fn try_connect_app(&self) -> Result<Socket, Refused> {
        Socket::open(self.addr, &self.key).await
    }
}

/// A user's inbox, opened with one credential.
#[derive(Clone)]
pub struct Inbox {
    pub addr: SocketAddr,
    pub user: String,
    pub credential: String,
}

impl Inbox {
    pub async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        send(self.addr, method, &format!("/api/v1{path}"), Some(&self.credential), &[], body).await
    }

    pub async fn feed(&self, query: &str) -> Answer {
        let answer = self.ask("GET", &format!("/users/{}/notifications{query}", self.user), None).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        answer
    }

    /// The titles of a feed, in order.
    pub async fn titles(&self, query: &str) -> Vec<String> {
        let feed = self.feed(query).await;
        let title = |one: &Value| one["title"].as_str().expect("a title").to_owned();
        feed.body["notifications"].as_array().expect("a feed").iter().map(title).collect()
    }

    pub async fn unread(&self) -> u64 {
        self.feed("").await.body["unread_count"].as_u64().expect("a count")
    }

    pub async fn counts(&self) -> Value {
        self.ask("GET", &format!("/users/{}/notifications/counts", self.user), None).await.body
    }

    pub async fn read_all(&self, body: Value) -> Answer {
        self.ask("POST", &format!("/users/{}/notifications/read-all", self.user), Some(body)).await
    }

    pub async fn get(&self, id: &str) -> Answer {
        self.ask("GET", &format!("/notifications/{id}"), None).await
    }

    pub async fn patch(&self, id: &str, body: Value) -> Answer {
        self.ask("PATCH", &format!("/notifications/{id}"), Some(body)).await
    }

    /// Changes a notification's status, which must succeed.
    pub async fn set(&self, id: &str, status: &str) -> Value {
        let answer = self.patch(id, json!({"status": status})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    pub async fn delete(&self, id: &str) -> Answer {
        self.ask("DELETE", &format!("/notifications/{id}"), None).await
    }
}
