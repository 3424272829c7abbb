use serde_json::json;

use super::{
    super::super::{
        elsewhere::Neighbour,
        example::{self, Scene, disk, name},
    },
    *,
};
use crate::observe::longhorn_disk::LonghornDisk;

fn says(uuid: &str) -> LonghornDisk {
    LonghornDisk::Named {
        uuid: uuid.to_owned(),
        name: None,
    }
}

/// What is listed beside this node: k3s1, whose disks have these UUIDs.
fn list(uuids: &[&str]) -> Result<Elsewhere, Failure> {
    let ready = json!([{"type": "Ready", "status": "True"}]);
    let disks: serde_json::Map<_, _> = uuids
        .iter()
        .map(|uuid| {
            let disk = json!({"diskUUID": uuid, "conditions": ready});
            (format!("disk-{uuid}"), disk)
        })
        .collect();
    let nodes: Vec<Neighbour> = [
        json!({"metadata": {"name": "k3s2"}}),
        json!({
            "metadata": {"name": "k3s1"},
            "status": {"conditions": ready, "diskStatus": disks},
        }),
    ]
    .map(|node| serde_json::from_value(node).expect("a node"))
    .into();
    Ok(Elsewhere::of(&nodes, "k3s2"))
}

fn down() -> Result<Elsewhere, Failure> {
    Err(Failure::Unreachable("refused".to_owned()))
}

/// Two disks that are new here, and how far one is from being registered.
struct Host {
    scene: Scene,
    doubles: Doubles,
    now: Instant,
}

impl Host {
    fn new() -> Self {
        let scene = Scene::with([disk("sdb1"), disk("sdc1")]);
        Self {
            scene: scene.saying("sdb1", says("b")),
            doubles: Doubles::new(1),
            now: Instant::now(),
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn held(&mut self) -> Vec<String> {
        let node = example::node(json!({}), json!({}), json!({}));
        let all = self.scene.disks.iter().map(|disk| disk.name.clone());
        let held = self
            .doubles
            .hold(&self.scene.facts(&node), &all.collect(), self.now);
        held.iter().map(ToString::to_string).collect()
    }

    /// Asks where it is time to; whether it was.
    fn asks(&mut self, answer: impl FnOnce() -> Result<Elsewhere, Failure>) -> bool {
        self.held();
        let due = self.doubles.due(self.now);
        let is_due = due.is_some_and(|due| due <= self.now);
        if is_due {
            self.doubles.told(answer(), self.now);
            self.held();
        }
        is_due
    }

    fn codes(&self) -> Vec<&'static str> {
        let findings = self.doubles.findings(self.now);
        findings.iter().map(|found| found.kind.code()).collect()
    }
}

#[test]
fn a_disk_with_a_uuid_is_asked_about_once_and_a_new_one_never() {
    let mut host = Host::new();
    // Nothing was asked yet, and the new one waits for nothing.
    assert_eq!(host.held(), ["sdb1"]);
    assert!(host.doubles.waiting(host.now).is_some());
    assert_eq!(host.codes(), [] as [&str; 0]);
    assert!(host.asks(|| list(&["x"])));
    assert_eq!(host.held(), [] as [&str; 0]);
    assert_eq!(host.doubles.waiting(host.now), None);
    assert!(!host.asks(|| panic!("asked again")));
    // By an answer of some time ago nothing is registered, nor twice by one.
    host.pass(60);
    assert_eq!(host.held(), ["sdb1"]);
    assert!(host.asks(|| list(&["x"])));
    host.doubles.registered();
    assert_eq!(host.held(), ["sdb1"]);
    assert!(host.asks(|| list(&["x"])));

    let mut host = Host::new();
    host.scene = Scene::with([disk("sdb1")]);
    assert_eq!(host.held(), [] as [&str; 0]);
    assert!(!host.asks(|| panic!("asked for a new disk")));
}

#[test]
fn a_copy_is_held_back_alone_and_let_go_when_the_original_is_gone() {
    let mut host = Host::new();
    assert!(host.asks(|| list(&["b"])));
    assert_eq!(host.held(), ["sdb1"]);
    let [found] = &host.doubles.findings(host.now)[..] else {
        panic!("{:?}", host.doubles);
    };
    assert_eq!(
        found.to_string(),
        "sdb1: uuid-elsewhere (b is disk disk-b of node k3s1 as well)"
    );
    // The answer stands until there is another.
    host.pass(20);
    assert!(!host.asks(|| panic!("asked too soon")));
    assert_eq!(host.held(), ["sdb1"]);
    host.pass(20);
    assert!(host.asks(|| list(&[])));
    assert_eq!(host.held(), [] as [&str; 0]);
    assert_eq!(host.codes(), [] as [&str; 0]);
}

/// Requests in an hour, a look each second.
fn in_an_hour(host: &mut Host, answer: fn() -> Result<Elsewhere, Failure>) -> usize {
    let looks = (0..3600).filter(|_| {
        host.pass(1);
        host.asks(answer)
    });
    looks.count()
}

#[test]
fn while_a_disk_is_held_back_few_requests_are_made() {
    // The watch takes 12 of the 60 that an agent has at rest.
    for answer in [
        || list(&["b"]),
        down,
        || Err(Failure::Forbidden("cannot list".to_owned())),
    ] {
        let mut host = Host::new();
        let first = in_an_hour(&mut host, answer);
        assert!((10..=22).contains(&first), "{first}");
        let later = in_an_hour(&mut host, answer);
        assert!((9..=17).contains(&later), "{later}");
    }
}

#[test]
fn a_disk_that_comes_and_goes_is_not_asked_about_each_time() {
    for answer in [|| list(&["b"]), || list(&[]), down] {
        let mut host = Host::new();
        let mut asked = 0;
        for second in 0..3600 {
            host.pass(1);
            let config = match second % 2 {
                0 => says("b"),
                _ => LonghornDisk::None,
            };
            host.scene = std::mem::take(&mut host.scene).saying("sdb1", config);
            asked += usize::from(host.asks(answer));
        }
        assert!(asked <= 60, "{asked}");
    }
}

#[test]
fn another_copy_that_comes_later_is_asked_about_as_soon_as_the_first() {
    let mut host = Host::new();
    in_an_hour(&mut host, || list(&["b", "c"]));
    while !host.asks(|| list(&["b", "c"])) {
        host.pass(1);
    }
    host.scene = std::mem::take(&mut host.scene).saying("sdc1", says("c"));
    assert_eq!(host.held(), ["sdb1", "sdc1"]);
    host.pass(40);
    assert!(host.asks(|| list(&["b", "c"])));
}

#[test]
fn what_cannot_be_asked_is_not_taken_for_a_no() {
    let mut host = Host::new();
    assert!(host.asks(down));
    assert_eq!(host.held(), ["sdb1"]);
    let waiting = host.doubles.waiting(host.now).expect("it waits");
    assert!(
        waiting.contains("sdb1") && waiting.contains("refused"),
        "{waiting}"
    );
    assert_eq!(host.codes(), [] as [&str; 0]);
    // As soon as the API is back.
    host.doubles.reachable();
    assert!(host.asks(|| Err(Failure::Forbidden("cannot list".to_owned()))));
    assert_eq!(host.held(), ["sdb1"]);
    assert_eq!(host.codes(), ["not-permitted"]);
    host.pass(40);
    assert!(host.asks(|| list(&[])));
    assert_eq!(host.held(), [] as [&str; 0]);
    assert_eq!(host.codes(), [] as [&str; 0]);
}

#[test]
fn what_was_found_stands_while_it_cannot_be_asked() {
    let mut host = Host::new();
    assert!(host.asks(|| list(&["b"])));
    host.pass(40);
    assert!(host.asks(down));
    assert_eq!(host.held(), ["sdb1"]);
    assert_eq!(host.codes(), ["uuid-elsewhere"]);
}

#[test]
fn the_double_of_a_disk_of_this_node_costs_no_request() {
    let mut host = Host::new();
    host.scene = std::mem::take(&mut host.scene).saying("sdc1", says("b"));
    assert_eq!(host.held(), ["sdb1", "sdc1"]);
    assert!(!host.asks(|| panic!("asked")));
    assert_eq!(host.codes(), ["uuid-elsewhere", "uuid-elsewhere"]);
    let waiting = host.doubles.waiting(host.now).expect("they wait");
    assert_eq!(waiting, "sdb1 has the UUID of disk sdc1 of this node");
    // A person takes one away.
    host.scene.disks.retain(|disk| disk.name == name("sdb1"));
    assert!(host.asks(|| list(&[])));
    assert_eq!(host.held(), [] as [&str; 0]);
}
