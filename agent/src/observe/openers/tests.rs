//! With a directory in the place of the host's procfs, and with processes that
//! have a loop device of the test open.

use std::{
    env,
    fs::OpenOptions,
    os::{fd::AsRawFd, unix::fs::symlink},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::{Mode, SFlag, makedev, mknod},
    },
    unistd::Pid,
};

use super::*;
use crate::observe::loops::tests::Loop;

const DISK: DevNo = DevNo {
    major: 8,
    minor: 16,
};
const PARTITION: DevNo = DevNo {
    major: 8,
    minor: 17,
};
const OTHER: DevNo = DevNo {
    major: 8,
    minor: 32,
};
const OWN: u32 = 4242;

/// A node of a block device, whether there is such a device or not.
pub(crate) fn node(path: &Path, devno: DevNo) {
    let number = makedev(devno.major.into(), devno.minor.into());
    mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR, number).expect("a node");
}

/// A directory in the place of a procfs, seen by the process 4242.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(tempfile::tempdir().expect("a directory"));
        fs::create_dir(tree.proc()).expect("a directory");
        symlink(OWN.to_string(), tree.proc().join("self")).expect("a link");
        for (name, devno) in [("sdb", DISK), ("mine", PARTITION), ("sdc", OTHER)] {
            node(&tree.0.path().join(name), devno);
        }
        tree.process(1, "systemd", 0);
        tree.process(OWN, "disk-discovery", 1);
        tree
    }

    fn proc(&self) -> PathBuf {
        self.0.path().join("proc")
    }

    fn process(&self, pid: u32, comm: &str, parent: u32) {
        let directory = self.proc().join(pid.to_string());
        for part in ["fd", "fdinfo", "task"] {
            fs::create_dir_all(directory.join(part)).expect("a directory");
        }
        let stat = format!("{pid} ({comm}) S {parent} {pid} {pid} 0 -1 4194560\n");
        fs::write(directory.join("stat"), stat).expect("a file");
        self.open(&pid.to_string(), 0, "/dev/null", 0o2);
    }

    /// A descriptor of a process, which leads to a node of the tree by its name.
    fn open(&self, task: &str, number: u32, target: &str, flags: u32) {
        let directory = self.proc().join(task);
        let number = number.to_string();
        symlink(
            self.0.path().join(target),
            directory.join("fd").join(&number),
        )
        .expect("a link");
        let about = format!("pos:\t0\nflags:\t0{flags:o}\nmnt_id:\t24\nino:\t9\n");
        fs::write(directory.join("fdinfo").join(&number), about).expect("a file");
    }

    fn writer(&self) -> Fact<Option<Opener>> {
        writer(&Host::at(self.0.path()), &[DISK, PARTITION])
    }

    fn why(&self) -> String {
        let writer = self.writer();
        writer.known().expect_err("not known").to_string()
    }
}

fn opener(pid: u32, comm: &str) -> Fact<Option<Opener>> {
    let comm = comm.to_owned();
    Fact::Known(Some(Opener { pid, comm }))
}

#[test]
fn whoever_has_the_disk_or_its_partition_open_for_writing_is_named() {
    for (target, flags) in [("sdb", 0o2_100_002), ("sdb", 0o1), ("mine", 0o2)] {
        let tree = Tree::new();
        tree.process(77, "qemu (raw) x86", 1);
        assert_eq!(tree.writer(), Fact::Known(None));
        tree.open("77", 12, target, flags);
        assert_eq!(tree.writer(), opener(77, "qemu (raw) x86"));
    }
    assert_eq!(
        opener(77, "dd")
            .known()
            .cloned()
            .map(|it| it.map(|it| it.to_string())),
        Ok(Some("dd, pid 77".to_owned()))
    );
}

#[test]
fn readers_and_who_only_asks_the_driver_are_nobody() {
    let tree = Tree::new();
    tree.process(77, "smartd", 1);
    tree.open("77", 3, "sdb", 0o2_104_000);
    // O_PATH, and the mode for requests to a driver.
    tree.open("77", 4, "sdb", 0o12_000_000);
    tree.open("77", 5, "sdb", 0o3);
    tree.open("77", 6, "sdc", 0o2);
    assert_eq!(tree.writer(), Fact::Known(None));
}

#[test]
fn this_process_and_its_children_are_nobody_and_theirs_are_somebody() {
    let tree = Tree::new();
    tree.open(&OWN.to_string(), 9, "sdb", 0o2);
    tree.process(5000, "mkfs.ext4", OWN);
    tree.open("5000", 9, "sdb", 0o2);
    assert_eq!(tree.writer(), Fact::Known(None));
    tree.process(5001, "sh", 5000);
    tree.open("5001", 9, "sdb", 0o2);
    assert_eq!(tree.writer(), opener(5001, "sh"));
}

#[test]
fn what_vanishes_while_it_is_looked_at_is_nobody() {
    let tree = Tree::new();
    // Ended between the list and the look, between two of its files, and closed.
    fs::create_dir(tree.proc().join("70")).expect("a directory");
    tree.process(71, "dd", 1);
    tree.open("71", 3, "sdb", 0o2);
    fs::remove_file(tree.proc().join("71/stat")).expect("removed");
    tree.process(72, "dd", 1);
    tree.open("72", 3, "sdb", 0o2);
    fs::remove_file(tree.proc().join("72/fdinfo/3")).expect("removed");
    tree.process(73, "dd", 1);
    tree.open("73", 3, "gone", 0o2);
    assert_eq!(tree.writer(), Fact::Known(None));
}

#[test]
fn the_threads_of_a_process_whose_first_has_ended_are_looked_at() {
    let tree = Tree::new();
    tree.process(77, "writer", 1);
    fs::remove_file(tree.proc().join("77/fd/0")).expect("removed");
    for part in ["fd", "fdinfo"] {
        let directory = tree.proc().join("77/task/79").join(part);
        fs::create_dir_all(directory).expect("a directory");
    }
    assert_eq!(tree.writer(), Fact::Known(None));
    tree.open("77/task/79", 3, "sdb", 0o2);
    assert_eq!(tree.writer(), opener(77, "writer"));
}

type Change = fn(&Path);

#[test]
fn what_cannot_be_looked_at_is_not_nobody() {
    // A directory in the place of a file, and the other way round: no error of
    // something that has ended.
    let cases: [(&str, Change); 4] = [
        ("77/fd", |path| {
            fs::remove_dir_all(path).expect("removed");
            fs::write(path, "").expect("a file");
        }),
        ("77/fdinfo/3", |path| {
            fs::write(path, "pos:\t0\n").expect("a file")
        }),
        ("77/fdinfo/3", |path| {
            fs::remove_file(path).expect("removed");
            fs::create_dir(path).expect("a directory");
        }),
        ("77/stat", |path| fs::write(path, "77 dd").expect("a file")),
    ];
    for (path, change) in cases {
        let tree = Tree::new();
        tree.process(77, "dd", 1);
        tree.open("77", 3, "sdb", 0o2);
        change(&tree.proc().join(path));
        assert!(tree.why().contains("proc/77/"), "{path}: {}", tree.why());
        // Who is known counts for more than who is not.
        tree.process(60, "qemu", 1);
        tree.open("60", 3, "sdb", 0o2);
        tree.process(90, "qemu", 1);
        tree.open("90", 3, "sdb", 0o2);
        assert!(tree.writer().is_known_and(Option::is_some), "{path}");
    }
}

#[test]
fn processes_that_are_hidden_are_not_nobody() {
    let tree = Tree::new();
    fs::remove_dir_all(tree.proc().join("1")).expect("removed");
    assert!(tree.why().contains("CAP_SYS_PTRACE"), "{}", tree.why());
    let tree = Tree::new();
    fs::remove_file(tree.proc().join("self")).expect("removed");
    assert!(tree.writer().known().is_err());
    symlink("1", tree.proc().join("self")).expect("a link");
    assert!(tree.why().contains("--host-root"), "{}", tree.why());
    assert!(writer(&Host::at("/nowhere"), &[DISK]).known().is_err());
}

// ---------------------------------------------------------------------------
// Real processes.

/// This host, with those of its processes that a test is about, and a first one
/// that has nothing open: whether that of the host may be looked at depends on
/// the machine.
#[derive(Debug)]
pub(crate) struct Neighbours(tempfile::TempDir);

impl Neighbours {
    pub(crate) fn of(pids: &[u32]) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        for tree in ["sys", "dev", "run"] {
            symlink(format!("/{tree}"), root.path().join(tree)).expect("a link");
        }
        let proc = root.path().join("proc");
        for part in ["fd", "task"] {
            fs::create_dir_all(proc.join("1").join(part)).expect("a directory");
        }
        symlink(std::process::id().to_string(), proc.join("self")).expect("a link");
        let neighbours = Self(root);
        for pid in pids.iter().chain([&std::process::id()]) {
            neighbours.add(*pid);
        }
        neighbours
    }

    pub(crate) fn add(&self, pid: u32) {
        let link = self.0.path().join("proc").join(pid.to_string());
        symlink(format!("/proc/{pid}"), link).expect("a link");
    }

    pub(crate) fn host(&self) -> Host {
        Host::at(self.0.path())
    }

    fn writer(&self, device: &Loop) -> Fact<Option<Opener>> {
        let devno = *device.device().devno.known().expect("its number");
        writer(&self.host(), &[devno])
    }
}

/// A process that is no child of this one, with a device open.
#[derive(Debug)]
pub(crate) struct Stranger(Pid);

impl Stranger {
    /// `how` is a redirection of the shell: `<`, `>` or `<>`.
    pub(crate) fn with(device: &str, how: &str) -> Self {
        let script = format!("exec sleep 600 9{how}{device} >/dev/null 2>&1 & echo $!");
        let shell = Command::new("sh").args(["-c", &script]).output();
        let shell = shell.expect("a shell");
        let pid: i32 = String::from_utf8(shell.stdout)
            .ok()
            .and_then(|pid| pid.trim().parse().ok())
            .expect("its number");
        let stranger = Self(Pid::from_raw(pid));
        // It has opened the device before it becomes the other program.
        let comm = format!("/proc/{pid}/comm");
        while fs::read_to_string(&comm).expect("it runs").trim() != "sleep" {
            thread::sleep(Duration::from_millis(1));
        }
        stranger
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_raw().unsigned_abs()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).expect("it runs");
        while Path::new(&format!("/proc/{}/fd/9", self.0)).is_symlink() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_stranger_that_writes_is_found_by_the_number_of_the_device_until_it_ends() {
    let device = Loop::of_bytes(1 << 20);
    let reader = Stranger::with(&device.node(), "<");
    let neighbours = Neighbours::of(&[reader.pid()]);
    assert_eq!(neighbours.writer(&device), Fact::Known(None));
    for how in [">", "<>"] {
        let stranger = Stranger::with(&device.node(), how);
        neighbours.add(stranger.pid());
        assert_eq!(neighbours.writer(&device), opener(stranger.pid(), "sleep"));
        drop(stranger);
        assert_eq!(neighbours.writer(&device), Fact::Known(None));
    }
    // As libvirt gives QEMU a /dev of its own.
    let directory = tempfile::tempdir().expect("a directory");
    let private = directory.path().join("disk");
    node(
        &private,
        *device.device().devno.known().expect("its number"),
    );
    let stranger = Stranger::with(private.to_str().expect("UTF-8"), "<>");
    fs::remove_file(&private).expect("removed");
    neighbours.add(stranger.pid());
    assert_eq!(neighbours.writer(&device), opener(stranger.pid(), "sleep"));
}

#[test]
fn what_this_process_has_open_is_its_own_and_another_sees_it() {
    let device = Loop::of_bytes(1 << 20);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device.node());
    let file = file.expect("the device");
    let own = std::process::id();
    let neighbours = Neighbours::of(&[]);
    assert_eq!(neighbours.writer(&device), Fact::Known(None));
    let devno = *device.device().devno.known().expect("its number");
    let other = Processes {
        root: neighbours.host().processes(),
        own: own + 1,
    };
    let seen = other.writer(&[devno]);
    drop(file);
    assert!(
        seen.is_known_and(|seen| seen.as_ref().is_some_and(|seen| seen.pid == own)),
        "{seen:?}"
    );
}

/// A child between fork and exec has what this process has.
#[test]
fn a_child_of_this_process_is_nobody() {
    let device = Loop::of_bytes(1 << 20);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device.node());
    let mut child: Child = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::from(file.expect("the device")))
        .stdout(Stdio::null())
        .spawn()
        .expect("a child");
    let found = Neighbours::of(&[child.id()]).writer(&device);
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    assert_eq!(found, Fact::Known(None));
}

/// As a service whose rights were cut down.
#[test]
fn without_the_right_to_look_at_processes_it_is_said_what_to_grant() {
    const INSIDE: &str = "DISK_DISCOVERY_TEST_WITHOUT_PTRACE";
    if env::var_os(INSIDE).is_some() {
        // A number that no device of any machine has: what is found is not chance.
        let nothing = DevNo {
            major: 4095,
            minor: 4095,
        };
        let found = writer(&Host::at("/"), &[nothing]);
        let why = found.known().expect_err("not known").to_string();
        assert!(why.contains("; grant CAP_SYS_PTRACE"), "{why}");
        return;
    }
    let own = env::current_exe().expect("this program");
    let name = thread::current().name().map(str::to_owned);
    let again = Command::new("setpriv")
        .args(["--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"])
        .arg(own)
        .args(["--exact", "--test-threads=1"])
        .arg(name.expect("a test has a name"))
        .env(INSIDE, "1")
        .output()
        .expect("setpriv");
    let text = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success(), "{again:?}");
    assert!(text.contains("1 passed"), "{text}");
}

/// A FUSE filesystem whose server never answers, as one on a network whose
/// server is gone: whoever asks a file there for its size waits.
#[test]
fn a_filesystem_that_does_not_answer_is_not_waited_for() {
    let server = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let server = server.expect("/dev/fuse");
    let directory = tempfile::tempdir().expect("a directory");
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        server.as_raw_fd()
    );
    let flags = nix::mount::MsFlags::MS_NODEV | nix::mount::MsFlags::MS_NOSUID;
    nix::mount::mount(
        Some("silent"),
        directory.path(),
        Some("fuse.silent"),
        flags,
        Some(options.as_str()),
    )
    .expect("mounted");
    let open = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let file = nix::fcntl::open(directory.path(), open, Mode::empty()).expect("its root");
    nix::mount::umount2(directory.path(), nix::mount::MntFlags::MNT_DETACH).expect("detached");
    let link = std::ffi::CString::new(file.as_raw_fd().to_string()).expect("a number");
    let (tell, told) = mpsc::channel();
    let look = thread::spawn(move || {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let links = Dir::open("/proc/self/fd", flags, Mode::empty()).expect("a directory");
        tell.send(device_behind(&links, &link)).expect("heard");
    });
    let found = told.recv_timeout(Duration::from_mins(2));
    // Whoever waits gets an error now.
    drop(server);
    look.join().expect("it ends");
    assert_eq!(found.expect("an answer").expect("no error"), None);
}
