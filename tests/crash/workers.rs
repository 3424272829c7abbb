//! A few machines at a time.

use std::{sync::Mutex, thread};

use anyhow::Result;

/// Works on all items with so many threads; results are in no order.
pub fn share_out<T: Send, R: Send>(
    threads: usize,
    items: Vec<T>,
    work: impl Fn(usize, T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = Mutex::new(items.into_iter().enumerate());
    let worker = || -> Result<Vec<R>> {
        let mut all = Vec::new();
        loop {
            // A statement of its own: the lock must not be held meanwhile.
            let item = next.lock().unwrap().next();
            let Some((at, item)) = item else {
                return Ok(all);
            };
            all.push(work(at, item)?);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().unwrap()?);
        }
        Ok(all)
    })
}
