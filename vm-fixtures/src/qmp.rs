//! A client of QEMU's machine protocol: one command at a time, events kept until asked for.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

const ANSWER_WITHIN: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    received: Vec<u8>,
    events: Vec<Value>,
}

impl Qmp {
    /// Takes over a fresh connection: greeting and capabilities.
    pub(crate) fn negotiate(stream: UnixStream) -> Result<Self> {
        let mut qmp = Self {
            stream,
            received: Vec::new(),
            events: Vec::new(),
        };
        let greeting = qmp.message(Instant::now() + ANSWER_WITHIN)?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU greeted with {greeting}");
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command; `arguments` is an object.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .with_context(|| format!("send {command} to QEMU"))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        loop {
            let message = self
                .message(deadline)
                .with_context(|| format!("QEMU did not answer {}", line.trim_end()))?;
            if message.get("event").is_some() {
                self.events.push(message);
            } else if let Some(answer) = message.get("return") {
                return Ok(answer.clone());
            } else {
                let why = message.pointer("/error/desc").and_then(Value::as_str);
                bail!(
                    "QEMU refused {}: {}",
                    line.trim_end(),
                    why.unwrap_or("no reason given")
                );
            }
        }
    }

    /// Takes the first event `name` whose data hold every pair of `data`, waiting for it.
    pub(crate) fn wait_event(
        &mut self,
        name: &str,
        data: &Map<String, Value>,
        limit: Duration,
    ) -> Result<Value> {
        let deadline = Instant::now() + limit;
        let wanted = |event: &Value| {
            event.get("event").and_then(Value::as_str) == Some(name)
                && data.iter().all(|(key, value)| {
                    event.get("data").and_then(|data| data.get(key)) == Some(value)
                })
        };
        loop {
            if let Some(at) = self.events.iter().position(wanted) {
                return Ok(self.events.remove(at));
            }
            let message = self
                .message(deadline)
                .with_context(|| format!("no event {name} {data:?} from QEMU"))?;
            self.events.push(message);
        }
    }

    fn message(&mut self, deadline: Instant) -> Result<Value> {
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&line).with_context(|| {
                    format!("QEMU sent no JSON: {}", String::from_utf8_lossy(&line))
                });
            }
            let left = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
                .ok_or_else(|| anyhow!("time is up"))?;
            self.stream.set_read_timeout(Some(left))?;
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => bail!("QEMU closed the connection"),
                Ok(n) => self.received.extend(piece.iter().take(n)),
                Err(error) if is_retry(&error) => {}
                Err(error) => return Err(error).context("read from QEMU"),
            }
        }
    }
}

/// A read that ended without bytes and without a fault.
pub(crate) fn is_retry(error: &std::io::Error) -> bool {
    [
        ErrorKind::WouldBlock,
        ErrorKind::TimedOut,
        ErrorKind::Interrupted,
    ]
    .contains(&error.kind())
}
