//! What must be so before a released disk is unmounted. Nothing is mounted here:
//! the tables are files, and the kernel has nothing at the place to unmount.

use std::time::Duration;

use super::*;
use crate::{observe::Host, state::State};

const DISK: Uuid = Uuid::from_u128(1);
const DEVNO: DevNo = DevNo {
    major: 8,
    minor: 17,
};

struct Bench {
    around: Surroundings,
    name: DiskName,
    root: tempfile::TempDir,
}

impl Bench {
    /// The disk has left, and is mounted at its place.
    fn left() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let mount_root = root.path().join("mnt");
        fs::create_dir_all(mount_root.join("sdb1")).expect("a place");
        let around = Surroundings {
            host: Host::at(root.path()),
            state: State::below(root.path()),
            max_formats_per_hour: None,
            mkfs_timeout: Duration::from_secs(1),
            mount_root,
            node: "node".to_owned(),
        };
        let name: DiskName = "sdb1".parse().expect("a name");
        around.state.ledger.release(DISK, &name).expect("released");
        around.state.ledger.left(DISK).expect("left");
        let bench = Self { around, name, root };
        bench.mounted(&["1", "self"], &["8:17 /"]);
        bench
    }

    /// What a table has at the place, the topmost last.
    fn mounted(&self, tables: &[&str], mounts: &[&str]) {
        for process in tables {
            let directory = self.root.path().join("proc").join(process);
            fs::create_dir_all(&directory).expect("a directory");
            let place = self.around.mount_root.join("sdb1");
            let mut table = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n".to_owned();
            for mount in mounts {
                let line = format!("2 1 {mount} {} rw - ext4 /dev/sdb1 rw\n", place.display());
                table.push_str(&line);
            }
            fs::write(directory.join("mountinfo"), table).expect("a table");
        }
    }

    fn unmount(&self) -> ProvisionError {
        self.unmount_unless(|| None)
    }

    fn unmount_unless(&self, needed: impl Fn() -> Option<String>) -> ProvisionError {
        let unmounted = unmount_released(&self.name, DEVNO, &self.around, needed);
        unmounted.expect_err("nothing is mounted there")
    }
}

#[test]
fn what_has_left_and_is_alone_at_its_place_is_unmounted() {
    // As the kernel says of a place where nothing is mounted.
    let error = Bench::left().unmount();
    let ProvisionError::Io { step, source } = error else {
        panic!("not tried: {error}");
    };
    assert!(step.starts_with("unmount "), "{step}");
    assert_eq!(source.raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn what_was_taken_back_in_the_meantime_stays_mounted() {
    let bench = Bench::left();
    bench.around.state.ledger.call_off(DISK).expect("kept");
    assert!(matches!(bench.unmount(), ProvisionError::TakenBack(_)));
    bench
        .around
        .state
        .ledger
        .release(DISK, &bench.name)
        .expect("leaving");
    assert!(matches!(bench.unmount(), ProvisionError::TakenBack(_)));
    fs::write(bench.root.path().join("ledger.json"), "{").expect("a file");
    assert!(matches!(bench.unmount(), ProvisionError::Unidentified(_)));
}

#[test]
fn what_is_taken_back_registered_or_covered_while_it_is_written_out_stays_mounted() {
    // What happens between the two times that the question is put.
    let meanwhile = |bench: &Bench, happens: &dyn Fn(&Bench) -> Option<String>| {
        let asked = std::cell::Cell::new(0);
        let error = bench.unmount_unless(|| {
            asked.set(asked.get() + 1);
            (asked.get() == 2).then(|| happens(bench)).flatten()
        });
        assert_eq!(asked.get(), 2);
        error
    };
    let error = meanwhile(&Bench::left(), &|bench| {
        bench.around.state.ledger.call_off(DISK).expect("kept");
        None
    });
    assert!(matches!(error, ProvisionError::TakenBack(_)), "{error}");
    let error = meanwhile(&Bench::left(), &|_| Some("Longhorn has it".to_owned()));
    assert!(matches!(error, ProvisionError::Needed(_)), "{error}");
    let error = meanwhile(&Bench::left(), &|bench| {
        bench.mounted(&["1", "self"], &["8:17 /", "0:50 /"]);
        None
    });
    let covered = matches!(error, ProvisionError::MountNotSeen { .. });
    assert!(covered, "{error}");
}

#[test]
fn what_is_not_alone_at_its_place_or_not_the_disk_stays_mounted() {
    let both: &[&str] = &["1", "self"];
    for (tables, mounts) in [
        (both, &["8:17 /", "0:50 /"][..]),
        (both, &["0:50 /", "8:17 /"]),
        (both, &["8:17 /", "8:17 /"]),
        (both, &["8:33 /"]),
        (both, &["8:17 /replicas"]),
        (both, &[]),
        (&["1"], &["8:33 /"]),
        (&["self"], &["8:17 /", "0:50 /"]),
    ] {
        let bench = Bench::left();
        bench.mounted(tables, mounts);
        let error = bench.unmount();
        let seen = matches!(error, ProvisionError::MountNotSeen { .. });
        assert!(seen, "{tables:?} {mounts:?}: {error}");
    }
}

#[test]
fn a_disk_that_has_left_is_not_mounted_by_a_job_that_was_decided_before() {
    let bench = Bench::left();
    let check = || check_not_released(DISK, &bench.name, &bench.around);
    assert!(matches!(check(), Err(ProvisionError::Released(_))));
    bench.around.state.ledger.call_off(DISK).expect("kept");
    check().expect("it is ours again");
    bench
        .around
        .state
        .ledger
        .release(DISK, &bench.name)
        .expect("leaving");
    check().expect("it is served until it has left");
}

#[test]
fn only_a_disk_that_was_mounted_here_before_is_mounted_where_processes_cannot_be_seen() {
    let unknown = || {
        Err(ProvisionError::OpenersUnknown {
            node: PathBuf::from("/dev/sdb"),
            why: crate::fact::Unreadable {
                what: "/proc/1/fd".to_owned(),
                why: "Permission denied".to_owned(),
            },
        })
    };
    let held = || {
        Err(ProvisionError::Held {
            node: PathBuf::from("/dev/sdb"),
            how: "open for writing".to_owned(),
        })
    };
    let name: DiskName = "sdb1".parse().expect("a name");
    assert!(serve_known(unknown(), true, &name).is_ok());
    assert!(serve_known(unknown(), false, &name).is_err());
    for known in [true, false] {
        assert!(serve_known(held(), known, &name).is_err());
        assert!(serve_known(Ok(()), known, &name).is_ok());
    }
    let bench = Bench::left();
    let occupant = |uuid, name| Occupant {
        uuid,
        name,
        filesystem: Filesystem::Ext4,
        named_by_disk: true,
    };
    assert!(is_known(&occupant(DISK, &bench.name), &bench.around));
    let other: DiskName = "sdc1".parse().expect("a name");
    assert!(!is_known(&occupant(DISK, &other), &bench.around));
    assert!(!is_known(
        &occupant(Uuid::from_u128(2), &bench.name),
        &bench.around
    ));
}
