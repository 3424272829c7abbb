//! The stand-in as a program of its own: `cargo run -p cluster-fixtures --bin
//! api-server`.

use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use cluster_fixtures::longhorn_cluster::until;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server_kubectl::Kubectl;

const NAMESPACE: &str = "longhorn-system";

/// Running; killed when the test fails.
struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_api-server"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("a pipe");
        Self {
            child,
            lines: BufReader::new(stdout).lines(),
        }
    }

    /// The next line that it prints.
    fn line(&mut self) -> String {
        let line = self.lines.next();
        line.expect("it goes on").expect("a line")
    }

    /// As Ctrl-C ends it: how it ended, and what it printed last.
    fn end(mut self) -> (Option<i32>, Vec<String>) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        kill(pid, Signal::SIGINT).expect("a signal");
        let rest = self.lines.by_ref().map(|line| line.expect("a line"));
        let rest = rest.collect();
        (self.child.wait().expect("it ends").code(), rest)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended is none to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn manifest(name: &str) -> String {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let path: PathBuf = project.join("deploy/infrastructure/storage").join(name);
    path.to_str().expect("a path").to_owned()
}

#[test]
fn the_program_is_a_cluster_with_longhorn_that_kubectl_can_speak_to() {
    let root = TempDir::new().expect("a directory");
    let disk = root.path().join("mnt/longhorn/sdb1");
    fs::create_dir_all(&disk).expect("a directory");
    let out = root.path().join("kubeconfig");
    let node = format!("k3s2={}", root.path().display());
    // Longhorn's, which is there before the agent.
    let namespace =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let own = root.path().join("namespace.yaml");
    fs::write(&own, namespace.to_string()).expect("written");
    let manifests = ["serviceaccount.yaml", "role.yaml", "rolebinding.yaml"].map(manifest);
    let mut arguments = vec!["--rbac", "--longhorn", &node];
    arguments.extend(["--kubeconfig", out.to_str().expect("a path")]);
    arguments.extend(["--token", "longhorn-system/disk-discovery@k3s2"]);
    arguments.extend(["--apply", own.to_str().expect("a path")]);
    for manifest in &manifests {
        arguments.extend(["--apply", manifest]);
    }
    let mut program = Program::start(&arguments);
    let (token, url) = (program.line(), program.line());
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let text = fs::read_to_string(&out).expect("a kubeconfig");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(config["clusters"][0]["cluster"]["server"], json!(url));

    // Longhorn's manager makes the node, its webhook has a word, and what the
    // manager does with a disk is on that disk.
    let kubectl = Kubectl::with(&text, NAMESPACE);
    until("Longhorn has a node", || {
        let output = kubectl.output(&["get", "lhn", "k3s2", "-o", "name"]);
        output.stdout == b"node.longhorn.io/k3s2\n"
    });
    let entry = |path: &str| {
        json!({"spec": {"disks": {"sdb1": {
            "path": path, "diskType": "filesystem", "allowScheduling": true,
        }}}})
        .to_string()
    };
    let patch = ["patch", "lhn", "k3s2", "--type", "merge", "-p"];
    let refused = kubectl.complains(&[&patch[..], &[&entry("")]].concat());
    assert!(refused.contains("validator.longhorn.io"), "{refused}");
    until("the disk is added", || {
        let added = kubectl.output(&[&patch[..], &[&entry("/mnt/longhorn/sdb1")]].concat());
        added.status.success()
    });
    until("Longhorn has looked at it", || {
        disk.join("longhorn-disk.cfg").exists()
    });

    // The token is the agent's, and the roles are in force.
    config["users"][0]["user"] = json!({"token": token});
    let agent = Kubectl::with(&config.to_string(), NAMESPACE);
    assert_eq!(
        agent.says(&["get", "lhn", "k3s2", "-o", "name"]),
        "node.longhorn.io/k3s2"
    );
    let refused = agent.complains(&["get", "secrets"]);
    let account = "system:serviceaccount:longhorn-system:disk-discovery";
    assert!(
        refused.contains("(Forbidden)") && refused.contains(account),
        "{refused}"
    );

    assert_eq!(program.end(), (Some(0), Vec::new()));
}

#[test]
fn the_program_says_what_it_does_not_understand() {
    for (arguments, words) in [
        (&["--longhorn", "k3s2"][..], "\"k3s2\" is no NODE=DIR"),
        (
            &["--token", "disk-discovery"],
            "\"disk-discovery\" is no NAMESPACE/NAME",
        ),
        (&["--apply", "/nowhere.yaml"], "cannot read /nowhere.yaml"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_api-server"))
            .args(arguments)
            .output();
        let output = output.expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{said}");
    }
}
