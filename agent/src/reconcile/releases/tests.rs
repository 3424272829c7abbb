//! What becomes of each request, without a disk and without a cluster.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

use clap::Parser;
use tokio::sync::watch;
use uuid::Uuid;

use super::*;
use crate::{
    claim::ClaimId,
    config::{Options, Settings},
    decide::{Managed, Provision, Reason},
    ledger::{Before, ReleasePhase},
    provision::Phase,
    reconcile::Work,
    releases::ReleaseState,
    units::Filesystem,
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// A loop that has looked once, and seen `sdb1` on `sdb`.
struct Bench {
    reconciler: Reconciler,
    claim: ClaimId,
    state: tempfile::TempDir,
    // The loop hears of Longhorn as long as it is there.
    longhorn: watch::Sender<View>,
}

impl Bench {
    fn new(longhorn: View) -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let directory = state.path().to_str().expect("UTF-8");
        let mount_root = format!("{directory}/mnt");
        let mut line = vec!["x", "--state-dir", directory, "--host-root", directory];
        line.extend(["--mount-root", &mount_root]);
        let line = Line::parse_from(line);
        let settings: Settings = line.options.into_settings().expect("settings");
        let (heard, view) = watch::channel(longhorn);
        let (mut reconciler, _) = Reconciler::new(settings, view);
        let claim = ClaimId::fresh(name("sdb1"));
        let managed = Managed {
            claim: claim.clone(),
            filesystem: Filesystem::Ext4,
            mounted: true,
            ailment: None,
            growth: None,
        };
        reconciler.rounds = 1;
        reconciler
            .verdicts
            .insert("sdb".to_owned(), Verdict::Managed(managed));
        let bench = Self {
            reconciler,
            claim,
            state,
            longhorn: heard,
        };
        fs::create_dir_all(bench.place()).expect("a place");
        bench.mounted(true);
        bench
    }

    /// Where the disk is mounted.
    fn place(&self) -> PathBuf {
        self.state.path().join("mnt/sdb1")
    }

    /// Whether the host's tables have it there.
    fn mounted(&self, there: bool) {
        let found = fs::metadata(self.place()).expect("metadata");
        let devno = crate::units::DevNo::from_raw(found.dev());
        let place = self.place();
        let line = format!("2 1 {devno} / {} rw - ext4 /dev/sdb1 rw\n", place.display());
        for process in ["1", "self"] {
            let directory = self.state.path().join("proc").join(process);
            fs::create_dir_all(&directory).expect("a directory");
            let table = if there { line.as_str() } else { "" };
            fs::write(directory.join("mountinfo"), table).expect("a table");
        }
    }

    /// Longhorn has used it, and has these things on it.
    fn holds(&self, things: &[&str]) {
        let config = self.place().join("longhorn-disk.cfg");
        fs::write(config, r#"{"diskUUID":"u"}"#).expect("written");
        for thing in things {
            fs::create_dir_all(self.place().join(thing)).expect("a directory");
        }
    }

    /// What Longhorn has registered at a path below the mount root.
    fn registered(&self, path: &str) -> View {
        let root = self.state.path().join("mnt");
        registered(&format!("{}{path}", root.display()))
    }

    /// Serves, after what is read first was heard.
    fn serve_what_is_read(&mut self) -> usize {
        assert_eq!(self.serve(), 0);
        let waits = self.told("sdb1");
        assert!(matches!(waits, Some(Told::Waiting(_))), "{waits:?}");
        let news = self.reconciler.news.1.blocking_recv().expect("news");
        assert!(self.reconciler.take(news).is_some(), "it is looked again");
        self.serve()
    }

    fn hear(&self, view: View) {
        self.longhorn.send_replace(view);
    }

    fn ask(&self, wish: Wish, name: &str) {
        let name = name.parse().expect("a name");
        self.post(&Request {
            name,
            wish,
            even_with_replicas: false,
        });
    }

    fn post(&self, request: &Request) {
        self.reconciler
            .releasing
            .mailbox
            .post(request)
            .expect("asked");
    }

    /// The start of a round, and its end; how many requests were answered.
    fn serve(&mut self) -> usize {
        let answered = self.reconciler.serve_requests();
        self.reconciler.dismiss(&answered);
        answered.len()
    }

    fn phase(&self) -> Option<ReleasePhase> {
        let standing = self.reconciler.around.state.ledger.standing();
        let standing = standing.known().expect("readable");
        let release = standing.releases.get(&self.claim.partition_guid)?;
        assert_eq!(release.name, self.claim.name);
        Some(release.phase.clone())
    }

    fn told(&self, of: &str) -> Option<Told> {
        let told = self.reconciler.releasing.told.get(&name(of));
        told.map(|(told, _)| told.clone())
    }

    fn open(&self) -> usize {
        self.reconciler
            .releasing
            .mailbox
            .open()
            .expect("readable")
            .len()
    }
}

fn name(text: &str) -> DiskName {
    text.parse().expect("a name")
}

const LEAVING: Option<ReleasePhase> = Some(ReleasePhase::UNTOUCHED);

const DISABLED: Before = Before {
    schedulable: false,
    evicting: false,
};

#[test]
fn without_longhorn_a_disk_leaves_at_once_and_with_it_when_longhorn_has_let_it_go() {
    for (longhorn, phase) in [
        (View::Off, Some(ReleasePhase::Left)),
        (View::Connecting, LEAVING),
        (View::Absent, LEAVING),
        (View::NotInstalled, LEAVING),
    ] {
        let mut bench = Bench::new(longhorn.clone());
        bench.ask(Wish::Release, "sdb1");
        let answered = if longhorn == View::Off {
            bench.serve_what_is_read()
        } else {
            bench.serve()
        };
        assert_eq!(answered, 1);
        assert_eq!(bench.phase(), phase, "{longhorn}");
        assert_eq!(bench.open(), 0);
        // Done again after a crash, it is the same.
        bench.ask(Wish::Release, "sdb1");
        bench.serve();
        assert_eq!(bench.phase(), phase, "{longhorn}");
    }
}

#[test]
fn a_disk_that_longhorn_was_asked_to_empty_does_not_leave_because_longhorn_is_off_now() {
    let mut bench = Bench::new(View::Off);
    let uuid = bench.claim.partition_guid;
    let ledger = bench.reconciler.around.state.ledger.clone();
    ledger.release(uuid, &name("sdb1")).expect("released");
    ledger.leaving(uuid, DISABLED).expect("kept");
    bench.ask(Wish::Release, "sdb1");
    bench.serve();
    assert_eq!(bench.phase(), Some(ReleasePhase::leaving(DISABLED)));
}

#[test]
fn what_was_asked_with_longhorn_on_does_not_leave_by_an_agent_that_does_not_ask_longhorn() {
    let mut bench = Bench::new(View::Connecting);
    bench.ask(Wish::Release, "sdb1");
    bench.serve();
    bench.hear(View::Off);
    // Started anew, and asked once more.
    bench.ask(Wish::Release, "sdb1");
    assert_eq!(bench.serve(), 1);
    assert_eq!(bench.phase(), LEAVING);
    let mut inventory = crate::decide::example_host();
    inventory.standing = bench.reconciler.around.state.ledger.standing();
    let shown = |view| {
        let rows = bench
            .reconciler
            .releasing
            .rows(&inventory, &BTreeMap::new(), &view);
        rows.into_iter().find_map(|row| row.detail)
    };
    let why = shown(View::Off).expect("what it waits for");
    assert!(why.contains("asked while Longhorn was on"), "{why}");
    assert_eq!(shown(View::Connecting), None);
    // Who calls it off and asks again is taken at his word.
    bench.ask(Wish::Cancel, "sdb1");
    bench.serve();
    assert_eq!(bench.phase(), None);
    bench.ask(Wish::Release, "sdb1");
    bench.serve_what_is_read();
    assert_eq!(bench.phase(), Some(ReleasePhase::Left));
}

#[test]
fn a_disk_with_replicas_leaves_an_agent_that_does_not_ask_longhorn_only_in_so_many_words() {
    for things in [&["replicas/pvc-1-r"][..], &["backing-images/b"]] {
        let mut bench = Bench::new(View::Off);
        bench.holds(things);
        bench.ask(Wish::Release, "sdb1");
        assert_eq!(bench.serve_what_is_read(), 1);
        assert_eq!(bench.phase(), None);
        let Some(Told::Refused(why)) = bench.told("sdb1") else {
            panic!("not refused: {:?}", bench.told("sdb1"));
        };
        assert!(why.starts_with("Longhorn has 1 "), "{why}");
        assert!(why.contains("connect it to the cluster"), "{why}");
        // Asked again it is read again.
        bench.ask(Wish::Release, "sdb1");
        assert_eq!(bench.serve_what_is_read(), 1);
        assert_eq!(bench.phase(), None);
        bench.post(&Request {
            name: name("sdb1"),
            wish: Wish::Release,
            even_with_replicas: true,
        });
        assert_eq!(bench.serve(), 1);
        assert_eq!(bench.phase(), Some(ReleasePhase::Left));
    }
    // Emptied by a person, it leaves.
    let mut bench = Bench::new(View::Off);
    bench.holds(&["replicas", "backing-images"]);
    bench.ask(Wish::Release, "sdb1");
    assert_eq!(bench.serve_what_is_read(), 1);
    assert_eq!(bench.phase(), Some(ReleasePhase::Left));
}

#[test]
fn where_longhorn_is_asked_no_word_of_a_person_leaves_replicas_behind() {
    let mut bench = Bench::new(View::Connecting);
    bench.post(&Request {
        name: name("sdb1"),
        wish: Wish::Release,
        even_with_replicas: true,
    });
    assert_eq!(bench.serve(), 1);
    assert_eq!(bench.phase(), LEAVING);
}

#[test]
fn of_two_wishes_at_once_nothing_is_done() {
    for longhorn in [View::Off, View::Absent] {
        let mut bench = Bench::new(longhorn);
        for wish in ["release", "cancel"] {
            let requests = bench.state.path().join("requests");
            fs::create_dir_all(&requests).expect("a directory");
            fs::write(requests.join(format!("{wish}-sdb1")), "").expect("asked");
        }
        assert_eq!(bench.serve(), 2);
        assert_eq!((bench.phase(), bench.open()), (None, 0));
        assert_eq!(bench.told("sdb1"), Some(Told::InUse));
    }
}

#[test]
fn a_disk_is_taken_back_and_longhorns_entry_first_where_it_was_changed() {
    let mut bench = Bench::new(View::Absent);
    bench.ask(Wish::Release, "sdb1");
    bench.serve();
    bench.ask(Wish::Cancel, "sdb1");
    bench.serve();
    assert_eq!(
        (bench.phase(), bench.told("sdb1")),
        (None, Some(Told::InUse))
    );

    bench.ask(Wish::Release, "sdb1");
    bench.serve();
    let ledger = bench.reconciler.around.state.ledger.clone();
    ledger
        .leaving(bench.claim.partition_guid, DISABLED)
        .expect("kept");
    bench.ask(Wish::Cancel, "sdb1");
    bench.serve();
    let returning = ReleasePhase::returning(DISABLED);
    assert_eq!((bench.phase(), bench.told("sdb1")), (Some(returning), None));
}

#[test]
fn a_disk_that_is_worked_on_is_released_when_the_work_is_done() {
    let mut bench = Bench::new(View::Off);
    let work = Work {
        phase: Phase::Growing,
        overdue: None,
    };
    bench.reconciler.working.insert("sdb".to_owned(), work);
    bench.ask(Wish::Release, "sdb1");
    assert_eq!(bench.serve(), 0);
    assert_eq!((bench.phase(), bench.open()), (None, 1));
    assert!(matches!(bench.told("sdb1"), Some(Told::Waiting(why)) if why.contains("sdb is")));
    bench.reconciler.working.clear();
    assert_eq!(bench.serve_what_is_read(), 1);
    assert_eq!(bench.phase(), Some(ReleasePhase::Left));
    assert_eq!(bench.told("sdb1"), None);
}

#[test]
fn what_is_no_disk_of_ours_is_refused_and_nothing_is_kept_of_it() {
    let mut bench = Bench::new(View::Off);
    let blank = Provision {
        name: name("sdc1"),
        filesystem: Filesystem::Ext4,
        begun: None,
        approval: None,
    };
    let verdicts = &mut bench.reconciler.verdicts;
    verdicts.insert("sdc".to_owned(), Verdict::Provision(blank));
    verdicts.insert("sdd".to_owned(), Verdict::Refused(Reason::Mounted.into()));
    let ledger = bench.reconciler.around.state.ledger.clone();
    ledger
        .keep(Uuid::from_u128(5), &name("away"))
        .expect("kept");
    for (wish, disk, words) in [
        (Wish::Release, "sdc1", "not finished"),
        (Wish::Release, "sdd1", "no disk sdd1"),
        (Wish::Cancel, "sdd1", "no disk sdd1"),
    ] {
        bench.ask(wish, disk);
        assert_eq!(bench.serve(), 1);
        match bench.told(disk) {
            Some(Told::Refused(why)) => assert!(why.contains(words), "{why}"),
            other @ (Some(Told::Waiting(_) | Told::Progress(_) | Told::InUse) | None) => {
                panic!("{disk}: {other:?}")
            }
        }
    }
    // There is nothing to take back, which is as it should be.
    for disk in ["away", "sdb1"] {
        bench.ask(Wish::Cancel, disk);
        bench.serve();
        assert_eq!(bench.told(disk), Some(Told::InUse));
    }
    let standing = ledger.standing().known().expect("readable").clone();
    assert!(standing.releases.is_empty());
}

#[test]
fn a_disk_that_fails_or_is_away_is_released_by_what_the_ledger_has_of_it() {
    for verdict in [Some(Reason::ProbeFailed), Some(Reason::NotAnswering), None] {
        let mut bench = Bench::new(View::Off);
        bench.mounted(false);
        let uuid = bench.claim.partition_guid;
        let ledger = bench.reconciler.around.state.ledger.clone();
        ledger.keep(uuid, &name("sdb1")).expect("mounted before");
        bench.reconciler.verdicts.clear();
        if let Some(reason) = verdict {
            let refused = Verdict::Refused(reason.into());
            bench.reconciler.verdicts.insert("sdb".to_owned(), refused);
        }
        // What Longhorn has on it nobody can tell.
        bench.ask(Wish::Release, "sdb1");
        assert_eq!(bench.serve_what_is_read(), 1);
        assert_eq!(bench.phase(), None, "{verdict:?}");
        let told = bench.told("sdb1");
        let unread = matches!(&told, Some(Told::Refused(why)) if why.contains("cannot be read"));
        assert!(unread, "{told:?}");
        bench.post(&Request {
            name: name("sdb1"),
            wish: Wish::Release,
            even_with_replicas: true,
        });
        assert_eq!(bench.serve(), 1);
        assert_eq!(bench.phase(), Some(ReleasePhase::Left), "{verdict:?}");
    }
}

#[test]
fn what_somebody_mounts_again_each_time_is_unmounted_ever_more_seldom() {
    let mut bench = Bench::new(View::Off);
    let mounted = Released {
        mounted: Some("8:17".parse().expect("a number")),
        ..Released::default()
    };
    let released = BTreeMap::from([(name("sdb1"), mounted)]);
    let releasing = &mut bench.reconciler.releasing;
    assert!(releasing.may_unmount(&name("sdb1"), Instant::now()));
    let mut last = Duration::ZERO;
    // The pause is longer by now than this test may stand still.
    for _ in 0..5 {
        releasing.unmounted(&name("sdb1"), None);
    }
    for times in 0..4 {
        let now = Instant::now();
        bench.reconciler.releasing.unmounted(&name("sdb1"), None);
        assert!(!bench.reconciler.releasing.may_unmount(&name("sdb1"), now));
        let again = bench.reconciler.unmount_released(&released);
        let pause = again.expect("a moment") - now;
        assert!(times % 2 == 1 || pause > last, "{pause:?} after {last:?}");
        if times % 2 == 0 {
            last = pause;
        }
        assert!(bench.reconciler.releasing.unmounting.is_empty());
    }
    // Nobody is woken for what stays unmounted.
    let gone = BTreeMap::from([(name("sdb1"), Released::default())]);
    assert_eq!(bench.reconciler.unmount_released(&gone), None);
}

#[test]
fn what_cannot_be_taken_down_waits_and_is_told() {
    let mut bench = Bench::new(View::Off);
    fs::write(bench.state.path().join("ledger.json"), "{").expect("a file");
    for wish in [Wish::Release, Wish::Cancel] {
        bench.reconciler.releasing.unserved.forget("sdb1");
        bench.ask(wish, "sdb1");
        let now = Instant::now();
        assert_eq!((bench.serve(), bench.open()), (0, 1));
        let told = bench.told("sdb1");
        assert!(
            matches!(&told, Some(Told::Waiting(why)) if why.contains("ledger")),
            "{told:?}"
        );
        assert!(bench.reconciler.releasing.next(now).is_some());
    }
}

#[test]
fn before_the_first_round_nothing_is_answered() {
    let mut bench = Bench::new(View::Off);
    bench.reconciler.rounds = 0;
    bench.ask(Wish::Release, "sdb1");
    assert_eq!((bench.serve(), bench.open()), (0, 1));
    bench.reconciler.rounds = 1;
    assert!(bench.reconciler.has_unseen_requests());
    assert_eq!(bench.serve_what_is_read(), 1);
    assert!(!bench.reconciler.has_unseen_requests());
}

/// What has left, as it is found.
fn has_left(mounted: bool, partitions: &[&str]) -> BTreeMap<DiskName, Released> {
    let mounted = mounted.then(|| "8:17".parse().expect("a number"));
    let partitions = partitions.iter().map(|name| (*name).to_owned()).collect();
    let found = Released {
        mounted,
        partitions,
        ..Released::default()
    };
    BTreeMap::from([(name("sdb1"), found)])
}

fn registered(path: &str) -> View {
    let registration = crate::longhorn::Registration {
        path: path.to_owned(),
        allow_scheduling: true,
        uuid: None,
        ready: None,
    };
    View::Present {
        disks: BTreeMap::from([("theirs".to_owned(), registration)]),
        frozen: None,
    }
}

#[tokio::test]
async fn what_longhorn_has_registered_again_is_not_unmounted_until_its_entry_is_gone() {
    let released = has_left(true, &["sdb1"]);
    for path in ["/sdb1", "//./sdb1/", "/sda1/../sdb1", "/sdb1/inside"] {
        let mut bench = Bench::new(View::Connecting);
        let registered = bench.registered(path);
        bench.hear(registered.clone());
        bench.reconciler.unmount_released(&released);
        let releasing = &bench.reconciler.releasing;
        assert!(releasing.unmounting.is_empty(), "{path}");
        let inventory = released_host();
        let rows = releasing.rows(&inventory, &released, &registered);
        let why = rows.into_iter().find_map(|row| row.detail);
        let why = why.expect("what it waits for");
        assert!(why.contains("again, as theirs"), "{why}");
        bench.hear(bench.registered("/sdb12"));
        bench.reconciler.unmount_released(&released);
        let releasing = &bench.reconciler.releasing;
        assert!(releasing.is_unmounting(&name("sdb1")), "{path}");
        assert!(releasing.held.is_empty());
    }
}

/// A host on which `sdb1` has left.
fn released_host() -> Inventory {
    let mut inventory = crate::decide::example_host();
    let crate::fact::Fact::Known(standing) = &mut inventory.standing else {
        panic!("the example's ledger is readable");
    };
    let release = crate::ledger::Release {
        name: name("sdb1"),
        phase: ReleasePhase::Left,
    };
    standing.releases.insert(Uuid::from_u128(1), release);
    inventory
}

fn state_of(bench: &Bench, released: &BTreeMap<DiskName, Released>) -> ReleaseState {
    let rows = bench
        .reconciler
        .releasing
        .rows(&released_host(), released, &View::Off);
    rows.first().expect("a row").state
}

#[tokio::test]
async fn what_is_unmounted_here_is_asked_for_until_nobody_has_it_mounted_elsewhere() {
    let mut bench = Bench::new(View::Off);
    let (mounted, unmounted) = (has_left(true, &["sdb1"]), has_left(false, &["sdb1"]));
    let one = || name("sdb1");
    let asked = |bench: &mut Bench, failure: Option<&str>| {
        bench.reconciler.unmount_released(&unmounted);
        assert!(bench.reconciler.releasing.is_unmounting(&one()));
        let partitions = vec!["sdb1".to_owned()];
        let failure = failure.map(str::to_owned);
        let news = News::Unused(one(), partitions, failure);
        assert!(bench.reconciler.take(news).is_some(), "it is looked again");
        if bench.reconciler.releasing.busy.error_of("sdb1").is_some() {
            // The pause is longer than this test may stand still.
            for _ in 0..6 {
                let busy = &mut bench.reconciler.releasing.busy;
                busy.failed("sdb1", "in use".to_owned(), Instant::now());
            }
        }
        bench.reconciler.unmount_released(&unmounted);
        assert!(!bench.reconciler.releasing.is_unmounting(&one()));
    };
    // Also by an agent that was started after the unmount.
    asked(&mut bench, Some("in use"));
    assert_eq!(state_of(&bench, &unmounted), ReleaseState::Unmounting);
    assert!(bench.reconciler.releasing.next(Instant::now()).is_some());
    bench.reconciler.releasing.busy.forget("sdb1");
    asked(&mut bench, None);
    assert_eq!(state_of(&bench, &unmounted), ReleaseState::Unmounted);
    assert_eq!(bench.reconciler.releasing.next(Instant::now()), None);
    // Once is enough, but for what is mounted, attached or found anew.
    for meanwhile in [
        mounted,
        has_left(false, &[]),
        has_left(false, &["sdc1"]),
        BTreeMap::new(),
    ] {
        bench.reconciler.unmount_released(&meanwhile);
        bench.reconciler.releasing.unmounting.clear();
        asked(&mut bench, None);
    }
}

#[tokio::test]
async fn what_somebody_else_unmounts_is_asked_for_at_once_however_long_it_was_in_use() {
    let mut bench = Bench::new(View::Off);
    bench
        .reconciler
        .unmount_released(&has_left(true, &["sdb1"]));
    for _ in 0..9 {
        let in_use = Some("in use".to_owned());
        bench.reconciler.releasing.unmounted(&name("sdb1"), in_use);
    }
    let unmounted = has_left(false, &["sdb1"]);
    bench.reconciler.unmount_released(&unmounted);
    assert!(bench.reconciler.releasing.is_unmounting(&name("sdb1")));
}

#[test]
fn what_others_have_mounted_where_it_is_seen_is_not_asked_for() {
    let mut bench = Bench::new(View::Off);
    let mut released = has_left(false, &["sdb1"]);
    for found in released.values_mut() {
        found.elsewhere = vec!["/backup".to_owned()];
    }
    bench.reconciler.unmount_released(&released);
    assert!(bench.reconciler.releasing.unmounting.is_empty());
}

#[tokio::test]
async fn what_has_left_is_not_unmounted_before_it_is_known_that_longhorn_has_it_not_again() {
    let released = has_left(true, &["sdb1"]);
    let why = String::from("it is away");
    for view in [
        View::Connecting,
        View::Unreachable { why: why.clone() },
        View::Forbidden { why },
    ] {
        let mut bench = Bench::new(view.clone());
        bench.reconciler.unmount_released(&released);
        let releasing = &bench.reconciler.releasing;
        assert!(releasing.unmounting.is_empty(), "{view}");
        let held = releasing.held.values().next().expect("it is said");
        assert!(held.contains("is not known"), "{held}");
    }
    for view in [View::Off, View::NotInstalled, View::Absent] {
        let mut bench = Bench::new(view.clone());
        bench.reconciler.unmount_released(&released);
        assert!(!bench.reconciler.releasing.unmounting.is_empty(), "{view}");
    }
}
