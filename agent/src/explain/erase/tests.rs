//! The commands are run here as a person would, on a loop device: they erase
//! what they say, and nobody who asks for the lock gets at the disk meanwhile.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    thread::sleep,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::stat::Mode,
};

use super::{super::tests::medium, *};
use crate::{
    observe::{Host, device, sample::Seed, scan::Scan, traces::Trace},
    provision::{LockedDisk, ProvisionError, Target},
};

/// Not a multiple of 4096 bytes, as disks are that have a sector too many.
const SIZE: u64 = (64 << 20) + 512;
const COPY: u64 = 20 << 20;
/// Something between the copies, of which the first step does not know.
const FILES: u64 = 40 << 20;

fn ran(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).output();
    let out = out.expect(program);
    assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
    String::from_utf8(out.stdout).expect("UTF-8")
}

/// A loop device on an image, away when it is dropped.
struct Disk {
    directory: tempfile::TempDir,
    node: String,
}

impl Disk {
    /// With one partition, and something at both ends and in two places between.
    fn with_residue() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("image");
        let image = File::create(&path).expect("an image");
        image.set_len(SIZE).expect("its size");
        let text = path.to_str().expect("UTF-8");
        for at in [512, COPY, FILES, SIZE - 4] {
            image.write_all_at(b"left", at).expect("residue");
        }
        let node = ran("losetup", &["--find", "--show", "--partscan", text]);
        let disk = Self {
            directory,
            node: node.trim().to_owned(),
        };
        // As the kernel knows it after it has read a table, of whatever kind.
        ran("addpart", &[&disk.node, "1", "2048", "2048"]);
        disk
    }

    fn name(&self) -> &str {
        self.node.trim_start_matches("/dev/")
    }

    fn device(&self) -> Device {
        device::read(&Host::at("/"), self.name())
    }

    fn commands(&self) -> Commands {
        let scan = Scan {
            seed: Seed(1),
            residue: Some(512),
            traces: vec![Trace {
                kind: "xfs".to_owned(),
                at: COPY,
                wiped: false,
            }],
            digest: String::new(),
            bytes: 0,
            reads: 0,
        };
        let medium = medium(scan);
        commands(&self.device(), Some(&medium))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whether there is anything but zeroes in these bytes of the image.
    fn holds_something(&self, at: u64, len: u64) -> bool {
        let image = File::open(self.path("image")).expect("the image");
        let mut bytes = vec![0; usize::try_from(len).expect("few")];
        image.read_exact_at(&mut bytes, at).expect("read");
        bytes.iter().any(|byte| *byte != 0)
    }

    fn is_partitioned(&self) -> bool {
        Path::new(&format!("/sys/class/block/{0}/{0}p1", self.name())).exists()
    }

    /// A directory of programs that are found before those of the system.
    fn programs(&self, programs: &[(&str, &str)]) -> String {
        let directory = self.path("bin");
        fs::create_dir_all(&directory).expect("a directory");
        for (name, script) in programs {
            // What this process has open for writing is inherited by a child that
            // another test starts meanwhile, and could not be run: so another
            // process makes it.
            let written = directory.join(format!("{name}.sh"));
            fs::write(&written, format!("#!/bin/sh\n{script}\n")).expect("written");
            let mut install = Command::new("install");
            install.args(["--mode", "755", "--"]);
            install.args([&written, &directory.join(name)]);
            assert!(install.status().expect("install").success(), "{install:?}");
        }
        let path = std::env::var("PATH").expect("PATH");
        format!("{}:{path}", directory.display())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let gone = Command::new("losetup").args(["-d", &self.node]).status();
        assert!(gone.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Commands that a shell runs, and that stop at each `dd` until they are told
/// to go on.
struct Stepped {
    shell: Child,
    stops: File,
    goes: File,
}

impl Stepped {
    fn start(disk: &Disk, commands: &[String]) -> Self {
        let pipe = |name: &str| {
            let path = disk.path(name);
            if !path.exists() {
                nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).expect("a pipe");
            }
            // Both ways, so that no open waits for another.
            let both = OpenOptions::new().read(true).write(true).open(&path);
            (path, both.expect("a pipe"))
        };
        let ((stops_at, stops), (goes_at, goes)) = (pipe("stops"), pipe("goes"));
        let (stops_at, goes_at) = (stops_at.display(), goes_at.display());
        let dd = ran("sh", &["-c", "command -v dd"]);
        let stop = format!(
            "printf d >{stops_at}; head -c 1 <{goes_at} >/dev/null; exec {} \"$@\"",
            dd.trim()
        );
        // What udevd would make of it is not the point here.
        let path = disk.programs(&[("dd", &stop), ("udevadm", "exit 0")]);
        let script = format!("{}\nprintf e >{stops_at}", commands.join("\n"));
        let shell = Command::new("sh")
            .args(["-c", &script])
            .env("PATH", path)
            .spawn()
            .expect("a shell");
        Self { shell, stops, goes }
    }

    /// Whether it stands before another `dd`; `false` when all are done.
    fn is_at_a_write(&mut self) -> bool {
        let mut byte = [0];
        self.stops.read_exact(&mut byte).expect("a step");
        byte == *b"d"
    }

    fn go_on(&mut self) {
        self.goes.write_all(b"g").expect("told");
    }

    fn ended(mut self) {
        let status = self.shell.wait().expect("the shell");
        assert!(status.success(), "{status:?}");
    }
}

fn is_locked(node: &str) -> bool {
    let file = File::open(node).expect("the disk");
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(_lock) => false,
        Err((_file, nix::errno::Errno::EWOULDBLOCK)) => true,
        Err((_file, error)) => panic!("{error}"),
    }
}

/// The agent would begin with a disk that is blank between two writes.
#[test]
fn the_agent_cannot_begin_with_a_disk_while_the_commands_that_erase_it_run() {
    let disk = Disk::with_residue();
    let (device, host) = (disk.device(), Host::at("/"));
    let target = Target::of(&device, &host).expect("a target");
    assert!(disk.is_partitioned());
    let commands = disk.commands();
    let mut writes = 0;
    for list in [&commands.places, &commands.all] {
        let mut shell = Stepped::start(&disk, list);
        while shell.is_at_a_write() {
            writes += 1;
            assert!(is_locked(&disk.node), "at write {writes} of {list:?}");
            if writes == 2 {
                let opened = LockedDisk::open(target.clone(), &host);
                assert!(
                    matches!(&opened, Err(ProvisionError::Held { how, .. }) if how == "flock"),
                    "{opened:?}"
                );
            }
            shell.go_on();
        }
        shell.ended();
        // udevd, where there is one, looks at the disk when it was closed.
        let free = (0..600).any(|_| {
            let free = !is_locked(&disk.node);
            if !free {
                sleep(Duration::from_millis(100));
            }
            free
        });
        assert!(free, "after {list:?}");
        if writes == 3 {
            // The ends and the copy, and the partition with them.
            assert!(!disk.holds_something(0, ZERO_END));
            assert!(!disk.holds_something(COPY, BLOCK));
            assert!(!disk.holds_something(SIZE - ZERO_END, ZERO_END));
            assert!(disk.holds_something(FILES, BLOCK));
            assert!(!disk.is_partitioned());
        }
    }
    assert_eq!(writes, 4);
    assert!(!disk.holds_something(0, SIZE));
    LockedDisk::open(target, &host).expect("the lock is free");
}

/// As when the agent was faster than whoever pasted the second step.
#[test]
fn a_disk_that_is_mounted_by_then_is_not_written_to() {
    let disk = Disk::with_residue();
    let commands = disk.commands();
    ran("mkfs.ext4", &["-q", "-F", &disk.node]);
    let image = || fs::read(disk.path("image")).expect("the image");
    let path = disk.programs(&[("dd", "echo written"), ("udevadm", "exit 0")]);
    let at = disk.path("mounted");
    fs::create_dir(&at).expect("a directory");
    for list in [&commands.places, &commands.all] {
        let before = image();
        // The mount is seen by nobody else, and gone with the shell.
        let script = format!(
            "mount -o ro {} {}\n{}",
            disk.node,
            at.display(),
            list.join("\n")
        );
        let out = Command::new("unshare")
            .args(["-m", "sh", "-c", &script])
            .env("PATH", &path)
            .output();
        let Output { stdout, stderr, .. } = out.expect("a shell");
        let (stdout, stderr) = (
            String::from_utf8_lossy(&stdout),
            String::from_utf8_lossy(&stderr),
        );
        assert!(stderr.contains("is in use: /"), "{stderr}");
        assert!(!stdout.contains("written"), "{stdout}");
        assert!(before == image(), "{stdout}{stderr}");
    }
}

#[test]
fn a_name_is_one_word_for_the_shell_whatever_is_in_it() {
    for name in ["/dev/sdb", "/dev/disk/by-id/it's $(x) `y`\\x20", ""] {
        let said = ran("sh", &["-c", &format!("printf '<%s>' {}", quoted(name))]);
        assert_eq!(said, format!("<{name}>"));
    }
}
