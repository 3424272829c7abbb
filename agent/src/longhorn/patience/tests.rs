use super::*;

fn adding(names: &[&str]) -> Change {
    let added: BTreeSet<DiskName> = names
        .iter()
        .map(|name| name.parse().expect("a name"))
        .collect();
    Change {
        disks: added
            .iter()
            .map(|name| (name.to_string(), serde_json::json!({})))
            .collect(),
        added,
        ..Change::default()
    }
}

fn pause_after(writes: &mut Writes, failure: Failure, now: Instant) -> Duration {
    writes.failed(&adding(&["sda1"]), failure, None, now);
    let due = writes.due(now).expect("a pause");
    assert!(!writes.may(&adding(&["sda1"]), None, now));
    assert!(writes.may(&adding(&["sda1"]), None, due));
    due - now
}

fn around(pause: Duration, expected: Duration) -> bool {
    (expected.mul_f64(0.74)..=expected.mul_f64(1.26)).contains(&pause)
}

#[test]
fn while_longhorn_is_syncing_the_pauses_are_5_to_30_seconds() {
    let (mut writes, now) = (Writes::new(1), Instant::now());
    for expected in [5, 10, 20, 30, 30, 30] {
        let pause = pause_after(&mut writes, Failure::Syncing, now);
        assert!(around(pause, Duration::from_secs(expected)), "{pause:?}");
    }
    // Nobody is alarmed by it, unless it lasts.
    assert_eq!(writes.findings(now + Duration::from_secs(179)), []);
    let alarm = writes.findings(now + Duration::from_mins(3));
    assert_eq!(alarm[0].kind, Kind::LonghornSilent);
    assert!(writes.waiting().is_some());
}

#[test]
fn an_api_that_does_not_answer_is_asked_ever_more_seldom_until_it_is_back() {
    let (mut writes, now) = (Writes::new(1), Instant::now());
    let down = || Failure::Unreachable("refused".to_owned());
    let pauses: Vec<Duration> = (0..12)
        .map(|_| pause_after(&mut writes, down(), now))
        .collect();
    assert!(around(pauses[0], Duration::from_secs(1)));
    assert!(pauses[11] <= LONGEST.mul_f64(1.26) && pauses[11] > Duration::from_mins(3));
    assert_eq!(writes.findings(now), []);
    writes.reachable();
    assert!(writes.may(&adding(&["sda1"]), None, now));
}

#[test]
fn a_conflict_is_tried_again_at_once_but_not_for_ever() {
    let (mut writes, now) = (Writes::new(1), Instant::now());
    for _ in 1..CONFLICTS {
        writes.failed(&adding(&["sda1"]), Failure::Conflict, None, now);
        assert!(writes.may(&adding(&["sda1"]), None, now));
    }
    pause_after(&mut writes, Failure::Conflict, now);
}

#[test]
fn what_is_rejected_is_told_and_not_tried_again_until_the_node_changes() {
    let (mut writes, now) = (Writes::new(1), Instant::now());
    let one = adding(&["sda1"]);
    writes.failed(&one, Failure::Rejected("bad tag".to_owned()), Some(3), now);
    let found = writes.findings(now);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].kind, Kind::RegistrationRejected);
    let held = |writes: &mut Writes, generation, at| {
        writes
            .held_back(&one.added, &BTreeSet::new(), Some(generation), at)
            .len()
    };
    assert_eq!(held(&mut writes, 3, now + Duration::from_mins(59)), 1);
    // Others may change it all the time.
    assert_eq!(held(&mut writes, 4, now + Duration::from_secs(59)), 1);
    assert_eq!(held(&mut writes, 4, now + Duration::from_mins(1)), 0);
    assert_eq!(writes.findings(now), []);
}

#[test]
fn a_disk_that_is_rejected_holds_up_no_other() {
    let (mut writes, now) = (Writes::new(1), Instant::now());
    let wanted = adding(&["sda1", "sdb1", "sdc1"]);
    let no = || Failure::Rejected("duplicate disk paths".to_owned());
    writes.failed(&wanted, no(), None, now);
    // One at a time, until it is known which it is.
    let mut held = writes.held_back(&wanted.added, &BTreeSet::new(), None, now);
    assert_eq!(held.len(), 2);
    writes.failed(&adding(&["sda1"]), no(), None, now);
    held = writes.held_back(&wanted.added, &BTreeSet::new(), None, now);
    assert_eq!(
        held.iter().map(DiskName::as_str).collect::<Vec<_>>(),
        ["sda1", "sdc1"]
    );
    writes.succeeded(&adding(&["sdb1"]), now);
    let left = adding(&["sda1", "sdc1"]).added;
    held = writes.held_back(&left, &BTreeSet::new(), None, now);
    assert_eq!(
        held.iter().map(DiskName::as_str).collect::<Vec<_>>(),
        ["sda1"]
    );
    assert_eq!(writes.findings(now).len(), 1);
}

#[test]
fn what_is_taken_back_each_time_is_told_and_written_ever_more_seldom() {
    let (mut writes, mut now) = (Writes::new(1), Instant::now());
    let change = adding(&["sda1"]);
    let mut written = 0;
    for _ in 0..3600 {
        now += Duration::from_secs(1);
        if writes.may(&change, None, now) {
            writes.succeeded(&change, now);
            written += 1;
        }
    }
    assert!((6..40).contains(&written), "{written}");
    assert_eq!(writes.findings(now)[0].kind, Kind::Overwritten);
    now += Duration::from_mins(20);
    writes.settled(now);
    assert_eq!(writes.findings(now), []);
}

#[test]
fn a_summary_alone_is_written_when_it_has_settled_and_once_a_minute() {
    let (mut writes, mut now) = (Writes::new(1), Instant::now());
    let mut written = 0;
    for second in 0..600 {
        now += Duration::from_secs(1);
        let line = format!("state {}", second / 15);
        if writes.summary_is_due(&line, now) {
            let mut change = Change::default();
            change.annotations.insert(SUMMARY, Some(line));
            writes.succeeded(&change, now);
            written += 1;
        }
    }
    assert!((5..=10).contains(&written), "{written}");
}

#[test]
fn a_symptom_is_a_finding_when_it_has_lasted() {
    let (mut symptoms, now) = (Symptoms::new(1), Instant::now());
    let name: DiskName = "sdb1".parse().expect("a name");
    let missing = || vec![Finding::of(&name, Kind::DiskMissing, "")];
    let lasting = |symptoms: &mut Symptoms, seen, seconds| {
        symptoms
            .lasting(seen, now + Duration::from_secs(seconds))
            .0
            .len()
    };
    assert_eq!(lasting(&mut symptoms, missing(), 0), 0);
    assert_eq!(lasting(&mut symptoms, missing(), 29), 0);
    assert_eq!(lasting(&mut symptoms, missing(), 30), 1);
    // Gone for a moment: it begins anew.
    assert_eq!(lasting(&mut symptoms, Vec::new(), 31), 0);
    assert_eq!(lasting(&mut symptoms, missing(), 32), 0);
    let due = symptoms.lasting(missing(), now).1;
    assert_eq!(due, Some(now + Duration::from_secs(62)));
}

#[test]
fn a_disk_that_waits_for_something_else_is_not_the_one_that_is_tried_first() {
    let (mut writes, now) = (Writes::new(1), Instant::now());
    let wanted = adding(&["sda1", "sdb1", "sdc1"]);
    let waiting = adding(&["sda1"]).added;
    let no = Failure::Rejected("duplicate disk paths".to_owned());
    writes.failed(&adding(&["sdb1", "sdc1"]), no, None, now);
    let held = writes.held_back(&wanted.added, &waiting, None, now);
    let held: Vec<&str> = held.iter().map(DiskName::as_str).collect();
    assert_eq!(held, ["sda1", "sdc1"]);
}
