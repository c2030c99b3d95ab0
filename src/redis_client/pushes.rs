//! The queue of pub/sub messages between a Redis connection and its reader, bounded by messages and by bytes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use redis::{PushInfo, Value};
use tokio::sync::mpsc;

/// Messages that may wait.
const MAX_MESSAGES: usize = 64 * 1024;
/// Bytes of those messages.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The connection's end.
pub struct PushSender {
    queue: mpsc::Sender<PushInfo>,
    bytes: Arc<AtomicUsize>,
}

/// The reader's end.
pub struct PushReceiver {
    queue: mpsc::Receiver<PushInfo>,
    bytes: Arc<AtomicUsize>,
}

/// A new queue.
#[must_use]
pub fn push_queue() -> (PushSender, PushReceiver) {
    let (sender, receiver) = mpsc::channel(MAX_MESSAGES);
    let bytes = Arc::new(AtomicUsize::new(0));
    (PushSender { queue: sender, bytes: bytes.clone() }, PushReceiver { queue: receiver, bytes })
}

impl PushSender {
    /// Queues a message. Returns false where it does not fit and is dropped; a reader that is gone counts as fitting.
    pub(super) fn send(&self, push: PushInfo) -> bool {
        let size = size_of(&push);
        if self.bytes.fetch_add(size, Ordering::SeqCst) + size > MAX_BYTES {
            self.bytes.fetch_sub(size, Ordering::SeqCst);
            return false;
        }
        let sent = self.queue.try_send(push);
        if sent.is_err() {
            self.bytes.fetch_sub(size, Ordering::SeqCst);
        }
        !matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
    }
}

impl PushReceiver {
    /// Waits for messages and appends at most `limit` of them. Returns how many; 0 where the connection ended.
    pub async fn recv_many(&mut self, pushes: &mut Vec<PushInfo>, limit: usize) -> usize {
        let before = pushes.len();
        let count = self.queue.recv_many(pushes, limit).await;
        self.bytes.fetch_sub(pushes[before..].iter().map(size_of).sum(), Ordering::SeqCst);
        count
    }
}

fn size_of(push: &PushInfo) -> usize {
    let size = |value: &Value| match value {
        Value::BulkString(bytes) => bytes.len(),
        _ => 0,
    };
    push.data.iter().map(size).sum()
}

#[cfg(test)]
mod tests {
    use redis::PushKind;

    use super::*;

    #[tokio::test]
    async fn large_messages_are_bounded_by_bytes() {
        let push = || PushInfo { kind: PushKind::Message, data: vec![Value::BulkString(vec![0; 1024 * 1024])] };
        let (sender, mut receiver) = push_queue();
        let sent = (0..100).filter(|_| sender.send(push())).count();
        assert_eq!(sent, 64);
        let mut read = Vec::new();
        assert_eq!(receiver.recv_many(&mut read, 100).await, 64);
        assert!(sender.send(push()), "what was read makes room");
    }
}
