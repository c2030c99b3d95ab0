//! The frames that wait to be written to one socket, and the `writev` that writes many of them at once.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::transport::Wire;

/// Greatest number of frames in one `writev`.
const SLICES: usize = 64;

/// A queue of whole frames, the first of which may be partly written.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    frames: VecDeque<Bytes>,
    /// Bytes of the first frame that were written.
    written: usize,
    bytes: usize,
    /// Whether the TLS session may hold bytes that it has not written.
    unflushed: bool,
}

impl Backlog {
    pub(super) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Bytes that wait here, without those in the kernel.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is something to write once the connection is writable: here, or in the TLS session.
    pub(super) fn needs_flush(&self) -> bool {
        !self.frames.is_empty() || self.unflushed
    }

    /// Drops all frames but one that is half written: without its rest, the client would read the close frame as that
    /// rest.
    pub(super) fn keep_only_started(&mut self) {
        self.frames.truncate(usize::from(self.written > 0));
        self.bytes = self.frames.front().map_or(0, |frame| frame.len() - self.written);
    }

    /// Writes until everything is written, or the kernel takes no more.
    pub(super) fn flush(&mut self, wire: &mut Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(if count == 0 { &frame[self.written..] } else { frame });
                count += 1;
            }
            let written = ready!(wire.poll_write(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.consume(written);
        }
        if self.frames.capacity() > 0 {
            // An idle socket owns no queue.
            self.frames = VecDeque::new();
        }
        if self.unflushed {
            ready!(wire.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn consume(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(frame) = self.frames.front() {
            let left = frame.len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_started_frame_survives_the_giving_up_of_the_rest() {
        let mut backlog = Backlog::default();
        for frame in [&b"first"[..], b"second", b"third"] {
            backlog.push(Bytes::from_static(frame));
        }
        backlog.consume(7);
        assert_eq!((backlog.bytes(), backlog.written), (9, 2));
        backlog.keep_only_started();
        assert_eq!((backlog.bytes(), backlog.frames.len()), (4, 1));
        backlog.consume(4);
        backlog.keep_only_started();
        assert_eq!((backlog.bytes(), backlog.frames.len()), (0, 0));
    }
}
