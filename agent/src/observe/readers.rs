//! Reads disks side by side, each in a thread of its own, and waits for none
//! longer than is decent: a disk that hangs must not hold up the others, and a
//! read that the kernel does not end cannot be called off.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

/// Disks read at the same time, not counting those that do not answer.
const AT_ONCE: usize = 4;

/// A disk and how to read it.
pub type Answer<T> = (String, Box<dyn FnOnce() -> T + Send>);

/// The threads that read, and what they owe.
pub struct Readers<T> {
    patience: Duration,
    sender: Sender<(String, T)>,
    receiver: Receiver<(String, T)>,
    running: BTreeMap<String, Running>,
}

#[derive(Debug)]
struct Running {
    deadline: Instant,
    /// Nobody waits for it any more.
    overdue: bool,
    /// The disk changed meanwhile: the answer will be of yesterday.
    outdated: bool,
}

impl<T> fmt::Debug for Readers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readers")
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Readers<T> {
    /// No disk is waited for longer than `patience`.
    pub fn new(patience: Duration) -> Self {
        let (sender, receiver) = channel();
        Self {
            patience,
            sender,
            receiver,
            running: BTreeMap::new(),
        }
    }

    /// Answers that came late. Whoever asks for them first need not ask again for
    /// what they say.
    pub fn late(&mut self) -> BTreeMap<String, T> {
        let mut answers = BTreeMap::new();
        self.take_late(&mut answers);
        answers
    }

    /// Reads disks and returns what they answered, together with answers that
    /// came late. A disk that still owes one is not asked again; one whose late
    /// answer is there is: that may be the answer to another question.
    pub fn read(&mut self, asked: Vec<Answer<T>>) -> BTreeMap<String, T> {
        let mut answers = self.late();
        let mut queue: VecDeque<Answer<T>> = asked
            .into_iter()
            .filter(|(disk, _)| !self.running.contains_key(disk))
            .collect();
        loop {
            while self.waited_for().count() < AT_ONCE
                && let Some(asked) = queue.pop_front()
            {
                self.start(asked);
            }
            let Some(deadline) = self.waited_for().map(|running| running.deadline).min() else {
                break;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receiver.recv_timeout(left) {
                Ok((disk, answer)) => self.take(disk, answer, &mut answers),
                // The sender beside the receiver keeps the channel open.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.give_up_on_late_ones();
                }
            }
        }
        answers
    }

    /// The disk changed: an answer that it still owes is not worth having.
    pub fn changed(&mut self, disk: &str) {
        if let Some(running) = self.running.get_mut(disk) {
            running.outdated = true;
        }
    }

    /// Disks that have not answered in time and still owe an answer.
    pub fn not_answering(&self) -> BTreeSet<String> {
        self.running.keys().cloned().collect()
    }

    fn waited_for(&self) -> impl Iterator<Item = &Running> {
        self.running.values().filter(|running| !running.overdue)
    }

    fn start(&mut self, (disk, read): Answer<T>) {
        let (sender, name) = (self.sender.clone(), disk.clone());
        let thread = thread::Builder::new()
            .name(format!("read {disk}"))
            .stack_size(512 * 1024)
            .spawn(move || {
                // Nobody listens any more when the program ends.
                drop(sender.send((name, read())));
            });
        match thread {
            Ok(_detached) => {
                let running = Running {
                    deadline: Instant::now() + self.patience,
                    overdue: false,
                    outdated: false,
                };
                self.running.insert(disk, running);
            }
            Err(error) => tracing::warn!(disk, %error, "no thread to read it with"),
        }
    }

    fn take(&mut self, disk: String, answer: T, answers: &mut BTreeMap<String, T>) {
        let outdated = self
            .running
            .remove(&disk)
            .is_none_or(|running| running.outdated);
        if !outdated {
            answers.insert(disk, answer);
        }
    }

    fn take_late(&mut self, answers: &mut BTreeMap<String, T>) {
        while let Ok((disk, answer)) = self.receiver.try_recv() {
            self.take(disk, answer, answers);
        }
    }

    fn give_up_on_late_ones(&mut self) {
        let now = Instant::now();
        for (disk, running) in &mut self.running {
            if !running.overdue && running.deadline <= now {
                tracing::warn!(disk, "does not answer, the others are not kept waiting");
                running.overdue = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Gate = Sender<()>;

    /// A disk that answers when its gate is opened.
    fn hanging(disk: &str, answer: u32) -> (Answer<u32>, Gate) {
        let (gate, opened) = channel();
        let read = move || match opened.recv() {
            Ok(()) | Err(_) => answer,
        };
        ((disk.to_owned(), Box::new(read)), gate)
    }

    fn prompt(disk: &str, answer: u32) -> Answer<u32> {
        (disk.to_owned(), Box::new(move || answer))
    }

    fn until_answered(readers: &mut Readers<u32>) -> BTreeMap<String, u32> {
        loop {
            let answers = readers.late();
            if !answers.is_empty() || readers.not_answering().is_empty() {
                return answers;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn disks_that_hang_hold_up_no_other_however_many_they_are() {
        let mut readers = Readers::new(Duration::from_millis(200));
        let (hang, gates): (Vec<_>, Vec<_>) = (0..2 * AT_ONCE)
            .map(|at| hanging(&format!("hang{at}"), 0))
            .unzip();
        let others = (0..20).map(|at| prompt(&format!("good{at}"), at));
        let mut answers = readers.read(hang.into_iter().chain(others).collect());
        // On a busy machine a good one may be late, and comes all the same.
        let end = Instant::now() + Duration::from_mins(1);
        while answers.len() < 20 {
            assert!(Instant::now() < end, "held up: {answers:?}");
            thread::sleep(Duration::from_millis(1));
            answers.extend(readers.read(Vec::new()));
        }
        assert_eq!(readers.not_answering().len(), 2 * AT_ONCE);
        drop(gates);
    }

    #[test]
    fn a_late_answer_is_taken_and_the_disk_is_not_asked_twice_meanwhile() {
        let mut readers = Readers::new(Duration::from_millis(5));
        let (asked, gate) = hanging("sdb", 7);
        assert!(readers.read(vec![asked]).is_empty());
        let again = (
            "sdb".to_owned(),
            Box::new(|| -> u32 { panic!("asked twice") }) as _,
        );
        assert!(readers.read(vec![again]).is_empty());
        gate.send(()).expect("still waiting");
        assert_eq!(
            until_answered(&mut readers),
            BTreeMap::from([("sdb".to_owned(), 7)])
        );
        assert!(readers.not_answering().is_empty());
    }

    #[test]
    fn a_late_answer_does_not_stand_in_for_that_to_a_new_question() {
        let mut readers = Readers::new(Duration::from_millis(5));
        let (asked, gate) = hanging("sdb", 7);
        assert!(readers.read(vec![asked]).is_empty());
        readers.patience = Duration::from_mins(1);
        gate.send(()).expect("still waiting");
        // While it owes the old answer it is not asked.
        let answers = loop {
            let answers = readers.read(vec![prompt("sdb", 8)]);
            if !answers.is_empty() {
                break answers;
            }
            thread::sleep(Duration::from_millis(1));
        };
        assert_eq!(answers, BTreeMap::from([("sdb".to_owned(), 8)]));
    }

    #[test]
    fn a_late_answer_of_a_disk_that_changed_is_thrown_away() {
        let mut readers = Readers::new(Duration::from_millis(5));
        let (asked, gate) = hanging("sdb", 7);
        assert!(readers.read(vec![asked]).is_empty());
        readers.changed("sdb");
        gate.send(()).expect("still waiting");
        assert!(until_answered(&mut readers).is_empty());
        readers.patience = Duration::from_mins(1);
        let answers = readers.read(vec![prompt("sdb", 8)]);
        assert_eq!(answers, BTreeMap::from([("sdb".to_owned(), 8)]));
    }
}
