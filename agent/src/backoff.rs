//! How long to wait after a disk failed, so that it delays no other and is not
//! hammered.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rand::Rng;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_mins(5);

/// Failures of each disk since its last success.
#[derive(Debug, Default)]
pub struct Backoff {
    failed: BTreeMap<String, Failed>,
}

/// A disk that failed.
#[derive(Debug, Clone)]
pub struct Failed {
    /// How often in a row.
    pub times: u32,
    /// Why, the last time.
    pub error: String,
    /// Not before then.
    pub again: Instant,
}

impl Backoff {
    /// Takes down a failure; doubles the wait, up to five minutes, give or take
    /// a quarter so that many disks do not come back at once.
    pub fn failed(&mut self, disk: &str, error: String, now: Instant) {
        let times = self
            .failed
            .get(disk)
            .map_or(0, |failed| failed.times)
            .saturating_add(1);
        let wait = FIRST
            .saturating_mul(1_u32.checked_shl(times - 1).unwrap_or(u32::MAX))
            .min(LONGEST);
        let jitter = rand::rng().random_range(0.75..1.25);
        let again = now + wait.mul_f64(jitter);
        self.failed.insert(
            disk.to_owned(),
            Failed {
                times,
                error,
                again,
            },
        );
    }

    /// Forgets a disk that succeeded or is gone.
    pub fn forget(&mut self, disk: &str) {
        self.failed.remove(disk);
    }

    /// Forgets every disk that is not among these.
    pub fn retain(&mut self, present: impl Fn(&str) -> bool) {
        self.failed.retain(|disk, _| present(disk));
    }

    /// Whether a disk may be tried.
    pub fn may_try(&self, disk: &str, now: Instant) -> bool {
        self.failed
            .get(disk)
            .is_none_or(|failed| failed.again <= now)
    }

    /// Why it failed the last time.
    pub fn error_of(&self, disk: &str) -> Option<String> {
        self.failed.get(disk).map(|failed| failed.error.clone())
    }

    /// The next moment at which a disk that waits may be tried.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.failed
            .values()
            .map(|failed| failed.again)
            .filter(|again| *again > now)
            .min()
    }

    /// Disks that failed.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Failed)> {
        self.failed.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes_and_end_with_success() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let mut last = Duration::ZERO;
        for times in 1..=40 {
            backoff.failed("sda", "no".to_owned(), now);
            let wait = backoff.next(now).expect("a wait") - now;
            assert!(wait <= LONGEST.mul_f64(1.25), "{wait:?}");
            if times % 4 == 0 && times <= 8 {
                assert!(wait > last, "{wait:?} after {last:?}");
                last = wait;
            }
            assert!(!backoff.may_try("sda", now));
            assert!(backoff.may_try("sda", now + wait));
        }
        assert!(backoff.may_try("sdb", now));
        backoff.forget("sda");
        assert!(backoff.may_try("sda", now));
        assert_eq!(backoff.next(now), None);
    }
}
