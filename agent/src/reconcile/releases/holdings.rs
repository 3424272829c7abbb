//! What Longhorn has on a disk that is to be released, where Longhorn is not
//! asked: then the disk is. It may hang, and nobody waits for it.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use super::super::{News, Reconciler};
use crate::{fact::Fact, longhorn::holding, units::DiskName};

/// A disk that does not answer for so long is taken for one that cannot be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was asked of disks, and what they said.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct Holdings {
    /// Since when each is being read, at most once at a time.
    reading: BTreeMap<DiskName, Instant>,
    /// For the request that is open.
    read: BTreeMap<DiskName, Fact<Option<String>>>,
}

impl Holdings {
    pub(in crate::reconcile) fn heard(&mut self, name: DiskName, holds: Fact<Option<String>>) {
        self.reading.remove(&name);
        self.read.insert(name, holds);
    }

    /// Forgets what nobody asks for any more: it may have changed by the next time.
    pub(super) fn retain(&mut self, is_open: impl Fn(&DiskName) -> bool) {
        self.read.retain(|name, _| is_open(name));
    }

    /// When the next disk is given up that does not answer.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let due = self.reading.values().map(|since| *since + PATIENCE);
        due.filter(|due| *due > now).min()
    }

    /// What is known of a disk at this moment.
    fn take(&mut self, name: &DiskName, now: Instant) -> Answer {
        if let Some(holds) = self.read.remove(name) {
            return Answer::Heard(holds);
        }
        match self.reading.get(name) {
            None => Answer::Unasked,
            Some(since) if now < *since + PATIENCE => Answer::Awaited,
            Some(_) => Answer::Heard(Fact::unreadable(name, "the disk does not answer")),
        }
    }
}

/// How far the question to a disk has come.
enum Answer {
    Unasked,
    Awaited,
    Heard(Fact<Option<String>>),
}

impl Reconciler {
    /// Whether a disk may be released as far as it says itself, or why not; none
    /// until it has said.
    pub(super) fn may_leave(&mut self, name: &DiskName) -> Option<Result<(), String>> {
        let now = Instant::now();
        let holds = match self.releasing.holdings.take(name, now) {
            Answer::Heard(holds) => holds,
            Answer::Awaited => return None,
            Answer::Unasked => match self.ask(name) {
                Ok(()) => {
                    self.releasing.holdings.reading.insert(name.clone(), now);
                    return None;
                }
                Err(error) => Fact::unreadable(name, error),
            },
        };
        Some(judge(&holds))
    }

    /// Asks a disk, in a thread of its own: it is kept for as long as it hangs.
    fn ask(&self, name: &DiskName) -> io::Result<()> {
        let (host, news) = (self.around.host.clone(), self.news.0.clone());
        let place = self.around.mount_root.join(name.as_str());
        let name = name.clone();
        let thread = std::thread::Builder::new().name("holdings".to_owned());
        thread
            .spawn(move || {
                let holds = holding::at(&place, &host);
                // The loop is gone at shutdown.
                drop(news.send(News::Holds(name, holds)));
            })
            .map(drop)
    }
}

fn judge(holds: &Fact<Option<String>>) -> Result<(), String> {
    let refused = match holds.known() {
        Ok(None) => return Ok(()),
        Ok(Some(things)) => format!("Longhorn has {things} on it"),
        Err(why) => format!("what Longhorn has on it cannot be read ({why})"),
    };
    Err(format!(
        "{refused}, and this agent does not ask Longhorn to move that away: connect it to the cluster, or empty the disk in Longhorn first. With --even-with-replicas it is released as it is"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_is_asked_once_and_given_up_after_a_while() {
        let name: DiskName = "sdb1".parse().expect("a name");
        let mut holdings = Holdings::default();
        let asked = Instant::now();
        assert!(matches!(holdings.take(&name, asked), Answer::Unasked));
        holdings.reading.insert(name.clone(), asked);
        assert!(matches!(holdings.take(&name, asked), Answer::Awaited));
        assert_eq!(holdings.next(asked), Some(asked + PATIENCE));
        let late = asked + PATIENCE;
        for _ in 0..2 {
            let Answer::Heard(holds) = holdings.take(&name, late) else {
                panic!("it is waited for");
            };
            assert!(judge(&holds).is_err());
        }
        // Nobody is woken for it any more.
        assert_eq!(holdings.next(late), None);
        // What it says after all is not kept for another time.
        holdings.heard(name.clone(), Fact::Known(None));
        holdings.retain(|_| false);
        assert!(matches!(holdings.take(&name, late), Answer::Unasked));
    }
}
