//! Makes the filesystem on a partition that carries our pending claim, with
//! the programs of e2fsprogs and xfsprogs.

use std::{
    io::Read,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{PendingDisk, ProvisionError, mount::check_filesystem};
use crate::{
    sys,
    units::{DiskName, Filesystem},
};

/// Every program that the agent ever runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `mkfs.ext4`.
    MkfsExt4,
    /// `mkfs.xfs`.
    MkfsXfs,
}

/// Whether mkfs may meet a filesystem on the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// The partition was made on a disk proven blank.
    Fresh,
    /// An earlier attempt may have left our own, never mounted filesystem.
    Resumed,
}

impl Program {
    /// The one that makes a filesystem.
    pub fn for_filesystem(filesystem: Filesystem) -> Self {
        match filesystem {
            Filesystem::Ext4 => Self::MkfsExt4,
            Filesystem::Xfs => Self::MkfsXfs,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::MkfsExt4 => "mkfs.ext4",
            Self::MkfsXfs => "mkfs.xfs",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::MkfsExt4 => "e2fsprogs",
            Self::MkfsXfs => "xfsprogs",
        }
    }

    /// Where it is installed. The search path of the environment is not used.
    ///
    /// # Errors
    /// When it is in none of the places where distributions put it.
    pub fn find(self) -> Result<PathBuf, ProvisionError> {
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
            .into_iter()
            .map(|directory| Path::new(directory).join(self.name()))
            .find(|path| path.is_file())
            .ok_or(ProvisionError::NoProgram {
                program: self.name(),
                package: self.package(),
            })
    }

    fn arguments(self, uuid: &str, name: &DiskName, ground: Ground) -> Vec<String> {
        // XFS has room for 12 characters, ext4 for 16. Longer names are cut:
        // the label is for people, nothing looks it up.
        let label: String = name.as_str().chars().take(12).collect();
        let words: Vec<&str> = match self {
            // Stdin is no terminal, so mke2fs does not ask before it writes
            // over a filesystem: the proof is the only guard. No discard: it
            // can take minutes, and a blank disk has nothing to discard.
            Self::MkfsExt4 => vec!["-q", "-U", uuid, "-L", &label, "-E", "nodiscard"],
            Self::MkfsXfs => {
                let mut words = vec!["-q", "-K", "-L", &label];
                if ground == Ground::Resumed {
                    // The one forced case: it was never mounted and carries our GUID.
                    words.push("-f");
                }
                words.push("-m");
                words
            }
        };
        let mut arguments: Vec<String> = words.into_iter().map(str::to_owned).collect();
        if self == Self::MkfsXfs {
            arguments.push(format!("uuid={uuid}"));
        }
        arguments
    }
}

/// Makes the filesystem with the partition's GUID as its UUID. A mkfs that
/// takes longer than `timeout` is killed; one that waits for a disk that does
/// not answer dies when the kernel has given up on it.
///
/// # Errors
/// When the program is missing, fails, or takes too long.
pub(super) fn make(
    disk: &PendingDisk,
    filesystem: Filesystem,
    ground: Ground,
    timeout: Duration,
) -> Result<(), ProvisionError> {
    let program = Program::for_filesystem(filesystem);
    let uuid = disk.claim().partition_guid.to_string();
    let mut command = Command::new(program.find()?);
    command
        .args(program.arguments(&uuid, &disk.claim().name, ground))
        .arg(disk.partition().node())
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    run(program, sys::die_with_parent(&mut command), timeout)
}

fn run(program: Program, command: &mut Command, deadline: Duration) -> Result<(), ProvisionError> {
    let step = |what: &str| ProvisionError::io(format!("{what} {}", program.name()));
    let mut child = sys::spawn(command).map_err(step("start"))?;
    let exit = sys::exit_descriptor(&child).map_err(step("watch"));
    let ended = exit.and_then(|exit| {
        let timeout = PollTimeout::try_from(deadline).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(exit.as_fd(), PollFlags::POLLIN)], timeout)
            .map_err(|error| step("wait for")(error.into()))
    });
    if !matches!(ended, Ok(1..)) {
        // Gone already, or about to be: wait() below tells.
        drop(child.kill());
    }
    let status = child.wait().map_err(step("wait for"))?;
    let mut output = String::new();
    if let Some(stderr) = child.stderr.take() {
        stderr
            .take(4096)
            .read_to_string(&mut output)
            .map_err(step("read the output of"))?;
    }
    if ended? == 0 {
        output.push_str("killed because it took too long");
    }
    if status.success() {
        return Ok(());
    }
    Err(ProvisionError::Mkfs {
        program: program.name(),
        status: status.to_string(),
        output: output.trim().to_owned(),
    })
}

/// Makes sure that the filesystem on the partition is the one asked for, and
/// that it is durable.
///
/// # Errors
/// When another or none is found.
pub(super) fn verify(disk: &PendingDisk, filesystem: Filesystem) -> Result<(), ProvisionError> {
    let partition = disk.partition();
    nix::unistd::fsync(partition.file().as_fd())
        .map_err(|error| ProvisionError::io("flush the new filesystem")(error.into()))?;
    check_filesystem(partition, disk.claim().partition_guid, filesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_resumed_xfs_is_forced() {
        let name: DiskName = "nvme0n1p1".parse().expect("a name");
        let forced = |program: Program, ground| {
            program
                .arguments("u", &name, ground)
                .iter()
                .any(|word| word == "-f" || word == "-F")
        };
        assert!(!forced(Program::MkfsExt4, Ground::Fresh));
        assert!(!forced(Program::MkfsExt4, Ground::Resumed));
        assert!(!forced(Program::MkfsXfs, Ground::Fresh));
        assert!(forced(Program::MkfsXfs, Ground::Resumed));
    }

    #[test]
    fn a_program_that_fails_is_reported_with_what_it_printed() {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", "echo out of paper >&2; exit 3"])
            .stderr(Stdio::piped());
        let error = run(Program::MkfsExt4, &mut command, Duration::MAX)
            .expect_err("it failed")
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("out of paper"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_hangs_is_killed_at_its_deadline() {
        let mut command = Command::new("/bin/sleep");
        command.arg("600").stderr(Stdio::piped());
        let error = run(Program::MkfsExt4, &mut command, Duration::from_millis(50))
            .expect_err("killed")
            .to_string();
        assert!(error.contains("took too long"), "{error}");
    }
}
