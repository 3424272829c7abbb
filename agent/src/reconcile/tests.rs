//! What a round hears while it is under way, without a disk.

use clap::Parser;
use nix::{sys::stat::Mode as Permissions, unistd::mkfifo};
use tokio::sync::watch;

use uuid::Uuid;

use super::*;
use crate::{
    config::Options, mount_unit, observe::Hardware, releases::ReleaseState, units::Filesystem,
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

#[tokio::test]
async fn what_the_cluster_says_during_a_round_begins_another() {
    let host = tempfile::tempdir().expect("a directory");
    let directory = host.path().to_str().expect("UTF-8");
    let line = Line::parse_from(["x", "--state-dir", directory, "--host-root", directory]);
    let settings: Settings = line.options.into_settings().expect("settings");
    let (cluster, heard) = watch::channel(View::Connecting);
    let (mut reconciler, rounds) = Reconciler::new(settings, heard);
    // The round has begun when the second is polled, and waits for its look.
    let round = reconciler.round(&Dirty::Everything);
    tokio::join!(round, async { cluster.send_replace(View::Absent) });
    let round = rounds.borrow().clone().expect("a round");
    assert_eq!(round.longhorn, View::Connecting);
    assert!(
        reconciler.longhorn.has_changed().expect("a cluster"),
        "nothing would be formatted until something else happens"
    );
}

/// systemd mounts by the UUID alone, at boot, whichever of two has the link.
#[tokio::test]
async fn a_disk_of_which_there_is_a_copy_loses_its_mount_unit() {
    let host = tempfile::tempdir().expect("a directory");
    let directory = host.path().to_str().expect("UTF-8");
    let (units, mounts) = (host.path().join("units"), host.path().join("mounts"));
    let line = Line::parse_from([
        "x",
        "--mode",
        "enforce",
        "--state-dir",
        directory,
        "--host-root",
        directory,
        "--mount-root",
        mounts.to_str().expect("UTF-8"),
        "--mount-units",
        units.to_str().expect("UTF-8"),
    ]);
    let settings: Settings = line.options.into_settings().expect("settings");
    let ledger = State::below(host.path()).ledger;
    let names = ["sdb1", "sdc1"].map(|name| name.parse::<DiskName>().expect("a name"));
    for (name, number) in names.iter().zip(1..) {
        let filesystem = Uuid::from_u128(number);
        ledger.keep(filesystem, name).expect("kept");
        let hardware = Hardware {
            wwn: None,
            serial: Some(format!("S{number}")),
        };
        ledger.mounted_from(filesystem, &hardware).expect("kept");
        mount_unit::write(&units, &mounts, name, filesystem, Filesystem::Ext4).expect("written");
    }
    ledger.copied(Uuid::from_u128(1)).expect("kept");
    let (_cluster, heard) = watch::channel(View::Off);
    let (mut reconciler, _rounds) = Reconciler::new(settings, heard);
    reconciler.round(&Dirty::Everything).await;
    let files = std::fs::read_dir(&units).expect("units");
    let files = files.map(|file| file.expect("a file").file_name());
    let files: String = files.map(|name| format!("{} ", name.display())).collect();
    assert!(!files.contains("-sdb1.mount"), "{files}");
    assert!(
        files.contains("-sdc1.mount"),
        "of this one there is none: {files}"
    );
}

/// A host whose looks last until somebody writes to a pipe.
struct SlowHost(tempfile::TempDir);

impl SlowHost {
    fn new() -> Self {
        let host = tempfile::tempdir().expect("a directory");
        let pipe = host.path().join("frozen");
        mkfifo(&pipe, Permissions::S_IRWXU).expect("a pipe");
        Self(host)
    }

    fn reconciler(&self) -> Reconciler {
        let directory = self.0.path().to_str().expect("UTF-8");
        let words = ["--state-dir", directory, "--host-root", directory];
        let mode = ["x", "--mode", "enforce"];
        let line = Line::parse_from(mode.into_iter().chain(words));
        let settings = line.options.into_settings().expect("settings");
        // Nobody is there to tell more.
        let (_cluster, heard) = watch::channel(View::Off);
        Reconciler::new(settings, heard).0
    }

    /// Lets a look go on, once it has come to that.
    fn go_on(&self) {
        let said = std::fs::write(self.0.path().join("frozen"), "for a while");
        said.expect("heard");
    }
}

/// Or it would show that a release is over, and not how it ended.
#[tokio::test]
async fn what_is_told_during_a_burst_is_shown_by_the_round_after_it() {
    let host = tempfile::tempdir().expect("a directory");
    let directory = host.path().to_str().expect("UTF-8");
    let line = Line::parse_from(["x", "--state-dir", directory, "--host-root", directory]);
    let settings = line.options.into_settings().expect("settings");
    let (_cluster, heard) = watch::channel(View::Off);
    let (mut reconciler, rounds) = Reconciler::new(settings, heard);
    let told = News::Told("sdb1".parse().expect("a name"), Told::InUse);
    reconciler.news.0.send(told).expect("it listens");
    let dirty = reconciler.gather(Dirty::nothing(), None).await;
    reconciler.round(&dirty).await;
    let round = rounds.borrow().clone().expect("a round");
    let states: Vec<_> = round.releases.iter().map(|row| row.state).collect();
    assert_eq!(states, [ReleaseState::InUse]);
}

#[tokio::test]
async fn what_falls_due_while_a_round_looks_is_a_reason_for_the_next() {
    let host = SlowHost::new();
    let mut reconciler = host.reconciler();
    let why = "no".to_owned();
    reconciler.unkept.failed("sdb1", why, Instant::now());
    // A second, and a quarter of it.
    let late = async {
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        host.go_on();
    };
    let (next, ()) = tokio::join!(reconciler.round(&Dirty::Everything), late);
    let NextRound::After(pause, _) = next else {
        panic!("it waits for the timer: {next:?}");
    };
    assert_eq!(pause, Duration::ZERO);
}

#[tokio::test]
async fn who_is_told_to_stop_does_not_wait_for_a_look() {
    let host = SlowHost::new();
    let reconciler = host.reconciler();
    let (stop, stopped) = watch::channel(false);
    let later = async {
        // The look has begun.
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.send_replace(true);
    };
    let both = async { tokio::join!(reconciler.run(stopped), later) };
    let ended = tokio::time::timeout(Duration::from_mins(1), both).await;
    // Or the thread that looks would keep this process.
    host.go_on();
    assert!(ended.is_ok(), "it waits");
}

#[tokio::test]
async fn a_job_whose_progress_was_not_heard_yet_is_given_time_to_end() {
    let host = SlowHost::new();
    let mut reconciler = host.reconciler();
    for disk in ["sdb", "sdc"] {
        let waiting = Work {
            phase: Phase::Waiting,
            overdue: None,
        };
        reconciler.working.insert(disk.to_owned(), waiting);
    }
    let news = reconciler.news.0.clone();
    let begun = News::Progress("sdb".to_owned(), Phase::Formatting);
    news.send(begun).expect("heard");
    let ends = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(news.send(News::Ended("sdb".to_owned(), None)).is_ok());
    };
    tokio::join!(reconciler.drain(), ends);
    assert!(reconciler.working.is_empty(), "{:?}", reconciler.working);
    assert!(reconciler.news.1.is_empty(), "it was not waited for");
}

#[tokio::test]
async fn a_decision_that_grew_too_old_says_nothing_of_the_disk() {
    let host = SlowHost::new();
    let mut reconciler = host.reconciler();
    let waiting = Work {
        phase: Phase::Waiting,
        overdue: None,
    };
    reconciler.working.insert("sdb".to_owned(), waiting);
    reconciler.aside.insert("sdb1".to_owned());
    let now = Instant::now();
    reconciler.backoff.failed("sdb", "no".to_owned(), now);
    let again = reconciler.take(News::Stale("sdb".to_owned()));
    let both = BTreeSet::from(["sdb".to_owned(), "sdb1".to_owned()]);
    assert_eq!(again, Some(Dirty::Devices(both)));
    assert!(reconciler.working.is_empty());
    assert!(
        reconciler.backoff.error_of("sdb").is_some(),
        "it had failed"
    );
    assert!(reconciler.mounted.may_try("sdb", now), "it was not mounted");
}
