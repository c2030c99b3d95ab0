//! Restart policy for the actors a thread cannot be without: actix neither rebuilds an actor nor survives its panic,
//! so the parent does.

use std::{future::Future, time::Duration};

use futures_util::FutureExt;

/// The pause before a rebuild, so that an actor that fails at once does not take the thread with it.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs what `build` makes and builds it anew whenever it ends, by its panic or otherwise. Never returns.
pub(crate) async fn keep_running<F: Future<Output = ()>>(what: &'static str, mut build: impl FnMut() -> F) {
    loop {
        let ended = std::panic::AssertUnwindSafe(build()).catch_unwind().await;
        tracing::error!(
            what,
            panicked = ended.is_err(),
            "supervised task ended; building it anew: report it with the panic above"
        );
        tokio::time::sleep(PAUSE).await;
    }
}
