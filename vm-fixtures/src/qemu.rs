//! A running QEMU: its process, its two sockets, and what it says when it fails.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::agent::AgentPort;
use crate::hardware::QEMU;
use crate::qmp::Qmp;
use crate::spawn::spawn_bound;

/// Until QEMU has opened its sockets.
const SOCKETS_WITHIN: Duration = Duration::from_secs(120);
/// Once in some thousand boots under emulation both processors spin from the very beginning. Who
/// has not read anything from the system disk by then has done nothing that could be of interest.
const LIFELESS_AFTER: Duration = Duration::from_secs(120);
/// How much of a console goes into an error.
const TAIL_BYTES: usize = 4000;

/// Killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    pub(crate) qmp: Qmp,
}

impl Qemu {
    /// Starts QEMU with `dir` as its working directory and connects to it.
    pub(crate) fn start(dir: &Path, arguments: &[String]) -> Result<(Self, AgentPort)> {
        for stale in ["qmp", "agent"] {
            match std::fs::remove_file(dir.join(stale)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove the old socket {stale}"));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let stderr = File::create(dir.join("stderr")).context("create QEMU's log")?;
        let mut child = spawn_bound(QEMU, |command| {
            command
                .args(arguments)
                .current_dir(dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(stderr);
        })?;
        let connected = connect(dir, "qmp", &mut child)
            .and_then(Qmp::negotiate)
            .and_then(|qmp| Ok((qmp, AgentPort::new(connect(dir, "agent", &mut child)?))));
        match connected {
            Ok((qmp, agent)) => Ok((Self { child, qmp }, agent)),
            Err(error) => {
                end(&mut child);
                Err(with_wreck(error, dir))
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: the guest's power is cut between two instructions.
    pub(crate) fn kill(mut self) {
        end(&mut self.child);
    }

    /// Waits for QEMU to end by itself.
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().context("wait for QEMU")? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("QEMU still runs after {limit:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Starts a guest that boots, and once more when it is lifeless.
pub(crate) fn start_alive(
    name: &str,
    start: impl Fn() -> Result<(Qemu, AgentPort)>,
) -> Result<(Qemu, AgentPort)> {
    let (mut qemu, mut agent) = start()?;
    if !is_lifeless(&mut qemu, &mut agent)? {
        return Ok((qemu, agent));
    }
    eprintln!("{name}: nothing was read in {LIFELESS_AFTER:?}, it is started again");
    qemu.kill();
    start()
}

fn is_lifeless(qemu: &mut Qemu, agent: &mut AgentPort) -> Result<bool> {
    if agent.wait_ready(LIFELESS_AFTER).is_ok() {
        return Ok(false);
    }
    let all = qemu.qmp.execute("query-blockstats", json!({}))?;
    let devices = all.as_array().into_iter().flatten();
    let mut roots = devices.filter(|one| one.get("node-name") == Some(&json!("root")));
    let reads = roots
        .next()
        .and_then(|root| root.pointer("/stats/rd_operations"));
    match reads.and_then(Value::as_u64) {
        Some(reads) => Ok(reads == 0),
        None => bail!("no figures of the system disk in {all}"),
    }
}

/// Both calls do nothing to a child that was reaped before.
fn end(child: &mut Child) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        eprintln!("vm-fixtures: cannot end QEMU {}: {error}", child.id());
    }
}

/// Through `/proc/self/fd`: the address of a socket may not be longer than 108 bytes, the path of
/// a cache directory may.
fn connect(dir: &Path, name: &str, child: &mut Child) -> Result<UnixStream> {
    let dir = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()));
    let deadline = Instant::now() + SOCKETS_WITHIN;
    loop {
        let error = match UnixStream::connect(&path) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if let Some(status) = child.try_wait().context("wait for QEMU")? {
            bail!("QEMU ended at once: {status}");
        }
        if Instant::now() > deadline {
            return Err(error).with_context(|| format!("connect to QEMU's socket {name}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The error, with the end of the guest's console and what QEMU wrote on stderr.
pub(crate) fn with_wreck(error: anyhow::Error, dir: &Path) -> anyhow::Error {
    let tail = |file: &str| match std::fs::read(dir.join(file)) {
        Ok(bytes) => {
            let from = bytes.len().saturating_sub(TAIL_BYTES);
            String::from_utf8_lossy(bytes.get(from..).unwrap_or_default()).into_owned()
        }
        Err(error) => format!("(cannot read it: {error})\n"),
    };
    anyhow!(
        "{error:#}\n--- end of the guest's console ---\n{}--- QEMU's stderr ---\n{}---",
        tail("console"),
        tail("stderr"),
    )
}
