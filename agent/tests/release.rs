//! `release` as a person meets it: it asks by a file, and follows what the agent
//! shows. The agent here is a stand-in that answers as it is told to; the real
//! one at work is shown in virtual machines.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "everything in this file is a test"
)]

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

const NOBODY: u32 = 65534;

/// An agent that shows what it is told to, and takes no request by itself.
struct StandIn {
    state: TempDir,
    address: SocketAddr,
    /// Each is shown once, and the last from then on. Where there is none, it hangs up.
    shown: Arc<Mutex<VecDeque<(String, String)>>>,
}

impl StandIn {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let stand_in = Self {
            state: tempfile::tempdir().expect("a directory"),
            address: listener.local_addr().expect("its address"),
            shown: Arc::default(),
        };
        stand_in.show(json!([]));
        let shown = Arc::clone(&stand_in.shown);
        // Ends with the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut line = String::new();
                let mut reader = BufReader::new(&stream);
                while reader.read_line(&mut line).is_ok_and(|read| read > 2) {}
                assert!(line.starts_with("GET /v1/disks HTTP/1.0\r\n"), "{line}");
                let mut shown = shown.lock().expect("not poisoned");
                let last = shown.front().cloned();
                let next = match shown.len() {
                    2.. => shown.pop_front(),
                    _ => last,
                };
                drop(shown);
                let Some((status, body)) = next else {
                    continue;
                };
                let answer = format!("HTTP/1.0 {status}\r\nServer: x\r\n\r\n{body}");
                // One that was killed does not read it.
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        stand_in
    }

    fn show(&self, releases: Value) {
        self.answer(
            "200 OK",
            json!({"mode": "enforce", "later": 1, "releases": releases}),
        );
    }

    fn answer(&self, status: &str, body: Value) {
        let answer = (status.to_owned(), body.to_string());
        *self.shown.lock().expect("not poisoned") = VecDeque::from([answer]);
    }

    /// Hears what is asked, and ends without an answer.
    fn hang_up(&self) {
        *self.shown.lock().expect("not poisoned") = VecDeque::new();
    }

    /// Shows nothing once, before what it shows.
    fn pause(&self) {
        let nothing = json!({"mode": "enforce", "later": 1, "releases": []});
        let nothing = ("200 OK".to_owned(), nothing.to_string());
        let mut shown = self.shown.lock().expect("not poisoned");
        shown.push_front(nothing);
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state.path().join("requests").join(name)
    }

    /// Shows something, and takes the request away.
    fn take(&self, file: &str, releases: Value) {
        self.show(releases);
        fs::remove_file(self.file(file)).expect("the request");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        command(self.state.path(), self.address, arguments)
    }

    fn ask(&self, arguments: &[&str]) -> Follower {
        Follower::start(&mut self.command(arguments))
    }
}

fn command(state: &Path, address: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_disk-discovery"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DISK_DISCOVERY_") {
            command.env_remove(name);
        }
    }
    command.arg("release").args(arguments);
    // As the agent's own configuration has it: every address.
    let listen = format!("0.0.0.0:{}", address.port());
    command
        .args(["--listen", &listen, "--state-dir"])
        .arg(state);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program at work, and what it says line by line.
struct Follower {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Follower {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the program is started");
        let lines = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, lines }
    }

    /// The next line; empty when it has ended.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("its output");
        line.trim_end().to_owned()
    }

    /// What else it says, why it failed if it did, and how it ended.
    fn end(mut self) -> (String, String, Option<i32>) {
        let (mut said, mut errors) = (String::new(), String::new());
        self.lines.read_to_string(&mut said).expect("its output");
        let stderr = self.child.stderr.as_mut().expect("its errors");
        stderr.read_to_string(&mut errors).expect("its errors");
        let status = self.child.wait().expect("it ends");
        (said, errors, status.code())
    }
}

fn row(state: &str) -> Value {
    json!([{"name": "other", "state": "refused", "detail": "not this one"}, {"name": "sdb1", "state": state}])
}

fn detailed(state: &str, detail: &str) -> Value {
    json!([{"name": "sdb1", "state": state, "detail": detail}])
}

/// Waits until a file is there. One that does not come hangs the test.
fn wait_for(file: &Path) {
    while !file.exists() {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn each_step_is_a_line_and_the_last_says_what_is_kept() {
    let agent = StandIn::new();
    // What was refused before is no answer to this request.
    agent.show(row("refused"));
    let mut release = agent.ask(&["sdb1"]);
    wait_for(&agent.file("release-sdb1"));
    agent.show(detailed("waiting", "sdb is being worked on"));
    assert_eq!(release.line(), "sdb1: waiting: sdb is being worked on");
    agent.take(
        "release-sdb1",
        detailed("leaving", "3 replicas, 1.2 GB left"),
    );
    assert_eq!(release.line(), "sdb1: leaving: 3 replicas, 1.2 GB left");
    agent.show(row("unmounting"));
    assert_eq!(release.line(), "sdb1: unmounting");
    agent.show(row("unmounted"));
    assert_eq!(release.line(), "sdb1: unmounted");
    let (said, errors, code) = release.end();
    assert!(said.contains("data and its name are kept"), "{said}");
    assert!(said.contains("release --cancel sdb1"), "{said}");
    assert_eq!((errors.as_str(), code), ("", Some(0)));
}

#[test]
fn for_machines_each_step_is_an_object() {
    let agent = StandIn::new();
    let mut release = agent.ask(&["sdb1", "-o", "json"]);
    wait_for(&agent.file("release-sdb1"));
    agent.take("release-sdb1", detailed("unmounted", "it is not attached"));
    let line: Value = serde_json::from_str(&release.line()).expect("JSON");
    assert_eq!(
        line,
        json!({"name": "sdb1", "state": "unmounted", "detail": "it is not attached"})
    );
    assert_eq!(release.end(), (String::new(), String::new(), Some(0)));
}

#[test]
fn a_release_that_is_refused_ends_with_an_error_and_the_reason() {
    let agent = StandIn::new();
    let mut release = agent.ask(&["sdb1"]);
    wait_for(&agent.file("release-sdb1"));
    agent.take(
        "release-sdb1",
        detailed("refused", "there is no disk sdb1 on this node"),
    );
    assert!(release.line().starts_with("sdb1: refused"));
    let (_, errors, code) = release.end();
    assert_eq!(
        errors,
        "disk-discovery: sdb1 is not released: there is no disk sdb1 on this node\n"
    );
    assert_eq!(code, Some(1));
}

#[test]
fn a_disk_is_taken_back_when_the_agent_says_so() {
    let agent = StandIn::new();
    fs::create_dir(agent.state.path().join("requests")).expect("a directory");
    fs::write(agent.file("release-sdb1"), "").expect("asked before");
    let mut cancel = agent.ask(&["sdb1", "--cancel"]);
    wait_for(&agent.file("cancel-sdb1"));
    assert!(!agent.file("release-sdb1").exists(), "the last wish counts");
    agent.take("cancel-sdb1", row("returning"));
    assert_eq!(cancel.line(), "sdb1: returning");
    agent.show(row("in-use"));
    assert_eq!(cancel.line(), "sdb1: in-use");
    assert_eq!(cancel.end().2, Some(0));
}

/// The ledger forgets a release before the agent has heard what became of it.
#[test]
fn a_disk_that_is_not_shown_for_a_moment_is_waited_for() {
    let end = [
        (&["sdb1", "--cancel"][..], "cancel-sdb1", "in-use", 0),
        (&["sdb1"], "release-sdb1", "refused", 1),
    ];
    for (arguments, file, state, code) in end {
        let agent = StandIn::new();
        let mut follower = agent.ask(arguments);
        wait_for(&agent.file(file));
        agent.show(row(state));
        agent.pause();
        fs::remove_file(agent.file(file)).expect("the request");
        assert_eq!(follower.line(), format!("sdb1: {state}"));
        assert_eq!(follower.end().2, Some(code));
    }
}

#[test]
fn a_release_whatever_is_on_the_disk_is_asked_for_only_in_so_many_words() {
    for (arguments, asks) in [
        (&["sdb1"][..], ""),
        (&["sdb1", "--even-with-replicas"], "even-with-replicas"),
    ] {
        let agent = StandIn::new();
        let release = agent.ask(arguments);
        wait_for(&agent.file("release-sdb1"));
        let asked = fs::read_to_string(agent.file("release-sdb1"));
        assert_eq!(asked.expect("the request"), asks);
        agent.take("release-sdb1", row("unmounted"));
        assert_eq!(release.end().2, Some(0));
    }
    let agent = StandIn::new();
    let both = agent.ask(&["sdb1", "--cancel", "--even-with-replicas"]);
    let (_, errors, code) = both.end();
    assert!(errors.contains("cannot be used with"), "{errors}");
    assert_eq!(code, Some(2));
    assert!(!agent.file("").exists(), "a request was left");
}

#[test]
fn who_is_overtaken_by_the_opposite_wish_is_told() {
    for (arguments, file, then) in [
        (&["sdb1"][..], "release-sdb1", row("in-use")),
        (&["sdb1"], "release-sdb1", json!([])),
        (&["sdb1", "--cancel"], "cancel-sdb1", row("unmounting")),
    ] {
        let agent = StandIn::new();
        let follower = agent.ask(arguments);
        wait_for(&agent.file(file));
        agent.take(file, then);
        let (_, errors, code) = follower.end();
        assert!(errors.starts_with("disk-discovery: sdb1: "), "{errors}");
        assert_eq!(code, Some(1));
    }
}

#[test]
fn without_an_agent_the_request_stands_and_that_is_said() {
    let state = tempfile::tempdir().expect("a directory");
    // Held, so that nobody else listens there.
    let held = tokio::net::TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    held.bind(any).expect("a port");
    let address = held.local_addr().expect("its address");
    let release = Follower::start(&mut command(state.path(), address, &["sdb1"]));
    let (said, errors, code) = release.end();
    assert!(errors.contains("no agent answers"), "{errors}");
    assert!(errors.contains("the request stands"), "{errors}");
    assert_eq!((said.as_str(), code), ("", Some(1)));
    assert!(state.path().join("requests/release-sdb1").is_file());
}

#[test]
fn an_agent_that_only_looks_is_not_waited_for() {
    let agent = StandIn::new();
    agent.answer("200 OK", json!({"mode": "observe"}));
    let (_, errors, code) = agent.ask(&["sdb1"]).end();
    assert!(errors.contains("only looks"), "{errors}");
    assert_eq!(code, Some(1));
    assert!(agent.file("release-sdb1").is_file());
}

#[test]
fn an_agent_in_its_first_round_is_waited_for() {
    let agent = StandIn::new();
    agent.answer(
        "503 Service Unavailable",
        json!("the first round is under way"),
    );
    let mut release = agent.ask(&["sdb1"]);
    wait_for(&agent.file("release-sdb1"));
    agent.take("release-sdb1", row("unmounted"));
    assert_eq!(release.line(), "sdb1: unmounted");
    assert_eq!(release.end().2, Some(0));
}

/// Its one thread may be writing to a disk that is slow.
#[test]
fn an_agent_that_listens_and_does_not_answer_at_once_is_waited_for() {
    let agent = StandIn::new();
    agent.hang_up();
    let mut release = agent.ask(&["sdb1"]);
    wait_for(&agent.file("release-sdb1"));
    // Longer than one is waited for that does not listen.
    thread::sleep(Duration::from_secs(4));
    agent.take("release-sdb1", row("unmounted"));
    assert_eq!(release.line(), "sdb1: unmounted");
    assert_eq!(release.end().2, Some(0));
}

#[test]
fn who_stops_following_is_told_that_it_goes_on() {
    let agent = StandIn::new();
    let mut release = agent.ask(&["sdb1"]);
    wait_for(&agent.file("release-sdb1"));
    agent.show(detailed("waiting", "for a sign"));
    assert_eq!(release.line(), "sdb1: waiting: for a sign");
    let pid = release.child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &pid]).status();
    assert!(sent.expect("kill").success());
    let (_, errors, code) = release.end();
    assert!(errors.contains("goes on"), "{errors}");
    assert!(errors.contains("release --cancel sdb1"), "{errors}");
    assert_eq!(code, Some(1));
    assert!(agent.file("release-sdb1").is_file());
}

#[test]
fn what_cannot_be_asked_is_one_line_and_leaves_nothing() {
    let agent = StandIn::new();
    for (arguments, code, words) in [
        (&["../etc"][..], 2, "is not a disk name"),
        (&[], 2, "required"),
    ] {
        let (_, errors, ended) = agent.ask(arguments).end();
        assert!(errors.contains(words), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert_eq!(ended, Some(code));
    }
    let nowhere = agent.state.path().join("nowhere");
    let release = Follower::start(&mut command(&nowhere, agent.address, &["sdb1"]));
    let (_, errors, code) = release.end();
    assert!(errors.contains("--state-dir"), "{errors}");
    assert_eq!(code, Some(1));
    assert!(!nowhere.exists());
    assert!(!agent.file("").exists(), "a request was left");
}

#[test]
fn only_root_may_ask() {
    let agent = StandIn::new();
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("disk-discovery");
    // Not by this process: a child that another test starts meanwhile would
    // inherit the open file, and what is open for writing cannot be run.
    let program = Path::new(env!("CARGO_BIN_EXE_disk-discovery"));
    for tool in [
        Command::new("cp").arg("--").args([program, &copy]),
        Command::new("chmod")
            .args(["-R", "a+rX"])
            .arg(directory.path()),
    ] {
        assert!(tool.status().expect("a tool").success(), "{tool:?}");
    }
    let mut command = Command::new(copy);
    command.args(["release", "sdb1", "--state-dir"]);
    command.arg(agent.state.path());
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (_, errors, code) = Follower::start(&mut command).end();
    assert!(errors.contains("root"), "{errors}");
    assert_eq!(code, Some(1));
}
