//! `release`: asks the agent of this host to let a disk go, or to take it back,
//! and follows what becomes of that. Changes nothing itself: the request is a
//! file in the state directory, and stays one until an agent has answered it.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use nix::unistd::geteuid;
use serde::Deserialize;
use thiserror::Error;
use tokio::runtime;

use crate::{
    config::{Mode, Settings},
    releases::{ReleaseRow, ReleaseState},
    requests::{Mailbox, ReadError, Request, Wish},
    units::DiskName,
};

/// Between two looks at how it goes on.
const PAUSE: Duration = Duration::from_millis(300);
/// Where nobody listens and nobody has, an agent is waited for so long.
const NOBODY: Duration = Duration::from_secs(3);
/// One that listens may be slow to answer, or in the middle of a restart.
const SILENT: Duration = Duration::from_mins(1);
/// Somebody has taken the question, and then no time to answer it, or ended.
const LISTENS: [io::ErrorKind; 4] = [
    io::ErrorKind::WouldBlock,
    io::ErrorKind::UnexpectedEof,
    io::ErrorKind::ConnectionReset,
    io::ErrorKind::BrokenPipe,
];
/// For connecting, and for each read of an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// More than any node has to say.
const LONGEST_ANSWER: u64 = 64 << 20;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A line for each step, for people.
    Text,
    /// A JSON object for each step, one a line.
    Json,
}

/// The disk is not what was asked for.
#[derive(Debug, Error)]
enum ReleaseError {
    #[error("release needs root: the request is left in the agent's state directory")]
    NotRoot,
    #[error("there is no {directory}, so no agent has worked here; if it has another --state-dir, name that one", directory = directory.display())]
    NoState { directory: PathBuf },
    #[error("cannot ask")]
    Ask(#[from] crate::requests::PostError),
    #[error("cannot tell whether the agent has heard it")]
    Heard(#[from] ReadError),
    #[error("cannot follow it; the request stands")]
    Follow(#[source] io::Error),
    #[error(
        "no agent answers at {address} (--listen names its port); the request stands, and the agent that runs next answers it"
    )]
    NoAgent {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "the agent at {address} only looks; the request stands, and is answered by one in mode enforce"
    )]
    OnlyLooks { address: SocketAddr },
    #[error("{name} is not {}: {why}", asked(*wish))]
    Refused {
        name: DiskName,
        wish: Wish,
        why: String,
    },
    #[error("{name}: somebody else has asked for the opposite meanwhile")]
    Contradicted { name: DiskName },
    #[error(
        "{name}: the agent knows nothing of it any more; see its log, it may have refused before it was started anew"
    )]
    Forgotten { name: DiskName },
    #[error("not followed any more; {goes_on}")]
    Interrupted { goes_on: String },
}

fn asked(wish: Wish) -> &'static str {
    match wish {
        Wish::Release => "released",
        Wish::Cancel => "taken back",
    }
}

/// What is of interest in `/v1/disks`.
#[derive(Debug, Deserialize)]
struct Report {
    mode: Mode,
    #[serde(default)]
    releases: Vec<ReleaseRow>,
}

pub(super) fn release(settings: &Settings, request: &Request, output: Output) -> ExitCode {
    match ask_and_follow(settings, request, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::fail(1, &error),
    }
}

fn ask_and_follow(
    settings: &Settings,
    request: &Request,
    output: Output,
) -> Result<(), ReleaseError> {
    if !geteuid().is_root() {
        return Err(ReleaseError::NotRoot);
    }
    if !settings.state_dir.is_dir() {
        let directory = settings.state_dir.clone();
        return Err(ReleaseError::NoState { directory });
    }
    let mailbox = Mailbox::below(&settings.state_dir);
    mailbox.post(request)?;
    let follower = Follower {
        mailbox,
        request: request.clone(),
        address: reachable(settings.listen),
        output,
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ReleaseError::Follow)?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            // In this order: who reads the first line may interrupt at once.
            biased;
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(ReleaseError::Follow)?;
                Err(ReleaseError::Interrupted { goes_on: goes_on(request) })
            }
            outcome = follower.follow() => outcome,
        }
    });
    // An answer that does not come is not waited for.
    runtime.shutdown_background();
    outcome
}

fn goes_on(request: &Request) -> String {
    let name = &request.name;
    match request.wish {
        Wish::Release => format!(
            "the release goes on: follow it with release {name}, call it off with release --cancel {name}"
        ),
        Wish::Cancel => format!("{name} is taken back all the same"),
    }
}

/// An agent that listens on every address is asked on the loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        one @ (IpAddr::V4(_) | IpAddr::V6(_)) => one,
    };
    SocketAddr::new(ip, listen.port())
}

struct Follower {
    mailbox: Mailbox,
    request: Request,
    address: SocketAddr,
    output: Output,
}

impl Follower {
    /// Tells each step until the last.
    async fn follow(&self) -> Result<(), ReleaseError> {
        let (mut told, mut heard, mut silent) = (None, false, Instant::now());
        let mut missing = false;
        loop {
            // Before the question: the answer to a request is shown when the
            // request goes.
            let open = self.mailbox.is_open(&self.request)?;
            match self.ask().await {
                Ok(Some(report)) => {
                    (heard, silent) = (true, Instant::now());
                    if report.mode == Mode::Observe {
                        let address = self.address;
                        return Err(ReleaseError::OnlyLooks { address });
                    }
                    let row = self.row(report, open);
                    if let Some(row) = &row
                        && told.as_ref() != Some(row)
                    {
                        self.tell(row)?;
                        told = Some(row.clone());
                    }
                    // What ends is gone a moment before it is said how.
                    let believed = row.is_some() || missing;
                    missing = !open && row.is_none();
                    if !open && believed && self.is_done(row)? {
                        return Ok(());
                    }
                }
                // Its first round is under way.
                Ok(None) => (heard, silent) = (true, Instant::now()),
                Err(source) => {
                    heard |= LISTENS.contains(&source.kind());
                    let patience = if heard { SILENT } else { NOBODY };
                    if silent.elapsed() > patience {
                        let address = self.address;
                        return Err(ReleaseError::NoAgent { address, source });
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// What the agent says of the disk. As long as the request is open, that is
    /// about an earlier one, unless it says that it waits.
    fn row(&self, report: Report, open: bool) -> Option<ReleaseRow> {
        let mut rows = report.releases.into_iter();
        rows.find(|row| row.name == self.request.name)
            .filter(|row| !open || row.state == ReleaseState::Waiting)
    }

    /// Whether it has come to what was asked for.
    fn is_done(&self, row: Option<ReleaseRow>) -> Result<bool, ReleaseError> {
        let (name, wish) = (self.request.name.clone(), self.request.wish);
        let Some(row) = row else {
            return match wish {
                Wish::Release => Err(ReleaseError::Forgotten { name }),
                // What is not released is in use.
                Wish::Cancel => Ok(true),
            };
        };
        match (row.state, wish) {
            (ReleaseState::Refused, _) => {
                let why = row.detail.unwrap_or_default();
                Err(ReleaseError::Refused { name, wish, why })
            }
            (ReleaseState::Unmounted, Wish::Release) => {
                self.say_last(&format!(
                    "{name}: its data and its name are kept; take it back with: disk-discovery release --cancel {name}"
                ))?;
                Ok(true)
            }
            (ReleaseState::InUse, Wish::Cancel) => Ok(true),
            (ReleaseState::InUse | ReleaseState::Returning, Wish::Release)
            | (
                ReleaseState::Unmounted | ReleaseState::Unmounting | ReleaseState::Leaving,
                Wish::Cancel,
            ) => Err(ReleaseError::Contradicted { name }),
            (
                ReleaseState::Waiting | ReleaseState::Leaving | ReleaseState::Unmounting,
                Wish::Release,
            )
            | (ReleaseState::Waiting | ReleaseState::Returning, Wish::Cancel) => Ok(false),
        }
    }

    fn tell(&self, row: &ReleaseRow) -> Result<(), ReleaseError> {
        let line = match self.output {
            Output::Json => serde_json::to_string(row)
                .map_err(|error| ReleaseError::Follow(io::Error::other(error)))?,
            Output::Text => match &row.detail {
                Some(detail) => format!("{}: {}: {detail}", row.name, row.state),
                None => format!("{}: {}", row.name, row.state),
            },
        };
        say(&line)
    }

    fn say_last(&self, line: &str) -> Result<(), ReleaseError> {
        match self.output {
            Output::Json => Ok(()),
            Output::Text => say(line),
        }
    }

    /// What the agent shows; none while its first round is under way.
    async fn ask(&self) -> io::Result<Option<Report>> {
        let address = self.address;
        tokio::task::spawn_blocking(move || get(address))
            .await
            .map_err(io::Error::other)?
    }
}

fn say(line: &str) -> Result<(), ReleaseError> {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => Ok(()),
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(ReleaseError::Follow(error)),
    }
}

/// `/v1/disks`. In HTTP 1.0 the end of the connection is that of the answer.
fn get(address: SocketAddr) -> io::Result<Option<Report>> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let question = format!("GET /v1/disks HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LONGEST_ANSWER).read_to_end(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    parse(&answer)
}

fn parse(answer: &[u8]) -> io::Result<Option<Report>> {
    let answer = String::from_utf8_lossy(answer);
    let other = || io::Error::other("what answers there is no agent");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(other)?;
    let status = head.split(' ').nth(1);
    match status {
        Some("200") => serde_json::from_str(body)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Some("503") => Ok(None),
        Some(_) | None => Err(other()),
    }
}
