//! The host's end of the command agent; `image/guest/agent` describes the frames.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use crate::key::hex;
use crate::qmp::is_retry;

/// How much longer than the guest's own limit the host waits, before it takes the guest for dead.
const GRACE: Duration = Duration::from_secs(20);
/// What an error says of a guest that stands still.
pub(crate) const NO_ANSWER: &str = "the agent in the guest did not answer in time";
/// For moving files, which have no limit in the guest.
const TRANSFER_WITHIN: Duration = Duration::from_secs(300);

/// What a script in the guest left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 + the number of the signal when one ended the script.
    pub code: i32,
    /// Standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Whether the script ended with exit code 0.
    pub fn success(&self) -> bool {
        self.code == 0
    }
}

#[derive(Debug)]
pub(crate) struct AgentPort {
    stream: UnixStream,
    last_id: u64,
    received: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    code: i32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
struct AnswerHeader {
    id: u64,
    code: i32,
    stdout: usize,
    stderr: usize,
}

impl AnswerHeader {
    fn parse(line: &str) -> Result<Self> {
        let broken = || anyhow!("the agent in the guest answered out of step: {line:?}");
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().ok_or_else(broken);
        let header = Self {
            id: word()?.parse().with_context(broken)?,
            code: word()?.parse().with_context(broken)?,
            stdout: word()?.parse().with_context(broken)?,
            stderr: word()?.parse().with_context(broken)?,
        };
        match words.next() {
            None => Ok(header),
            Some(_) => Err(broken()),
        }
    }
}

fn request_header(id: u64, verb: &str, number: u64, path: &str, body: &[u8]) -> String {
    format!("{id} {verb} {number} {} {}\n", path.len(), body.len())
}

impl AgentPort {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            last_id: 0,
            received: Vec::new(),
        }
    }

    /// Waits until the agent answers: QEMU holds the request back until the guest opens the port.
    pub(crate) fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let answer = self.ask("run", 60, "", b"", limit)?;
        if answer.code != 0 {
            bail!(
                "the agent runs no script: {}",
                String::from_utf8_lossy(&answer.stderr)
            );
        }
        Ok(())
    }

    /// Gives a clone the host's clock and random state of its own.
    pub(crate) fn wake(&mut self) -> Result<()> {
        let mut seed = [0; 64];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut seed))
            .context("read /dev/urandom")?;
        let now: TimeSpec = clock_gettime(ClockId::CLOCK_REALTIME).context("read the clock")?;
        let body = format!("{} {} {}", now.tv_sec(), now.tv_nsec(), hex(&seed));
        let answer = self.ask("wake", 0, "", body.as_bytes(), TRANSFER_WITHIN)?;
        fail_unless_zero(&answer, "set the clock and the random state of the guest")
    }

    /// Runs a bash script; `None` when the limit passed and the guest killed it.
    pub(crate) fn run(&mut self, script: &str, limit: Duration) -> Result<Option<Output>> {
        let seconds = limit.as_secs().max(1);
        let answer = self.ask("run", seconds, "", script.as_bytes(), limit + GRACE)?;
        let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        Ok(Some(Output {
            code: answer.code,
            stdout: text(answer.stdout),
            stderr: text(answer.stderr),
        })
        .filter(|output| output.code >= 0))
    }

    pub(crate) fn put(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
        let answer = self.ask("put", u64::from(mode), path, bytes, TRANSFER_WITHIN)?;
        fail_unless_zero(&answer, "write a file in the guest")
    }

    pub(crate) fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let answer = self.ask("get", 0, path, b"", TRANSFER_WITHIN)?;
        fail_unless_zero(&answer, "read a file in the guest")?;
        Ok(answer.stdout)
    }

    fn ask(
        &mut self,
        verb: &str,
        number: u64,
        path: &str,
        body: &[u8],
        limit: Duration,
    ) -> Result<Answer> {
        let deadline = Instant::now() + limit;
        self.last_id += 1;
        let header = request_header(self.last_id, verb, number, path, body);
        for part in [header.as_bytes(), path.as_bytes(), body] {
            self.send(part, deadline)
                .with_context(|| format!("the agent in the guest does not take a {verb}"))?;
        }
        loop {
            let header = AnswerHeader::parse(&self.line(deadline)?)?;
            let stdout = self.bytes(header.stdout, deadline)?;
            let stderr = self.bytes(header.stderr, deadline)?;
            // An earlier request that was given up may be answered late.
            if header.id == self.last_id {
                return Ok(Answer {
                    code: header.code,
                    stdout,
                    stderr,
                });
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(Some(time_left(deadline)?))?;
            match self.stream.write(bytes) {
                Ok(0) => bail!("QEMU closed the agent's port"),
                Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(error).context("write to the agent"),
            }
        }
        Ok(())
    }

    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            self.fill(deadline)?;
        }
    }

    fn bytes(&mut self, count: usize, deadline: Instant) -> Result<Vec<u8>> {
        while self.received.len() < count {
            self.fill(deadline)?;
        }
        let rest = self.received.split_off(count);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    fn fill(&mut self, deadline: Instant) -> Result<()> {
        self.stream.set_read_timeout(Some(time_left(deadline)?))?;
        let mut piece = [0; 65536];
        match self.stream.read(&mut piece) {
            Ok(0) => bail!("QEMU closed the agent's port"),
            Ok(n) => self.received.extend(piece.iter().take(n)),
            Err(error) if is_retry(&error) => {}
            Err(error) => return Err(error).context("read from the agent"),
        }
        Ok(())
    }
}

fn time_left(deadline: Instant) -> Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| anyhow!(NO_ANSWER))
}

fn fail_unless_zero(answer: &Answer, what: &str) -> Result<()> {
    match answer.code {
        0 => Ok(()),
        _ => bail!("cannot {what}: {}", String::from_utf8_lossy(&answer.stderr)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_header_has_four_numbers() {
        let header = AnswerHeader::parse("7 -1 10 0\n").unwrap();
        assert_eq!(
            header,
            AnswerHeader {
                id: 7,
                code: -1,
                stdout: 10,
                stderr: 0
            }
        );
        for broken in ["", "7 0 1\n", "7 0 1 2 3\n", "7 zero 1 2\n", "7 0 -1 2\n"] {
            assert!(AnswerHeader::parse(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn lengths_are_in_bytes() {
        assert_eq!(
            request_header(3, "put", 0o644, "/ä", b"x\n"),
            "3 put 420 3 2\n"
        );
    }

    /// A guest that answers `answers`, whatever is asked.
    fn guest(answers: &'static [u8]) -> AgentPort {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            theirs.write_all(answers).unwrap();
            let mut rest = Vec::new();
            theirs.read_to_end(&mut rest).unwrap();
        });
        AgentPort::new(ours)
    }

    #[test]
    fn stdout_and_stderr_come_apart_at_their_lengths() {
        let mut port = guest(b"1 3 4 5\nout\nerr\n!2 0 0 0\n");
        let output = port.run("false", Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!(
            (output.code, &*output.stdout, &*output.stderr),
            (3, "out\n", "err\n!")
        );
        assert!(
            port.run("true", Duration::from_secs(5))
                .unwrap()
                .unwrap()
                .success()
        );
    }

    #[test]
    fn a_late_answer_to_an_earlier_request_is_passed_over() {
        let mut port = guest(b"0 0 3 0\nold1 0 3 0\nnew");
        assert_eq!(port.get("/x").unwrap(), b"new");
    }

    #[test]
    fn a_script_killed_at_its_limit_has_no_output() {
        let mut port = guest(b"1 -1 0 0\n");
        assert_eq!(port.run("sleep 9", Duration::from_secs(1)).unwrap(), None);
    }

    #[test]
    fn a_refused_file_names_the_reason() {
        let mut port = guest(b"1 1 0 9\n/x: gone!");
        let Err(error) = port.get("/x") else {
            panic!("read a missing file")
        };
        assert!(error.to_string().contains("/x: gone!"));
    }
}
