//! What a round hears while it is under way, without a disk.

use clap::Parser;
use tokio::sync::watch;

use uuid::Uuid;

use super::*;
use crate::{config::Options, mount_unit, observe::Hardware, units::Filesystem};

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
