//! A machine that is a node of a cluster: the API server with everything that is
//! applied to it for the agent, Longhorn's webhook and Longhorn's manager are on
//! the host, the agent and the disks in the machine.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use cluster_fixtures::{
    endpoint::Endpoint,
    longhorn::{
        Manager,
        manager::{self, DiskFiles},
    },
    longhorn_cluster::{ACCOUNT, LonghornCluster, NAMESPACE},
    server::{Mood, Options},
};
use serde_json::Value;
use vm_fixtures::Machine;
use vm_tests::Node;

use super::guest::{Guest, GuestFiles};

/// The host's loopback as the machine reaches it.
const HOST: &str = "10.0.2.2";
/// Name of the node in the cluster, which is not its host name.
pub const NODE: &str = "k3s2";
/// Under emulation on a busy machine everything takes its time.
const PATIENCE: Duration = Duration::from_mins(10);

/// See the module.
pub struct Member {
    /// Longhorn's manager on this node.
    pub manager: Manager,
    /// Everything else of the cluster.
    pub cluster: LonghornCluster,
    /// The machine.
    pub guest: Guest,
}

/// With a token that is bound to a pod on the node.
fn way_to(cluster: &LonghornCluster) -> Endpoint {
    let lives = Duration::from_hours(1);
    let server = cluster.server();
    let token = server.service_account_token(NAMESPACE, ACCOUNT, Some(NODE), lives);
    Endpoint {
        url: format!("https://{HOST}:{}", server.address().port()),
        ..server.endpoint(&token)
    }
}

impl Drop for Member {
    /// The machine ends here, and not when a thread of the manager lets it go.
    fn drop(&mut self) {
        self.guest.end();
    }
}

impl Member {
    /// Boots a machine with the agent installed and not started, which has the
    /// way to the API server that a pod on it would have.
    pub fn join(machine: Machine, configuration: &str) -> Result<Self> {
        Self::join_in(Mood::Well, machine, configuration)
    }

    /// The same of a cluster whose API server is out of sorts from before anybody
    /// has spoken to it.
    pub fn join_in(mood: Mood, machine: Machine, configuration: &str) -> Result<Self> {
        let cluster = LonghornCluster::stand_in_for(Options {
            tls: true,
            tls_names: vec![HOST.to_owned()],
            ..Options::default()
        });
        let mut node = Node::boot(machine.user_network())?;
        node.configure(configuration)?;
        let kubeconfig = way_to(&cluster).kubeconfig().to_string();
        let path = "/etc/disk-discovery/kubeconfig";
        node.vm.write_file(path, kubeconfig, 0o600)?;
        node.vm.write_file(
            "/etc/systemd/system/disk-discovery.service.d/cluster.conf",
            format!("[Service]\nEnvironment=KUBECONFIG={path} NODE_NAME={NODE}\n"),
            0o644,
        )?;
        node.vm.sh("systemctl daemon-reload && sync")?;
        let guest = Guest::new(node);
        let mut options = manager::Options {
            // A look is a command in the machine.
            monitor: Duration::from_secs(2),
            ..manager::Options::default()
        };
        let files: Arc<dyn DiskFiles> = Arc::new(GuestFiles::of(&guest));
        options.nodes.insert(NODE.to_owned(), files);
        let server = cluster.server();
        server.mood(mood);
        let manager = Manager::start(server.config(&server.admin_token()), options);
        Ok(Self {
            manager,
            cluster,
            guest,
        })
    }

    /// The way of a pod of the agent on this node to the API server.
    pub fn way(&self) -> Endpoint {
        way_to(&self.cluster)
    }

    /// Runs a script that has to succeed, and ends before it waits for Longhorn.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.guest.with(|node| node.vm.sh(script))
    }

    /// The entry of a disk in the Longhorn Node; null where there is none.
    pub fn entry(&self, disk: &str) -> Value {
        self.cluster.entry(NODE, disk)
    }

    /// What the Longhorn Node has somewhere; null where there is nothing.
    pub fn at(&self, pointer: &str) -> Value {
        let node = self.cluster.node(NODE);
        node.pointer(pointer).cloned().unwrap_or_default()
    }

    /// Longhorn's name for the filesystem of a disk, which stands in its status
    /// and in its file on the disk; an error where these differ.
    pub fn uuid(&self, disk: &str) -> Result<String> {
        let file = self.sh(&format!("cat /mnt/longhorn/{disk}/longhorn-disk.cfg"))?;
        let file: Value = serde_json::from_str(&file)?;
        let written = file.pointer("/diskUUID").cloned().unwrap_or_default();
        let status = self.at(&format!("/status/diskStatus/{disk}/diskUUID"));
        let uuid = status.as_str().unwrap_or_default();
        ensure!(
            written == status && !uuid.is_empty(),
            "{written} on the disk, {status} in the status"
        );
        Ok(uuid.to_owned())
    }

    /// What Longhorn says of a disk: `True`, `False`, or nothing yet.
    pub fn readiness(&self, disk: &str) -> String {
        let conditions = self.at(&format!("/status/diskStatus/{disk}/conditions"));
        let ready = conditions
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one.pointer("/type").is_some_and(|kind| kind == "Ready"));
        let status = ready.and_then(|one| one.pointer("/status")?.as_str());
        status.unwrap_or_default().to_owned()
    }

    /// `/readyz?verbose`: the code, 0 while nobody answers, and what it says.
    pub fn readyz(&self) -> Result<(u16, String)> {
        let asked =
            "curl -sS --max-time 120 -w '%{http_code}' 'http://localhost:9807/readyz?verbose'";
        let answer = self.guest.with(|node| node.vm.run(asked))?.stdout;
        let (text, code) = answer.rsplit_once('\n').unwrap_or(("", &answer));
        Ok((code.parse().unwrap_or_default(), text.to_owned()))
    }

    /// Waits until Longhorn would put replicas on a disk, and the agent agrees
    /// with it about everything.
    pub fn wait_in_use(&self, disk: &str) -> Result<()> {
        self.until(&format!("{disk} is ready for Longhorn"), || {
            Ok(self.readiness(disk) == "True"
                && self.entry(disk).pointer("/allowScheduling") == Some(&Value::Bool(true)))
        })?;
        self.until("the agent is ready", || {
            let (code, said) = self.readyz()?;
            let longhorn = said.lines().find(|line| line.starts_with("[+] longhorn: "));
            let current =
                |line: &str| line.contains("present, ") && line.ends_with("registration: current");
            Ok(code == 200 && longhorn.is_some_and(current))
        })
    }

    /// Waits until so many Events have a reason.
    pub fn wait_told(&self, reason: &str, times: usize) -> Result<()> {
        self.until(&format!("{reason} is told"), || {
            Ok(self.cluster.told(reason) >= times)
        })?;
        let told = self.cluster.told(reason);
        ensure!(
            told == times,
            "{reason} is told {told} times: {:?}",
            self.cluster.events()
        );
        Ok(())
    }

    /// Waits for a state, and lets others use the machine between looks at it.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !holds()? {
            ensure!(Instant::now() < end, "{what}: not so. {}", self.wreck()?);
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn wreck(&self) -> Result<String> {
        let log = self.sh("journalctl --quiet --no-pager -o cat -u disk-discovery -u pod")?;
        let (_, ready) = self.readyz()?;
        let node = self.cluster.node(NODE);
        let (events, troubles) = (self.cluster.events(), self.manager.troubles());
        Ok(format!(
            "Longhorn's Node: {node:#}\nEvents: {events:?}\nmanager: {troubles:?}\n/readyz: {ready}\nlog:\n{log}"
        ))
    }
}
