//! How a running hub is told to stop, and how it begins anew.

use std::{
    convert::Infallible,
    io,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::PathBuf,
    process::Command,
    sync::{Arc, atomic::AtomicBool},
};

use actix_rt::signal::unix::{SignalKind, signal};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

/// Exit status after a second signal.
const SECOND_SIGNAL: i32 = 1;

/// Completes at the first SIGTERM, SIGINT or SIGHUP; the flag says whether one has come, whoever waits. A second one ends the
/// process at once, within its handler, whatever stands still. Committed events are on the disk; others were not acknowledged.
///
/// # Errors
/// Where a handler cannot be installed.
pub(super) fn first_signal() -> io::Result<(impl Future<Output = ()>, Arc<AtomicBool>)> {
    let was_told = Arc::new(AtomicBool::new(false));
    let mut numbers = vec![SIGTERM, SIGINT];
    // nohup has it ignored, so that a hub outlives its terminal.
    if !is_ignored(SIGHUP) {
        numbers.push(SIGHUP);
    }
    let mut signals = Vec::new();
    for number in numbers {
        // In this order: the second handler runs after the first. A terminal that is closed may send SIGHUP twice.
        if number != SIGHUP {
            flag::register_conditional_shutdown(number, SECOND_SIGNAL, was_told.clone())?;
        }
        flag::register(number, was_told.clone())?;
        signals.push(signal(SignalKind::from_raw(number))?);
    }
    let first = async move {
        let waits = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
        futures_util::future::select_all(waits).await;
    };
    Ok((first, was_told))
}

/// Whether this process was started with a signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

/// Starts this program again in this process, with the same arguments and environment.
///
/// # Errors
/// Where it cannot be started. Otherwise it does not return.
pub(super) fn re_exec() -> io::Result<Infallible> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    Err(Command::new(own_program()?).arg0(name).args(arguments).exec())
}

/// The running program: by its path, so that it keeps its name; by its inode where an upgrade has put another one there.
fn own_program() -> io::Result<PathBuf> {
    const RUNNING: &str = "/proc/self/exe";
    let path = std::env::current_exe()?;
    let identity = |path: &std::path::Path| std::fs::metadata(path).map(|about| (about.dev(), about.ino())).ok();
    Ok(if identity(&path) == identity(RUNNING.as_ref()) { path } else { RUNNING.into() })
}
