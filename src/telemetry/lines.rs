//! Lines of the log on their way to standard error: through a bounded queue, written by a thread of their own. Who logs never
//! waits for who reads: a log driver that hangs would otherwise stop every thread in turn.

use std::{
    io::{self, Write},
    sync::OnceLock,
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait. Further ones are dropped and counted.
const LINES: usize = 4096;
/// The longest line, in bytes; a longer one is cut. With [`LINES`] this bounds the memory: 64 MiB.
const LONGEST: usize = 16 * 1024;

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines that were dropped because nobody reads the log.
#[must_use]
pub fn dropped() -> u64 {
    DROPPED.get().map_or(0, |counter| counter.dropped_lines() as u64)
}

/// Makes a writer for each line.
#[derive(Clone)]
pub(super) struct Lines(NonBlocking);

impl Lines {
    /// Starts the thread. What waits when the guard is dropped has a second to be written.
    pub(super) fn start() -> (Self, WorkerGuard) {
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES)
            .thread_name("log")
            .finish(io::stderr());
        let _ = DROPPED.set(writer.error_counter());
        (Self(writer), guard)
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.0.clone())
    }
}

/// Takes one whole line.
pub(super) struct Line(NonBlocking);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.len() > LONGEST {
            // Not within a character.
            let end = (LONGEST - 3..=LONGEST).rev().find(|end| line[*end] & 0xc0 != 0x80).unwrap_or(LONGEST);
            let mut cut = line[..end].to_vec();
            cut.extend_from_slice("…\n".as_bytes());
            self.0.write_all(&cut)?;
        } else {
            self.0.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
