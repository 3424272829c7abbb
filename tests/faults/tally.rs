//! What is counted over all cases, and printed at the end.

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Counters; a fault is one disk, one fault and its end.
#[derive(Debug, Default)]
pub struct Tally {
    faults: AtomicU32,
    recovered: AtomicU32,
    delayed: AtomicU32,
    harmed: AtomicU32,
}

impl Tally {
    /// A fault that was met: the disk failed, and the agent said how.
    pub fn met(&self) {
        self.faults.fetch_add(1, Relaxed);
    }

    /// The fault is gone, and the disk is mounted.
    pub fn recovered(&self) {
        self.recovered.fetch_add(1, Relaxed);
    }

    /// Another disk was not mounted as long as the fault stood.
    pub fn delayed(&self) {
        self.delayed.fetch_add(1, Relaxed);
    }

    /// A disk lost what it held.
    pub fn harmed(&self) {
        self.harmed.fetch_add(1, Relaxed);
    }

    /// Every fault was recovered from, and none did any harm.
    pub fn is_clean(&self) -> bool {
        self.faults.load(Relaxed) == self.recovered.load(Relaxed)
            && self.delayed.load(Relaxed) == 0
            && self.harmed.load(Relaxed) == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |counter: &AtomicU32| counter.load(Relaxed);
        write!(
            f,
            "faults {}, recovered {}, other disks delayed {}, harmed {}",
            of(&self.faults),
            of(&self.recovered),
            of(&self.delayed),
            of(&self.harmed)
        )
    }
}
