//! What a round hears while it is under way, without a disk.

use clap::Parser;
use tokio::sync::watch;

use super::*;
use crate::config::Options;

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
