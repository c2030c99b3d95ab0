//! Bodies of answers in pieces. actix-http copies what a body gives into its write buffer, whether the client reads or
//! not; a body in pieces is asked for the next one only when the last has been taken. So an answer that nobody reads is
//! in memory once, is counted, and ends with its connection.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use actix_web::{
    body::{BodySize, MessageBody},
    web::Bytes,
};

/// Bytes of a piece. Smaller bodies are not worth one.
const PIECE: usize = 32 * 1024;

/// Bytes of answers that their clients have not taken yet, over the whole node.
#[derive(Debug, Clone, Default)]
pub struct PendingAnswers {
    bytes: Arc<AtomicUsize>,
    /// Beyond it nothing more is read for answers (`server.max_pending_answer_bytes`); 0 for no bound.
    max: usize,
}

impl PendingAnswers {
    /// None yet, and at most about `max`.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { bytes: Arc::default(), max }
    }

    /// The bytes now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.max > 0 && self.bytes() > self.max
    }

    fn changed(&self, from: usize, to: usize) {
        self.bytes.fetch_add(to, Ordering::Relaxed);
        self.bytes.fetch_sub(from, Ordering::Relaxed);
    }
}

/// A body, in pieces if it is large.
pub enum Paced<B> {
    /// As it is.
    Whole(B),
    /// What is left of it.
    Pieces(Bytes, PendingAnswers),
}

impl<B: MessageBody> Paced<B> {
    /// Cuts a body that is in memory.
    pub fn new(body: B, pending: &PendingAnswers) -> Self {
        match body.size() {
            BodySize::Sized(size) if size > PIECE as u64 => match body.try_into_bytes() {
                Ok(bytes) => {
                    pending.changed(0, bytes.len());
                    Self::Pieces(bytes, pending.clone())
                }
                Err(body) => Self::Whole(body),
            },
            _ => Self::Whole(body),
        }
    }
}

impl<B: MessageBody + Unpin> MessageBody for Paced<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        match self {
            Self::Whole(body) => body.size(),
            Self::Pieces(rest, _) => BodySize::Sized(rest.len() as u64),
        }
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_next(cx),
            Self::Pieces(rest, _) if rest.is_empty() => Poll::Ready(None),
            Self::Pieces(rest, pending) => {
                let before = rest.len();
                let piece = rest.split_to(before.min(PIECE));
                pending.changed(before, rest.len());
                Poll::Ready(Some(Ok(piece)))
            }
        }
    }
}

impl<B> Drop for Paced<B> {
    fn drop(&mut self) {
        if let Self::Pieces(rest, pending) = self {
            pending.changed(rest.len(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_large_body_comes_in_pieces_and_is_counted_until_it_is_taken_or_dropped() {
        let pending = PendingAnswers::default();
        let text: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let mut body = Paced::new(Bytes::from(text.clone()), &pending);
        assert_eq!((body.size(), pending.bytes()), (BodySize::Sized(100_000), 100_000));
        let mut taken = Vec::new();
        while let Some(piece) = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
            let piece = piece.unwrap();
            assert!(piece.len() <= PIECE);
            taken.extend_from_slice(&piece);
            assert_eq!(pending.bytes(), 100_000 - taken.len());
        }
        assert_eq!(taken, text);
        let other = Paced::new(Bytes::from(text), &pending);
        assert_eq!(pending.bytes(), 100_000);
        drop(other);
        assert_eq!(pending.bytes(), 0);
        assert!(matches!(Paced::new(Bytes::from_static(b"small"), &pending), Paced::Whole(_)));
    }
}
