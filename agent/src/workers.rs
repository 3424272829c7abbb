//! How many disks are worked on at the same time, and what becomes of a job
//! that does not end: a disk that stops answering in the middle of a write
//! keeps its thread, since the kernel lets nobody call off a write.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::{AcquireError, Semaphore};

/// A decision that has waited for a worker for so long is made again: what it
/// was made on may have changed.
const STALE: Duration = Duration::from_secs(30);
/// A job that takes longer may be one that hangs, and another disk is begun
/// beside it. If it is only slow, no more than that comes of it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Jobs that may hang at the same time before they hold up others: each has a
/// thread, whose number must have an end.
pub const ASIDE: u16 = 64;

/// What a job that takes too long means for other disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overdue {
    /// Another disk is worked on in its place.
    Aside,
    /// As many hang as may: this one keeps its worker, and others wait for it.
    InTheWay,
}

/// How work on a disk came out.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// It ended.
    Ended(T),
    /// It was not begun: too much time had passed since the decision.
    Stale,
    /// It was not begun, or died: the agent is stopping.
    Stopped,
}

/// The workers. Clones are the same ones.
#[derive(Debug, Clone)]
pub struct Workers {
    at_once: Arc<Semaphore>,
    aside: Arc<Semaphore>,
    patience: Duration,
}

impl Workers {
    /// So many disks at the same time, not counting those that hang.
    pub fn new(at_once: u16) -> Self {
        Self {
            at_once: Arc::new(Semaphore::new(usize::from(at_once))),
            aside: Arc::new(Semaphore::new(usize::from(ASIDE))),
            patience: PATIENCE,
        }
    }

    /// Jobs that wait do not begin any more.
    pub fn close(&self) {
        self.at_once.close();
    }

    /// Waits for a worker, then does a job in a thread of its own. `overdue`
    /// hears when it takes long, and again when that means something else.
    pub async fn work<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
        overdue: impl Fn(Overdue),
    ) -> Outcome<T> {
        let decided = Instant::now();
        let Ok(worker) = Arc::clone(&self.at_once).acquire_owned().await else {
            return Outcome::Stopped;
        };
        if decided.elapsed() > STALE {
            return Outcome::Stale;
        }
        let running = tokio::task::spawn_blocking(job);
        tokio::pin!(running);
        let ended = async {
            if let Ok(ended) = tokio::time::timeout(self.patience, &mut running).await {
                return ended;
            }
            let place = Arc::clone(&self.aside);
            let place: Result<_, AcquireError> = match place.try_acquire_owned() {
                Ok(free) => Ok(free),
                Err(_none_is_free) => {
                    overdue(Overdue::InTheWay);
                    tokio::select! {
                        ended = &mut running => return ended,
                        place = Arc::clone(&self.aside).acquire_owned() => place,
                    }
                }
            };
            drop(worker);
            overdue(Overdue::Aside);
            // Kept until the job ends.
            let (ended, _place) = ((&mut running).await, place);
            ended
        };
        match ended.await {
            Ok(ended) => Outcome::Ended(ended),
            Err(_died) => Outcome::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use tokio::{
        sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        task::JoinHandle,
    };

    use super::*;

    /// Workers without much patience, and what they say.
    struct Shop {
        workers: Workers,
        said: (
            UnboundedSender<(u32, Overdue)>,
            UnboundedReceiver<(u32, Overdue)>,
        ),
    }

    impl Shop {
        fn new(at_once: usize, aside: usize) -> Self {
            let workers = Workers {
                at_once: Arc::new(Semaphore::new(at_once)),
                aside: Arc::new(Semaphore::new(aside)),
                patience: Duration::from_millis(20),
            };
            let said = unbounded_channel();
            Self { workers, said }
        }

        fn begin(&self, number: u32, gate: Receiver<()>) -> JoinHandle<Outcome<u32>> {
            let (workers, said) = (self.workers.clone(), self.said.0.clone());
            tokio::spawn(async move {
                let job = move || match gate.recv() {
                    Ok(()) | Err(_) => number,
                };
                let overdue = |overdue| said.send((number, overdue)).expect("heard");
                workers.work(job, overdue).await
            })
        }

        /// A job that ends when its gate is opened.
        fn hanging(&self, number: u32) -> (JoinHandle<Outcome<u32>>, Sender<()>) {
            let (gate, opened) = channel();
            (self.begin(number, opened), gate)
        }

        async fn heard(&mut self) -> (u32, Overdue) {
            self.said.1.recv().await.expect("the sender is kept")
        }
    }

    /// Long enough on any machine; what hangs for good is a failure.
    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await })
            .expect("it ends");
    }

    #[test]
    fn as_many_jobs_hang_as_there_are_workers_and_another_is_done_all_the_same() {
        run(async {
            let mut shop = Shop::new(2, 8);
            let (first, second) = (shop.hanging(1), shop.hanging(2));
            for _ in 0..2 {
                assert_eq!(shop.heard().await.1, Overdue::Aside);
            }
            let (prompt, gate) = shop.hanging(3);
            drop(gate);
            assert_eq!(prompt.await.expect("done"), Outcome::Ended(3));
            for (job, gate) in [first, second] {
                drop(gate);
                job.await.expect("ends late");
            }
        });
    }

    #[test]
    fn when_too_many_hang_one_is_in_the_way_until_another_ends() {
        run(async {
            let mut shop = Shop::new(1, 1);
            let (first, first_gate) = shop.hanging(1);
            assert_eq!(shop.heard().await, (1, Overdue::Aside));
            let (second, second_gate) = shop.hanging(2);
            assert_eq!(shop.heard().await, (2, Overdue::InTheWay));
            assert_eq!(shop.workers.at_once.available_permits(), 0);
            drop(first_gate);
            assert_eq!(first.await.expect("ends late"), Outcome::Ended(1));
            assert_eq!(shop.heard().await, (2, Overdue::Aside));
            assert_eq!(shop.workers.at_once.available_permits(), 1);
            drop(second_gate);
            assert_eq!(second.await.expect("ends late"), Outcome::Ended(2));
            assert_eq!(shop.workers.at_once.available_permits(), 1);
            assert_eq!(shop.workers.aside.available_permits(), 1);
        });
    }

    #[test]
    fn a_job_that_waits_when_the_agent_stops_does_not_begin() {
        run(async {
            let mut shop = Shop::new(1, 0);
            let (running, gate) = shop.hanging(1);
            assert_eq!(shop.heard().await, (1, Overdue::InTheWay));
            let (waiting, _gate) = shop.hanging(2);
            tokio::task::yield_now().await;
            shop.workers.close();
            assert_eq!(waiting.await.expect("told"), Outcome::Stopped);
            drop(gate);
            assert_eq!(running.await.expect("ends"), Outcome::Ended(1));
        });
    }
}
