//! From plain code into asynchronous code.

use std::{future::Future, panic::resume_unwind, thread};

use anyhow::{Context, Result};

/// Runs it to its end on a runtime and a thread of its own, so that it can be
/// called from a runtime too.
pub(crate) fn block_on<F: Future>(make: impl FnOnce() -> F + Send) -> Result<F::Output>
where
    F::Output: Send,
{
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("a runtime")?;
            Ok(runtime.block_on(make()))
        });
        match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => resume_unwind(panic),
        }
    })
}
