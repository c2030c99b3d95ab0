//! Fakes of the ports and makers of events, for tests of the core (feature `testing`).

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::{
    model::{
        AppId, Category, Event, EventId, EventType, JsonObject, Offset, Offsets, Published, StreamKey, Timestamp,
        UserId,
    },
    ports::{EventHistory, Page, Unavailable},
};

/// An event of app `work-buddy` for `user`, at these offsets of its user's and its app's stream.
///
/// # Panics
/// Where `user` is no user id.
#[must_use]
pub fn event(user: &str, user_offset: Offset, app_offset: Offset) -> Arc<Published> {
    published(Some(user), Offsets { app: app_offset, user: Some(user_offset), broadcast: None })
}

/// A broadcast of app `work-buddy`, which is no platform app.
#[must_use]
pub fn broadcast(broadcast_offset: Offset, app_offset: Offset) -> Arc<Published> {
    published(None, Offsets { app: app_offset, user: None, broadcast: Some(broadcast_offset) })
}

fn published(user: Option<&str>, offsets: Offsets) -> Arc<Published> {
    Published::new(Event {
        id: EventId::generate(),
        app_id: AppId::parse("work-buddy").expect("a slug"),
        user_id: user.map(|user| UserId::parse(user).expect("a user id")),
        category: Category::Notification,
        event_type: EventType::from_store("created"),
        entity_type: "notification".to_owned(),
        entity_id: "n1".to_owned(),
        data: JsonObject::empty(),
        timestamp: Timestamp::from_unix_ms(0),
        created_at: Timestamp::from_unix_ms(0),
        from_platform: false,
        offsets,
    })
}

/// A history in memory that can be told to fail.
#[derive(Default)]
pub struct MemoryHistory {
    events: Mutex<Vec<Arc<Published>>>,
    down: std::sync::atomic::AtomicBool,
}

impl MemoryHistory {
    /// Adds a committed event.
    ///
    /// # Panics
    /// Where another thread panicked while it held the lock.
    pub fn commit(&self, event: Arc<Published>) {
        self.events.lock().expect("no thread panicked").push(event);
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, std::sync::atomic::Ordering::SeqCst);
    }

    fn of(&self, stream: &StreamKey) -> Result<Vec<Arc<Published>>, Unavailable> {
        if self.down.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(Unavailable);
        }
        let holds = |event: &&Arc<Published>| match stream {
            StreamKey::User(user) => event.event().user_id.as_ref() == Some(user),
            StreamKey::App(app) => event.event().app_id == *app,
            StreamKey::Broadcast => event.event().user_id.is_none(),
        };
        let mut events: Vec<_> =
            self.events.lock().expect("no thread panicked").iter().filter(holds).cloned().collect();
        events.sort_by_key(|event| event.offset_in(stream.kind()));
        Ok(events)
    }
}

#[async_trait]
impl EventHistory for MemoryHistory {
    async fn head(&self, stream: &StreamKey) -> Result<Offset, Unavailable> {
        Ok(self.of(stream)?.last().map_or(0, |event| event.offset_in(stream.kind())))
    }

    async fn page(&self, stream: &StreamKey, after: Offset, limit: usize) -> Result<Page, Unavailable> {
        let all = self.of(stream)?;
        let head = all.last().map_or(0, |event| event.offset_in(stream.kind()));
        let events = all.into_iter().filter(|event| event.offset_in(stream.kind()) > after).take(limit).collect();
        Ok(Page { events, head })
    }
}
