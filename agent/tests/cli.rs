//! The program as a person or a service manager meets it: what it prints, how
//! it ends, and what it answers over HTTP. Nothing here writes to a disk: only
//! `plan` and `run --mode observe` get as far as looking.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "everything in this file is a test"
)]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_disk-discovery");
const NOBODY: u32 = 65534;
/// Far more than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_mins(2);

/// A command without any option from the environment.
fn program_at(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("DISK_DISCOVERY_") || name == "NODE_NAME" {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn program() -> Command {
    program_at(Path::new(PROGRAM))
}

/// Runs it to its end; one that does not end is killed and fails the test.
fn output(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program is started");
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let stdout = spawn(move || read(out.as_mut().expect("stdout")));
    let stderr = spawn(move || read(err.as_mut().expect("stderr")));
    let status = wait(&mut child);
    if status.is_none() {
        child.kill().expect("it is killed");
        child.wait().expect("it ends");
    }
    let stderr = stderr.join().expect("what it wrote");
    let Some(status) = status else {
        panic!("it does not end: {}", String::from_utf8_lossy(&stderr));
    };
    Output {
        status,
        stdout: stdout.join().expect("what it wrote"),
        stderr,
    }
}

fn read(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a pipe");
    bytes
}

/// How it ended, if it did so in time.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().expect("its state") {
            return Some(status);
        }
        sleep(Duration::from_millis(5));
    }
    None
}

/// Runs it and makes sure that it fails as it should: with that exit code, one
/// line on stderr that begins with its name, and nothing on stdout. Returns
/// the line.
fn failure(command: &mut Command, code: i32) -> String {
    let output = output(command);
    let line = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.ends_with('\n'), "{line}");
    assert!(line.starts_with("disk-discovery: "), "{line}");
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    line
}

/// What a usage error says.
fn usage(arguments: &[&str]) -> String {
    failure(program().args(arguments), 2)
}

/// A program that `nobody` can start, in a directory that anyone may enter.
fn for_nobody() -> (TempDir, Command) {
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("disk-discovery");
    // Not by this process: a child that another test starts meanwhile would
    // inherit the open file, and what is open for writing cannot be run.
    run(Command::new("cp").arg("--").arg(PROGRAM).arg(&copy));
    open_to_all(directory.path());
    let mut command = program_at(&copy);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    (directory, command)
}

/// Everything in it, whatever the umask is.
fn open_to_all(directory: &Path) {
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(directory));
}

fn run(command: &mut Command) {
    let status = command.status().expect("a tool is started");
    assert!(status.success(), "{command:?}");
}

/// A host with the root on `vda1` and a disk `vdb`, without udevd.
fn host_without_udevd() -> TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let at = |path: &str| root.path().join(path);
    let write = |path: String, text: &str| {
        let path = at(&path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    };
    fs::create_dir_all(at("sys/class/block")).expect("class/block");
    let bus = "devices/pci0000:00/0000:00:02.0/virtio1/block";
    for (name, minor, more) in [
        ("vda", 0, ""),
        ("vda/vda1", 1, "PARTN=1\n"),
        ("vdb", 16, ""),
    ] {
        let kernel = name.rsplit('/').next().expect("a name");
        let device = format!("sys/{bus}/{name}");
        let uevent = format!("MAJOR=254\nMINOR={minor}\nDEVNAME={kernel}\nDISKSEQ=3\n{more}");
        write(format!("{device}/uevent"), &uevent);
        write(format!("{device}/size"), "25165824\n");
        write(format!("{device}/start"), "2048\n");
        for flag in ["ro", "removable", "hidden"] {
            write(format!("{device}/{flag}"), "0\n");
        }
        write(format!("{device}/queue/logical_block_size"), "512\n");
        for stack in ["holders", "slaves"] {
            fs::create_dir_all(at(&format!("{device}/{stack}"))).expect(stack);
        }
        let link = at("sys/class/block").join(kernel);
        symlink(format!("../../{bus}/{name}"), link).expect("a link");
    }
    let mounts = "22 1 254:1 / / rw - ext4 /dev/vda1 rw\n";
    write("proc/1/mountinfo".to_owned(), mounts);
    write("proc/self/mountinfo".to_owned(), mounts);
    write("proc/swaps".to_owned(), "Filename\tType\tSize\n");
    root
}

/// `plan -o json` of a fake host.
fn plan(host: &TempDir, change: impl FnOnce(&mut Command)) -> Value {
    let mut command = program();
    command.args(["plan", "-o", "json", "--host-root"]);
    command.arg(host.path());
    change(&mut command);
    json(&output(&mut command))
}

fn json(output: &Output) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

fn rows(report: &Value) -> &Vec<Value> {
    report["disks"].as_array().expect("disks")
}

fn row<'a>(report: &'a Value, device: &str) -> &'a Value {
    let found = rows(report).iter().find(|row| row["device"] == device);
    found.expect("a row for the device")
}

fn degradations(report: &Value) -> Vec<&str> {
    let degraded = report["degraded"].as_array().expect("degraded");
    let codes = degraded.iter().map(|state| state["code"].as_str());
    codes.map(|code| code.expect("a code")).collect()
}

fn config(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

// ---------------------------------------------------------------------------
// Options that cannot be used.

#[test]
fn an_unknown_flag_and_an_unknown_command_are_usage_errors() {
    let line = usage(&["plan", "--destroy"]);
    assert!(line.contains("--destroy"), "{line}");
    let line = usage(&["format"]);
    assert!(line.contains("format"), "{line}");
}

#[test]
fn a_malformed_size_is_answered_with_an_example() {
    let line = usage(&["plan", "--min-size", "lots"]);
    assert!(line.contains("lots") && line.contains("10GiB"), "{line}");
    let line = failure(
        program().arg("plan").env("DISK_DISCOVERY_MIN_SIZE", "10XB"),
        2,
    );
    assert!(line.contains("10XB"), "{line}");
}

#[test]
fn a_bad_value_names_what_is_allowed() {
    for (arguments, allowed) in [
        (["run", "--mode", "destroy"], "enforce"),
        (["plan", "--filesystem", "btrfs"], "xfs"),
        (["plan", "--interval", "0s"], "1s to 24h"),
        (["plan", "--mount-root", "mnt"], "absolute"),
        (["plan", "--parallel", "65"], "1 to 64"),
    ] {
        let line = usage(&arguments);
        assert!(line.contains(allowed), "{line}");
    }
}

#[test]
fn a_config_file_that_cannot_be_read_is_named() {
    let line = usage(&["plan", "--config", "/no/such/file.yaml"]);
    assert!(line.contains("/no/such/file.yaml"), "{line}");
    let line = usage(&["plan", "--config", "/"]);
    assert!(line.contains("cannot be read"), "{line}");
    let line = failure(
        program()
            .arg("plan")
            .env("DISK_DISCOVERY_CONFIG", "/no/such/file.yaml"),
        2,
    );
    assert!(line.contains("/no/such/file.yaml"), "{line}");
}

#[test]
fn a_config_file_with_an_unknown_key_or_a_bad_value_is_refused_with_its_path() {
    for (text, wrong) in [
        ("min-sizes: 10GB\n", "min-sizes"),
        ("min-size: lots\n", "lots"),
        ("mode: destroy\n", "destroy"),
        ("parallel: many\n", "parallel"),
        ("- a list\n", "line 1"),
        ("min-size: [\n", "line"),
    ] {
        let file = config(text);
        let path = file.path().display().to_string();
        let line = usage(&["plan", "--config", &path]);
        assert!(line.contains(&path), "{line}");
        assert!(line.contains(wrong) || line.contains("line 1"), "{line}");
    }
}

// ---------------------------------------------------------------------------
// Where options come from.

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let host = host_without_udevd();
    let file = config("node-name: from-file\nmin-size: 11GB\nmount-root: /from/file\n");
    let node = |change: fn(&mut Command)| {
        let report = plan(&host, |command| {
            command.arg("--config").arg(file.path());
            change(command);
        });
        report["node"].as_str().expect("a name").to_owned()
    };
    let none = |_: &mut Command| {};
    let environment = |command: &mut Command| {
        command.env("NODE_NAME", "from-environment");
    };
    let both = |command: &mut Command| {
        command.env("NODE_NAME", "from-environment");
        command.args(["--node-name", "from-flag"]);
    };
    assert_eq!(node(none), "from-file");
    assert_eq!(node(environment), "from-environment");
    assert_eq!(node(both), "from-flag");
}

#[test]
fn every_source_is_heard_for_what_the_others_leave_open() {
    let host = host_without_udevd();
    let file = config("min-size: 20GB\nmode: enforce\n");
    let report = plan(&host, |command| {
        command.arg("--config").arg(file.path());
        command.env("NODE_NAME", "k3s2");
    });
    assert_eq!(report["mode"], "enforce", "plan only shows the mode");
    assert_eq!(report["node"], "k3s2");
    assert_eq!(row(&report, "vdb")["reason"], "too-small");
}

// ---------------------------------------------------------------------------
// plan

#[test]
fn plan_as_json_gives_each_refused_device_a_reason_an_explanation_and_advice() {
    for report in [
        plan(&host_without_udevd(), |_| {}),
        json(&output(program().args(["plan", "-o", "json"]))),
    ] {
        assert_eq!(report["apiVersion"], "v1");
        assert_eq!(report["mode"], "observe");
        assert!(report.get("round").is_none());
        for row in rows(&report) {
            assert!(row["device"].is_string(), "{row}");
            if row["verdict"] == "refused" {
                for field in ["reason", "explanation", "advice"] {
                    let text = row[field].as_str().expect(field);
                    assert!(!text.is_empty(), "{row}");
                }
            } else {
                assert!(row["diskName"].is_string(), "{row}");
            }
        }
    }
}

#[test]
fn plan_of_a_host_without_udevd_says_so_and_goes_on() {
    let report = plan(&host_without_udevd(), |_| {});
    assert_eq!(degradations(&report), ["udev-missing"]);
    assert_eq!(row(&report, "vda")["reason"], "system-disk");
    assert_eq!(row(&report, "vda1")["reason"], "partition");
    assert_eq!(row(&report, "vdb")["reason"], "probe-failed");
    assert_eq!(row(&report, "vdb")["size"], 12_884_901_888_u64);
    assert_eq!(row(&report, "vdb")["devno"], "254:16");
}

#[test]
fn plan_as_a_table_has_a_line_for_each_device_and_each_degradation() {
    let host = host_without_udevd();
    let output = output(program().args(["plan", "--host-root"]).arg(host.path()));
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let starts = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    assert_eq!(starts("DEVICE"), 1, "{text}");
    for device in ["vda ", "vda1 ", "vdb "] {
        assert_eq!(starts(device), 1, "{text}");
    }
    assert_eq!(starts("! udev-missing: "), 1, "{text}");
    assert!(output.stderr.is_empty(), "{:?}", output.stderr);
}

#[test]
fn plan_ends_well_when_its_reader_has_seen_enough() {
    let mut child = program()
        .arg("plan")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn plan_makes_nothing_on_the_host() {
    let host = host_without_udevd();
    let scratch = tempfile::tempdir().expect("a directory");
    let (state, mounts) = (scratch.path().join("state"), scratch.path().join("mnt"));
    plan(&host, |command| {
        command.arg("--state-dir").arg(&state);
        command.arg("--mount-root").arg(&mounts);
    });
    assert!(!state.exists() && !mounts.exists());
}

#[test]
fn plan_as_nobody_succeeds_and_says_what_it_could_not_read() {
    let host = host_without_udevd();
    open_to_all(host.path());
    let hidden = ["proc/1", "proc/swaps"].map(|path| host.path().join(path));
    for path in &hidden {
        let nothing = fs::Permissions::from_mode(0o000);
        fs::set_permissions(path, nothing).expect("its mode");
    }
    let (_directory, mut command) = for_nobody();
    command.args(["plan", "-o", "json", "--host-root"]);
    let report = json(&output(command.arg(host.path())));
    let degraded = degradations(&report);
    for code in ["mounts-unreadable", "swaps-unreadable"] {
        assert!(degraded.contains(&code), "{degraded:?}");
    }
    assert_eq!(row(&report, "vdb")["reason"], "system-disk-unresolved");
}

#[test]
fn plan_of_this_machine_as_nobody_succeeds_and_would_take_nothing() {
    let (_directory, mut command) = for_nobody();
    let report = json(&output(command.args(["plan", "-o", "json"])));
    assert!(!degradations(&report).is_empty());
    for row in rows(&report) {
        assert_eq!(row["verdict"], "refused", "{row}");
    }
}

#[test]
fn help_goes_to_stdout_and_names_flag_environment_and_default() {
    let output = output(program().args(["plan", "--help"]));
    assert!(output.status.success());
    assert!(output.stderr.is_empty());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for word in [
        "--min-size",
        "DISK_DISCOVERY_MIN_SIZE",
        "10GB",
        "--output",
        "--config",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

// ---------------------------------------------------------------------------
// run

/// Twice safe should the check ever be missing: the process has given up root
/// before it starts, and the host that it is shown is empty.
#[test]
fn enforce_without_root_is_refused_before_anything_is_done() {
    let (directory, mut command) = for_nobody();
    command.args(["run", "--mode", "enforce", "--listen", "127.0.0.1:0"]);
    command
        .arg("--host-root")
        .arg(directory.path().join("empty"));
    let line = failure(&mut command, 1);
    assert!(line.contains("root") && line.contains("observe"), "{line}");
}

#[test]
fn an_occupied_port_is_named_with_the_flag_to_change() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let line = failure(
        program().args(["run", "--mode", "observe", "--listen", &address]),
        1,
    );
    assert!(
        line.contains(&address) && line.contains("--listen"),
        "{line}"
    );
}

/// A running agent that only looks; killed when the test fails.
struct Agent {
    child: Child,
    address: String,
    scratch: TempDir,
    _host: TempDir,
}

impl Agent {
    fn start() -> Self {
        let host = host_without_udevd();
        let scratch = tempfile::tempdir().expect("a directory");
        let errors = fs::File::create(scratch.path().join("log")).expect("a file");
        let child = program()
            .args(["run", "--mode", "observe", "--listen", "127.0.0.1:0"])
            .args(["--node-name", "k3s2", "--host-root"])
            .arg(host.path())
            .arg("--state-dir")
            .arg(scratch.path().join("state"))
            .arg("--mount-root")
            .arg(scratch.path().join("mnt"))
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .expect("the program is started");
        let mut agent = Self {
            child,
            address: String::new(),
            scratch,
            _host: host,
        };
        agent.until("address in its log", |agent| {
            agent.address = agent.logged_address()?;
            Some(())
        });
        // Until the first round is finished there is nothing to show.
        agent.until("first round", |agent| {
            let (code, _) = agent.get("/v1/disks")?;
            (code == 200).then_some(())
        });
        agent
    }

    fn until(&mut self, what: &str, mut came: impl FnMut(&mut Self) -> Option<()>) {
        let begun = Instant::now();
        while came(self).is_none() {
            let ended = self.child.try_wait().expect("its state");
            assert!(ended.is_none(), "{ended:?}:\n{}", self.log());
            assert!(begun.elapsed() < PATIENCE, "no {what}:\n{}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    /// The port that it was given: no other program can have it.
    fn logged_address(&self) -> Option<String> {
        let log = self.log();
        let (_, after) = log.split_once(" listen=")?;
        // A line that is whole.
        let (line, _) = after.split_once('\n')?;
        line.split(' ').next().map(str::to_owned)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).expect("the log")
    }

    /// Status and body.
    fn request(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            self.address
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let code = answer.split(' ').nth(1)?.parse().ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        Some((code, body.to_owned()))
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        self.request("GET", path)
    }

    fn answer(&self, path: &str) -> (u16, String) {
        self.get(path).expect("an answer")
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([format!("-{signal}"), self.child.id().to_string()])
            .status()
            .expect("kill");
        assert!(sent.success());
    }

    fn wait(&mut self) -> ExitStatus {
        match wait(&mut self.child) {
            Some(status) => status,
            None => panic!("it does not stop:\n{}", self.log()),
        }
    }

    fn made(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.scratch.path()).expect("the directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| !path.ends_with("log")).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn a_running_agent_answers_for_its_health_and_its_disks() {
    let agent = Agent::start();
    let (code, body) = agent.answer("/healthz");
    assert_eq!(code, 200, "{body}");
    assert!(body.starts_with("ok"), "{body}");
    let (code, body) = agent.answer("/readyz");
    assert_eq!(code, 200, "{body}");
    let (code, body) = agent.answer("/readyz?verbose");
    assert_eq!(code, 200, "{body}");
    for check in ["loop", "first-round", "facts", "mounts", "operations"] {
        let line = format!("[+] {check}: ");
        assert!(body.lines().any(|l| l.starts_with(&line)), "{body}");
    }
    assert!(body.contains("udev-missing"), "{body}");
    let (code, body) = agent.answer("/v1/disks");
    assert_eq!(code, 200, "{body}");
    let report: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(report["apiVersion"], "v1");
    assert_eq!(report["node"], "k3s2");
    assert_eq!(report["mode"], "observe");
    assert_eq!(degradations(&report), ["udev-missing"]);
    assert_eq!(row(&report, "vdb")["reason"], "probe-failed");
    assert!(report["round"]["number"].as_u64() >= Some(1), "{body}");
}

#[test]
fn what_is_not_there_is_404_and_nothing_can_be_changed() {
    let agent = Agent::start();
    for path in ["/nothing", "/v1/disks/vdb", "/../etc/passwd"] {
        let (code, body) = agent.answer(path);
        assert_eq!(code, 404, "{path}: {body}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        for path in ["/healthz", "/readyz", "/metrics", "/v1/disks"] {
            let (code, body) = agent.request(method, path).expect("an answer");
            assert_eq!(code, 405, "{method} {path}: {body}");
        }
    }
}

#[test]
fn a_request_that_is_no_http_does_not_disturb_the_agent() {
    let agent = Agent::start();
    let mut stream = TcpStream::connect(&agent.address).expect("a connection");
    stream.write_all(b"\0\xff nonsense\r\n\r\n").expect("sent");
    drop(stream);
    assert_eq!(agent.answer("/healthz").0, 200);
}

#[test]
fn an_agent_that_only_looks_makes_nothing_and_stops_on_either_signal() {
    for signal in ["TERM", "INT"] {
        let mut agent = Agent::start();
        agent.signal(signal);
        let status = agent.wait();
        assert_eq!(status.code(), Some(0), "{signal}: {}", agent.log());
        assert_eq!(agent.made(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_connection_that_stays_open_does_not_hold_up_the_stop() {
    let mut agent = Agent::start();
    let mut stream = TcpStream::connect(&agent.address).expect("a connection");
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\n")
        .expect("half a request");
    agent.signal("TERM");
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.log());
}
