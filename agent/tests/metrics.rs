//! `/metrics` over a socket: every line is read as Prometheus would, and what
//! it says is what the round and the other endpoints say.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "everything in this file is a test"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    sync::Arc,
    thread::{self, JoinHandle},
};

use disk_discovery::{
    claim::ClaimId,
    config::{Mode, Options, Settings},
    decide::{Adopt, Managed, Provision, Reason, Refusal, Source, Verdict},
    longhorn::{
        View,
        finding::{Finding, Kind},
        status::{State as Registering, Status},
    },
    observe::{Dirty, Host, Inventory, Observer},
    report::{DeadMount, Operation, Round, RoundCost, now},
    serve::{self, Family, Shown},
    state::State,
    units::{DevNo, Filesystem},
};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

/// What the server hands out, and where.
struct Served {
    address: SocketAddr,
    rounds: watch::Sender<Option<Arc<Round>>>,
    registration: watch::Sender<Arc<Status>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn start(mode: Mode) -> Self {
        let settings = Options {
            mode: Some(mode),
            node_name: Some("k3s2".to_owned()),
            ..Options::default()
        };
        let settings: Settings = settings.into_settings().expect("possible values");
        let (rounds, seen) = watch::channel(None);
        let (registration, registered) =
            watch::channel(Arc::new(Status::begin(Registering::NoNode)));
        let shown = Shown {
            rounds: seen,
            registration: registered,
        };
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.expect("a runtime").block_on(async {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let listener = serve::bind(any).await.expect("a port");
                let address = listener.local_addr().expect("its address");
                tell.send(address).expect("somebody waits");
                let served = serve::serve(listener, Arc::new(settings), shown, stopped);
                served.await.expect("served");
            });
        });
        Self {
            address: told.recv().expect("the address"),
            rounds,
            registration,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn show(&self, round: Round) {
        self.rounds.send_replace(Some(Arc::new(round)));
    }

    /// Head and body.
    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_ascii_lowercase(), body.to_owned())
    }

    fn scrape(&self) -> Scrape {
        let (head, body) = self.get("/metrics");
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let kind = "content-type: application/openmetrics-text; version=1.0.0";
        assert!(head.contains(kind), "{head}");
        Scrape::read(&body)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let told = self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(told == Some(Ok(())) && ended.is_some_and(|end| end.is_ok()));
        }
    }
}

/// An answer, read line by line. By the name of the samples: type, and the
/// value for each label, as in `verdict="managed"`.
struct Scrape(BTreeMap<String, (String, BTreeMap<String, f64>)>);

impl Scrape {
    fn read(body: &str) -> Self {
        let mut families: BTreeMap<String, (String, BTreeMap<String, f64>)> = BTreeMap::new();
        let mut described = None;
        let mut name = String::new();
        let text = body.strip_suffix("# EOF\n").expect("an end");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (family, help) = help.split_once(' ').expect("a sentence");
                assert!(help.ends_with('.') && !help.ends_with(".."), "{line}");
                described = Some(family);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (family, kind) = kind.split_once(' ').expect("a type");
                assert_eq!(Some(family), described, "{line}");
                name = match kind {
                    "gauge" => family.to_owned(),
                    "counter" => format!("{family}_total"),
                    other => panic!("{other}"),
                };
                let new = (kind.to_owned(), BTreeMap::new());
                assert!(
                    families.insert(name.clone(), new).is_none(),
                    "{line}: twice"
                );
            } else {
                let (sample, value) = line.rsplit_once(' ').expect("a value");
                let label = sample.strip_prefix(&name).expect("samples of that family");
                let label = label.strip_prefix('{').map_or("", |labels| {
                    let labels = labels.strip_suffix('}').expect("a closing brace");
                    for label in labels.split(',') {
                        let (key, value) = label.split_once('=').expect("a label");
                        assert!(key.chars().all(|c| c.is_ascii_lowercase()), "{line}");
                        assert!(value.len() > 2, "{line}");
                        assert!(value.starts_with('"') && value.ends_with('"'), "{line}");
                        assert_eq!(value.matches('"').count(), 2, "{line}");
                    }
                    labels
                });
                let value: f64 = value.parse().expect("a number");
                let (_, samples) = families.get_mut(&name).expect("a type");
                assert!(
                    samples.insert(label.to_owned(), value).is_none(),
                    "{line}: twice"
                );
            }
        }
        Self(families)
    }

    fn samples(&self, name: &str) -> Vec<(&str, f64)> {
        let (_, samples) = self.0.get(name).unwrap_or_else(|| panic!("no {name}"));
        samples
            .iter()
            .map(|(label, value)| (label.as_str(), *value))
            .collect()
    }

    fn value(&self, name: &str) -> f64 {
        let samples = self.samples(name);
        assert_eq!(samples.len(), 1, "{samples:?}");
        samples[0].1
    }

    fn names(&self) -> BTreeSet<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// A host with a disk `vda` and its partition `vda1`, as far as a report needs.
fn host(root: &Path) -> Inventory {
    let bus = "devices/pci0000:00/0000:00:02.0/virtio1/block";
    fs::create_dir_all(root.join("sys/class/block")).expect("class/block");
    for (name, more) in [("vda", ""), ("vda/vda1", "PARTN=1\n")] {
        let device = root.join("sys").join(bus).join(name);
        fs::create_dir_all(&device).expect("a device");
        fs::write(device.join("uevent"), format!("MAJOR=254\nMINOR=0\n{more}")).expect("a file");
        if !more.is_empty() {
            fs::write(device.join("partition"), "1\n").expect("a file");
        }
        let kernel = name.rsplit('/').next().expect("a name");
        let link = root.join("sys/class/block").join(kernel);
        symlink(format!("../../{bus}/{name}"), link).expect("a link");
    }
    let state = State::below(&root.join("state"));
    let mut observer = Observer::new(Host::at(root), root.join("mnt"), state);
    observer.observe(&Dirty::Everything)
}

fn claim(name: &str) -> ClaimId {
    ClaimId {
        disk_guid: Uuid::from_u128(1),
        partition_guid: Uuid::from_u128(2),
        name: name.parse().expect("a name"),
    }
}

fn managed(name: &str, mounted: bool, ailment: Option<&str>) -> Verdict {
    Verdict::Managed(Managed {
        claim: claim(name),
        filesystem: Filesystem::Ext4,
        mounted,
        ailment: ailment.map(str::to_owned),
        growth: None,
    })
}

/// Registering, with two findings of one kind.
fn registration() -> Arc<Status> {
    let finding = |disk: &str| {
        let disk = disk.parse().expect("a name");
        Finding::of(&disk, Kind::DiskMissing, "not mounted")
    };
    Arc::new(Status {
        findings: vec![finding("vdb1"), finding("vdc1")],
        requests: [(("get-node", "ok"), 40), (("patch-node", "conflict"), 2)].into(),
        dropped_events: 5,
        ..Status::begin(Registering::Pending)
    })
}

fn operation(error: Option<&str>) -> Operation {
    Operation {
        phase: None,
        failures: 0,
        error: error.map(str::to_owned),
        retry_in_seconds: None,
        overdue: None,
    }
}

/// A round with something of everything.
fn round(root: &Path) -> Round {
    let refused = |reason| Verdict::Refused(Refusal::from(reason));
    let verdicts = [
        ("vda", refused(Reason::SystemDisk)),
        ("vda1", refused(Reason::Partition)),
        ("vdb", managed("vdb1", true, None)),
        (
            "vdc",
            managed("vdc1", true, Some("it has counted 3 errors")),
        ),
        ("vdd", managed("vdd1", false, None)),
        (
            "vde",
            Verdict::Adopt(Adopt {
                uuid: Uuid::from_u128(3),
                name: "sdh1".parse().expect("a name"),
                filesystem: Filesystem::Xfs,
                from: Source::Longhorn,
                mounted: true,
                ailment: None,
            }),
        ),
        (
            "vdf",
            Verdict::Provision(Provision {
                name: "vdf1".parse().expect("a name"),
                filesystem: Filesystem::Ext4,
                begun: None,
                approval: None,
            }),
        ),
        (
            "vdg",
            Verdict::Refused(Refusal::signature("ext4", "at byte 1080")),
        ),
        ("vdh", Verdict::Refused(Refusal::signature("btrfs", ""))),
    ];
    Round {
        inventory: host(root),
        verdicts: verdicts
            .map(|(name, verdict)| (name.to_owned(), verdict))
            .into(),
        operations: [
            ("vdf".to_owned(), operation(Some("mkfs.ext4 failed"))),
            ("vdg".to_owned(), operation(None)),
        ]
        .into(),
        dead_mounts: vec![DeadMount {
            path: "/mnt/longhorn/vdz1".into(),
            devno: DevNo {
                major: 254,
                minor: 99,
            },
            error: None,
        }],
        cost: RoundCost {
            number: 7,
            finished_at: now(),
            devices_read: 2,
            full: true,
            micros: 2_500,
        },
        releases: Vec::new(),
        longhorn: View::Off,
        mount_units: None,
    }
}

#[test]
fn before_the_first_round_it_tells_of_the_agent_alone() {
    let served = Served::start(Mode::Observe);
    let scrape = served.scrape();
    assert_eq!(scrape.value("disk_discovery_ready"), 0.0);
    assert_eq!(scrape.value("disk_discovery_enforcing"), 0.0);
    assert_eq!(scrape.value("disk_discovery_rounds_total"), 0.0);
    assert_eq!(
        scrape.samples("disk_discovery_build_info"),
        [(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), 1.0)]
    );
    assert!(!scrape.names().contains("disk_discovery_disks"));
}

#[test]
fn it_says_what_the_round_saw() {
    let root = tempfile::tempdir().expect("a directory");
    let served = Served::start(Mode::Enforce);
    let round = round(root.path());
    let finished = round.cost.finished_at;
    served.show(round);
    let scrape = served.scrape();
    assert_eq!(
        scrape.samples("disk_discovery_disks"),
        [
            ("verdict=\"adopt\"", 1.0),
            ("verdict=\"managed\"", 3.0),
            ("verdict=\"provision\"", 1.0),
            // The partition is no disk.
            ("verdict=\"refused\"", 3.0),
            ("verdict=\"resume\"", 0.0),
        ]
    );
    assert_eq!(
        scrape.samples("disk_discovery_refused_disks"),
        [
            ("reason=\"signature\"", 2.0),
            ("reason=\"system-disk\"", 1.0)
        ]
    );
    assert_eq!(
        scrape.samples("disk_discovery_disk_mounted"),
        [
            ("disk=\"sdh1\"", 1.0),
            ("disk=\"vdb1\"", 1.0),
            ("disk=\"vdc1\"", 1.0),
            ("disk=\"vdd1\"", 0.0),
        ]
    );
    assert_eq!(
        scrape.samples("disk_discovery_disk_ailing"),
        [
            ("disk=\"sdh1\"", 0.0),
            ("disk=\"vdb1\"", 0.0),
            ("disk=\"vdc1\"", 1.0),
            ("disk=\"vdd1\"", 0.0),
        ]
    );
    assert_eq!(scrape.value("disk_discovery_dead_mounts"), 1.0);
    assert_eq!(scrape.value("disk_discovery_operations_failing"), 1.0);
    assert_eq!(scrape.value("disk_discovery_rounds_total"), 7.0);
    assert_eq!(scrape.value("disk_discovery_enforcing"), 1.0);
    let seconds = scrape.value("disk_discovery_last_round_duration_seconds");
    assert_eq!(seconds, 0.0025);
    let when = scrape.value("disk_discovery_last_round_timestamp_seconds");
    assert_eq!(format!("{when}"), finished.to_string());
    served.registration.send_replace(registration());
    let scrape = served.scrape();
    assert_eq!(
        scrape.samples("disk_discovery_longhorn_requests_total"),
        [
            (r#"request="get-node",outcome="ok""#, 40.0),
            (r#"request="patch-node",outcome="conflict""#, 2.0),
        ]
    );
    let dropped = scrape.value("disk_discovery_longhorn_dropped_events_total");
    assert_eq!(dropped, 5.0);
    // Nothing that is told is missing from the vocabulary, and the other way round.
    let names: BTreeSet<String> = Family::ALL.iter().map(|family| family.name()).collect();
    let shown: BTreeSet<String> = scrape.names().into_iter().map(str::to_owned).collect();
    assert_eq!(shown, names);
}

#[test]
fn its_checks_and_degraded_states_are_those_of_the_other_endpoints() {
    let root = tempfile::tempdir().expect("a directory");
    let served = Served::start(Mode::Enforce);
    served.show(round(root.path()));
    let scrape = served.scrape();
    let (head, body) = served.get("/readyz?verbose");
    assert!(head.starts_with("http/1.1 503"), "{head}");
    let checks: BTreeMap<String, f64> = body
        .lines()
        .map(|line| {
            let (mark, rest) = line.split_once(' ').expect("a mark");
            let name = rest.split(':').next().expect("a name");
            let passed = if mark == "[+]" { 1.0 } else { 0.0 };
            (format!("check=\"{name}\""), passed)
        })
        .collect();
    assert!(checks.values().any(|passed| *passed == 0.0), "{body}");
    assert!(checks.values().any(|passed| *passed == 1.0), "{body}");
    let told = scrape.samples("disk_discovery_check");
    let told: BTreeMap<String, f64> = told.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    assert_eq!(told, checks);
    assert_eq!(scrape.value("disk_discovery_ready"), 0.0);
    let (_, body) = served.get("/v1/disks");
    let report: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let degraded = report["degraded"].as_array().expect("a list");
    let states = degraded.iter().map(|state| {
        let code = state["code"].as_str().expect("a code");
        (format!("state=\"{code}\""), 1.0)
    });
    let states: BTreeMap<String, f64> = states.collect();
    let told = scrape.samples("disk_discovery_degraded");
    let told: BTreeMap<String, f64> = told.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    assert!(!told.is_empty());
    assert_eq!(told, states);
}

#[test]
fn when_readyz_says_that_all_is_well_so_does_it() {
    let root = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(root.path().join("proc/1")).expect("a directory");
    fs::create_dir_all(root.path().join("proc/self")).expect("a directory");
    for (table, text) in [
        ("proc/1/mountinfo", ""),
        ("proc/self/mountinfo", ""),
        ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
    ] {
        fs::write(root.path().join(table), text).expect("a table");
    }
    let served = Served::start(Mode::Enforce);
    served.show(Round {
        verdicts: [("vdb".to_owned(), managed("vdb1", true, None))].into(),
        operations: BTreeMap::new(),
        dead_mounts: Vec::new(),
        ..round(root.path())
    });
    let (head, body) = served.get("/readyz?verbose");
    assert!(head.starts_with("http/1.1 200"), "{body}");
    let scrape = served.scrape();
    assert_eq!(scrape.value("disk_discovery_ready"), 1.0);
    let checks = scrape.samples("disk_discovery_check");
    assert!(
        checks.iter().all(|(_, passed)| *passed == 1.0),
        "{checks:?}"
    );
}

#[test]
fn it_says_how_registering_stands_before_and_after() {
    let served = Served::start(Mode::Enforce);
    let state_now = |scrape: &Scrape| {
        let states = scrape.samples("disk_discovery_longhorn_registration");
        assert_eq!(states.len(), Registering::ALL.len());
        let now = states.iter().filter(|(_, is)| *is == 1.0);
        now.map(|(state, _)| (*state).to_owned())
            .collect::<Vec<_>>()
    };
    let findings = |scrape: &Scrape| {
        let kinds = scrape.samples("disk_discovery_longhorn_findings");
        assert_eq!(kinds.len(), Kind::ALL.len());
        let there = kinds.iter().filter(|(_, number)| *number > 0.0);
        there
            .map(|(kind, number)| format!("{kind} {number}"))
            .collect::<Vec<_>>()
    };
    let scrape = served.scrape();
    assert_eq!(state_now(&scrape), ["state=\"no-node\""]);
    assert_eq!(findings(&scrape), Vec::<String>::new());
    served.registration.send_replace(registration());
    let scrape = served.scrape();
    assert_eq!(state_now(&scrape), ["state=\"pending\""]);
    assert_eq!(findings(&scrape), ["kind=\"disk-missing\" 2"]);
}

#[test]
fn two_disks_of_one_name_do_not_make_the_answer_unreadable() {
    let root = tempfile::tempdir().expect("a directory");
    let served = Served::start(Mode::Enforce);
    let verdicts = ["vdb", "vdc"].map(|disk| (disk.to_owned(), managed("vdb1", true, None)));
    served.show(Round {
        verdicts: verdicts.into(),
        ..round(root.path())
    });
    // Read would fail on a sample that is there twice.
    let scrape = served.scrape();
    assert_eq!(
        scrape.samples("disk_discovery_disk_mounted"),
        [("disk=\"vdb1\"", 1.0)]
    );
}
