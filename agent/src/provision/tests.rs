//! Who else uses a disk, asked of loop devices of the test. Nothing is written
//! to them.

use std::{fs::File, io::Read, thread, time::Instant};

use super::*;
use crate::observe::{
    loops::tests::Loop,
    openers::tests::{Neighbours, Stranger},
};

const SIZE: u64 = 64 << 20;

/// A child that another test starts has what this process has open, until it runs
/// its program: so long a disk that was let go a moment ago is held.
fn open(device: &Loop, host: &Host) -> Result<ExclusiveDisk, ProvisionError> {
    let end = Instant::now() + Duration::from_mins(1);
    loop {
        let opened = ExclusiveDisk::open(Target::of(&device.device(), host)?, host);
        let by_a_child = opened.as_ref().is_err_and(|error| {
            matches!(error, ProvisionError::Held { how, .. } if how == "O_EXCL" || how == "flock")
        });
        if !by_a_child || Instant::now() > end {
            return opened;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

fn held_by(outcome: &ProvisionError) -> &str {
    let ProvisionError::Held { how, .. } = outcome else {
        panic!("not held: {outcome}");
    };
    how
}

#[test]
fn a_disk_that_somebody_has_open_for_writing_is_held_until_it_is_closed() {
    let device = Loop::of_bytes(SIZE);
    let stranger = Stranger::with(&device.node(), "<>");
    let neighbours = Neighbours::of(&[stranger.pid()]);
    let host = neighbours.host();
    let error = open(&device, &host).expect_err("held");
    let who = format!("open for writing: sleep, pid {}", stranger.pid());
    assert_eq!(held_by(&error), who);
    drop(stranger);
    let reader = Stranger::with(&device.node(), "<");
    neighbours.add(reader.pid());
    open(&device, &host).expect("nobody writes");
}

#[test]
fn a_disk_under_a_loop_device_is_held_until_that_is_taken_down() {
    let device = Loop::of_bytes(SIZE);
    let neighbours = Neighbours::of(&[]);
    let host = neighbours.host();
    let upper = Loop::on(&device);
    let error = open(&device, &host).expect_err("held");
    assert_eq!(held_by(&error), format!("{} lies on it", upper.name));
    drop(upper);
    open(&device, &host).expect("nothing lies on it");
}

#[test]
fn a_host_whose_processes_cannot_be_seen_is_no_host_where_nobody_writes() {
    let device = Loop::of_bytes(SIZE);
    // The host but for its processes.
    let root = tempfile::tempdir().expect("a directory");
    for tree in ["sys", "dev", "run"] {
        let link = root.path().join(tree);
        std::os::unix::fs::symlink(format!("/{tree}"), link).expect("a link");
    }
    let host = Host::at(root.path());
    let target = Target::of(&device.device(), &host).expect("a target");
    let error = ExclusiveDisk::open(target, &host).expect_err("not known");
    assert!(
        matches!(error, ProvisionError::OpenersUnknown { .. }),
        "{error}"
    );
}

/// It opens the disk after the disk was opened here, so only asking again tells.
#[test]
fn who_begins_to_write_while_the_disk_is_read_stops_the_first_write() {
    let device = Loop::of_bytes(SIZE);
    let neighbours = Neighbours::of(&[]);
    let disk = open(&device, &neighbours.host()).expect("free");
    let proof = BlankProof::of(disk, &[], None).expect("blank");
    let root = tempfile::tempdir().expect("a directory");
    let around = Surroundings {
        host: neighbours.host(),
        state: State::below(root.path()),
        max_formats_per_hour: Some(1),
        mkfs_timeout: Duration::from_secs(1),
        mount_root: root.path().join("mnt"),
        node: "node".to_owned(),
    };
    let provision = Provision {
        name: "sdb1".parse().expect("a name"),
        filesystem: Filesystem::Ext4,
        begun: None,
        approval: None,
    };
    let stranger = Stranger::with(&device.node(), "<>");
    neighbours.add(stranger.pid());
    let error = begin(proof, &provision, &around).expect_err("held");
    assert!(held_by(&error).contains("sleep"), "{error}");
    drop(stranger);
    // Nothing is left of the attempt, and it does not count.
    let entries = around.state.journal.list();
    assert!(entries.is_known_and(Vec::is_empty), "{entries:?}");
    assert!(!around.mount_root.join("sdb1").exists());
    let (ledger, name) = (&around.state.ledger, &provision.name);
    let begun = ledger.begin(name, None, false, around.max_formats_per_hour);
    begun.expect("the first within an hour");
    let mut written = Vec::new();
    let mut disk = File::open(device.node()).expect("the disk");
    disk.read_to_end(&mut written).expect("read");
    assert!(
        written.iter().all(|byte| *byte == 0),
        "something was written"
    );
}

#[test]
fn who_begins_to_write_while_a_claim_is_read_stops_its_completion() {
    let device = Loop::of_bytes(SIZE);
    let neighbours = Neighbours::of(&[]);
    let disk = open(&device, &neighbours.host()).expect("free");
    let id = ClaimId::fresh("sdb1".parse().expect("a name"));
    let pending = TableImage::build(disk.disk().target().geometry(), &id, Stage::Pending);
    for write in pending.expect("a table").writes() {
        std::os::unix::fs::FileExt::write_all_at(disk.file(), write.bytes, write.at)
            .expect("the device of this test");
    }
    let proof = PendingProof::of(disk, &id, &[]).expect("pending");
    let stranger = Stranger::with(&device.node(), "<>");
    neighbours.add(stranger.pid());
    let error = proof.resume().expect_err("held");
    assert!(held_by(&error).contains("sleep"), "{error}");
}

#[test]
fn a_commit_that_was_cut_off_is_not_completed_while_somebody_writes() {
    let device = Loop::of_bytes(SIZE);
    let stranger = Stranger::with(&device.node(), "<>");
    let neighbours = Neighbours::of(&[stranger.pid()]);
    let host = neighbours.host();
    let target = Target::of(&device.device(), &host).expect("a target");
    let disk = LockedDisk::open(target, &host).expect("locked");
    let id = ClaimId::fresh("sdb1".parse().expect("a name"));
    let error = table::complete_commit(&disk, &id, &[]).expect_err("held");
    assert!(held_by(&error).contains("sleep"), "{error}");
}
