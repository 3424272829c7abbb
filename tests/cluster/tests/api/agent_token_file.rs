//! The token of a ServiceAccount as a pod has it: in a file that kubelet replaces
//! on the disk.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use cluster_fixtures::{
    host::{AgentOptions, SimulatedHost},
    longhorn_cluster::{ACCOUNT, LonghornCluster, NAMESPACE, until},
    server::Options,
};
use disk_discovery::longhorn::{View, status::State};
use kube::Config;
use tempfile::TempDir;

/// A volume as kubelet keeps it: each file is a link through `..data`, which is
/// itself a link to the directory of the last version, and is replaced in one
/// step.
struct Volume(TempDir);

impl Volume {
    fn of(token: &str) -> Self {
        let volume = Self(TempDir::new().expect("a directory"));
        volume.replace("..1", token);
        symlink("..data/token", volume.token()).expect("a link");
        volume
    }

    fn token(&self) -> PathBuf {
        self.0.path().join("token")
    }

    fn replace(&self, version: &str, token: &str) {
        let at = |name: &str| self.0.path().join(name);
        let before = fs::read_link(at("..data"));
        fs::create_dir(at(version)).expect("a directory");
        fs::write(at(version).join("token"), token).expect("written");
        symlink(version, at("..data_tmp")).expect("a link");
        fs::rename(at("..data_tmp"), at("..data")).expect("renamed");
        if let Ok(before) = before {
            fs::remove_dir_all(at(before.to_str().expect("a name"))).expect("removed");
        }
    }
}

/// As `Config::incluster` makes it, to another address.
fn in_a_pod(config: Config, token: &Path) -> Config {
    let mut config = config;
    config.auth_info.token = None;
    config.auth_info.token_file = Some(token.to_str().expect("a path").to_owned());
    config
}

#[test]
fn a_token_file_that_kubelet_replaces_is_read_anew_when_the_old_token_has_ended() {
    let cluster = LonghornCluster::stand_in_for(Options {
        tls: true,
        ..Options::default()
    });
    let server = cluster.server();
    let host = SimulatedHost::new("k3s2");
    host.provision("sdb1");
    let _manager = cluster.manager(&[&host]);
    let lives = Duration::from_hours(1);
    let token = || server.service_account_token(NAMESPACE, ACCOUNT, Some("k3s2"), lives);
    let [first, second] = [token(), token()];
    let volume = Volume::of(&first);
    let way = cluster.way("k3s2");
    way.set(in_a_pod(server.config(&first), &volume.token()));
    let options = AgentOptions {
        hurry: 50,
        ..AgentOptions::default()
    };
    let agent = cluster.agent_by(&host, &options, &way);
    let is_seen = |disk: &str| {
        let view = agent.view.borrow();
        matches!(&*view, View::Present { disks, .. } if disks.contains_key(disk))
    };
    until("it is registered", || is_seen("sdb1"));
    until("all is current", || {
        agent.status.borrow().state == State::Current
    });

    volume.replace("..2", &second);
    server.revoke(&first);
    cluster.cluster.forget_requests();
    // What writes has to be told that its token has ended.
    host.provision("sdc1");
    until("the other disk is registered", || {
        !cluster.entry("k3s2", "sdc1").is_null()
    });
    // So has what watches, when its watch ends.
    server.compact();
    until("it is seen", || is_seen("sdc1"));
    until("the watch goes on with the second token", || {
        let requests = cluster.cluster.requests();
        requests
            .iter()
            .any(|seen| (seen.verb.as_str(), seen.status) == ("watch", 200))
    });
    host.provision("sdd1");
    until("what comes then is registered and seen", || is_seen("sdd1"));
    until("nothing is wrong", || cluster.is_clean(&agent));
    // Once: the next connection was made with what was in the file by then. Not at
    // all where a minute had passed, after which kube reads the file by itself.
    let outcomes = agent.status.borrow().requests.clone();
    let refused = outcomes
        .iter()
        .filter(|((_, outcome), _)| *outcome == "unauthorized");
    let refused: u64 = refused.map(|(_, count)| count).sum();
    assert!(refused <= 1, "{outcomes:?}");
}
