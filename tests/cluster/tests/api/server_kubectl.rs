//! `kubectl` against an API server, as a person would use it.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::json;
use tempfile::TempDir;

use crate::ask::{PATIENCE, Place, longhorn_node, merge};

/// `kubectl` with a configuration and a home of its own.
pub struct Kubectl {
    home: TempDir,
    namespace: String,
}

impl Kubectl {
    fn new(at: &Place) -> Self {
        Self::with(&at.endpoint.kubeconfig().to_string(), &at.namespace)
    }

    pub fn with(config: &str, namespace: &str) -> Self {
        let home = TempDir::new().expect("a directory");
        fs::write(home.path().join("config"), config).expect("written");
        Self {
            home,
            namespace: namespace.to_owned(),
        }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        let config = self.home.path().join("config");
        command
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .arg("--kubeconfig")
            .arg(config)
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        output.expect("kubectl is installed")
    }

    /// What it prints when all is well, with runs of blanks as one.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {errors}");
        squeezed(&output.stdout)
    }

    pub fn complains(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "kubectl {arguments:?} went well");
        squeezed(&output.stderr)
    }
}

fn squeezed(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn kubectl_shows_nodes_of_longhorn_in_the_columns_that_it_defines() {
    let at = Place::new().await;
    let kubectl = Kubectl::new(&at);
    let made = at.make_node("k3s2").await;
    let status = json!({"status": {"conditions": [
        {"type": "Schedulable", "status": "False"}, {"type": "Ready", "status": "True"},
    ]}});
    merge(&at.client, &format!("{}/status", at.node("k3s2")), &status).await;
    let table = kubectl.says(&["get", "nodes.longhorn.io"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "NAME READY ALLOWSCHEDULING SCHEDULABLE AGE");
    assert!(lines[1].starts_with("k3s2 True true False "), "{table}");
    assert_eq!(
        kubectl.says(&["get", "lhn", "-o", "name"]),
        "node.longhorn.io/k3s2"
    );
    let path = "jsonpath={.spec.disks.a.path}";
    assert_eq!(
        kubectl.says(&["get", "lhn", "k3s2", "-o", path]),
        "/mnt/longhorn/a"
    );
    let yaml = kubectl.says(&["get", "lhn", "k3s2", "-o", "yaml"]);
    let uid = made["metadata"]["uid"].as_str().expect("a uid");
    assert!(yaml.contains(&format!("uid: {uid}")), "{yaml}");
    assert_eq!(
        kubectl.complains(&["get", "lhn", "k3s9"]),
        "Error from server (NotFound): nodes.longhorn.io \"k3s9\" not found"
    );
}

#[tokio::test]
async fn kubectl_describes_a_node_with_its_events() {
    let at = Place::new().await;
    let kubectl = Kubectl::new(&at);
    let uid = at.make_node("k3s2").await["metadata"]["uid"].clone();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "regarding": {
            "apiVersion": "longhorn.io/v1beta2", "kind": "Node", "name": "k3s2",
            "namespace": at.namespace, "uid": uid,
        },
        "type": "Normal", "reason": "DiskProvisioned", "action": "Provision", "note": "sdb1 is mounted",
        "eventTime": "2030-01-01T00:00:00.000000Z", "reportingController": "disk-discovery",
        "reportingInstance": "k3s2",
    });
    let file = kubectl.file("event.json", &event.to_string());
    kubectl.says(&["create", "-f", &file]);
    let described = kubectl.says(&["describe", "lhn", "k3s2"]);
    assert!(described.contains("Path: /mnt/longhorn/a"), "{described}");
    let events = described.split("Events:").nth(1).expect("events");
    assert!(events.contains("DiskProvisioned"), "{described}");
    assert!(events.contains("sdb1 is mounted"), "{described}");
    let table = kubectl.says(&["get", "events"]);
    assert!(table.contains("Normal DiskProvisioned"), "{table}");
    assert!(table.contains("sdb1 is mounted"), "{table}");
}

#[tokio::test]
async fn kubectl_applies_a_directory_twice_and_the_second_time_changes_nothing() {
    let at = Place::new().await;
    let kubectl = Kubectl::new(&at);
    let name = format!("agent-{}", at.namespace);
    let objects = format!(
        "apiVersion: v1
kind: ServiceAccount
metadata: {{name: agent}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: agent}}
rules:
  - {{apiGroups: [longhorn.io], resources: [nodes], verbs: [get, list, watch, patch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: agent}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: agent}}
subjects: [{{kind: ServiceAccount, name: agent, namespace: {0}}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      serviceAccountName: agent
      containers:
        - name: agent
          image: agent:1
          env: [{{name: A, value: a}}]
",
        at.namespace
    );
    let policy = format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  matchConstraints:
    resourceRules:
      - {{apiGroups: [longhorn.io], apiVersions: ['*'], operations: [UPDATE], resources: [nodes]}}
  validations:
    - {{expression: 'true'}}
---
"
    );
    let objects = if at.is_of_today() {
        policy + &objects
    } else {
        objects
    };
    let count = objects.split("---").count();
    kubectl.file("objects.yaml", &objects);
    let kustomization = format!("namespace: {}\nresources: [objects.yaml]\n", at.namespace);
    kubectl.file("kustomization.yaml", &kustomization);
    let directory = kubectl.home.path().to_str().expect("text").to_owned();
    let first = kubectl.says(&["apply", "-k", &directory]);
    let created = first.lines().filter(|line| line.ends_with(" created"));
    assert_eq!(created.count(), count, "{first}");
    let second = kubectl.says(&["apply", "-k", &directory]);
    let unchanged = second.lines().filter(|line| line.ends_with(" unchanged"));
    assert_eq!(unchanged.count(), count, "{second}");
    kubectl.file("objects.yaml", &objects.replace("agent:1", "agent:2"));
    let third = kubectl.says(&["apply", "-k", &directory]);
    assert!(third.contains("daemonset.apps/agent configured"), "{third}");
    let path = "jsonpath={.spec.template.spec.containers[*].image} {.metadata.generation}";
    assert_eq!(
        kubectl.says(&["get", "ds", "agent", "-o", path]),
        "agent:2 2"
    );
    if at.is_of_today() {
        kubectl.says(&["delete", "validatingadmissionpolicy", &name]);
    }
}

#[tokio::test]
async fn kubectl_applies_a_node_and_leaves_the_disks_of_others() {
    let at = Place::new().await;
    let kubectl = Kubectl::new(&at);
    let mut object = longhorn_node("k3s2");
    let file = kubectl.file("node.json", &object.to_string());
    assert_eq!(
        kubectl.says(&["apply", "-f", &file]),
        "node.longhorn.io/k3s2 created"
    );
    let disk = json!({"spec": {"disks": {"b": {"path": "/b"}}}}).to_string();
    let patched = kubectl.says(&["patch", "lhn", "k3s2", "--type=merge", "-p", &disk]);
    assert_eq!(patched, "node.longhorn.io/k3s2 patched");
    object["spec"]["tags"] = json!(["t"]);
    kubectl.file("node.json", &object.to_string());
    assert_eq!(
        kubectl.says(&["apply", "-f", &file]),
        "node.longhorn.io/k3s2 configured"
    );
    // Each by its name: kubectl puts what `*` finds in a map in any order.
    let path = "jsonpath={.spec.disks.a.path} {.spec.disks.b.path} {.spec.tags}";
    let disks = kubectl.says(&["get", "lhn", "k3s2", "-o", path]);
    assert_eq!(disks, "/mnt/longhorn/a /b [\"t\"]");
    object["spec"]["allowScheduling"] = json!(false);
    kubectl.file("node.json", &object.to_string());
    let applied = kubectl.says(&["apply", "--server-side", "--force-conflicts", "-f", &file]);
    assert_eq!(applied, "node.longhorn.io/k3s2 serverside-applied");
    if !at.is_of_today() {
        // Before field validation it is kubectl that looks, in its own words.
        return;
    }
    object["spec"]["nonsense"] = json!(1);
    kubectl.file("node.json", &object.to_string());
    let refused = kubectl.complains(&["apply", "-f", &file]);
    assert!(
        refused.contains("unknown field \"spec.nonsense\""),
        "{refused}"
    );
}

#[tokio::test]
async fn kubectl_annotates_waits_and_deletes() {
    let at = Place::new().await;
    let kubectl = Kubectl::new(&at);
    at.make_node("k3s2").await;
    let annotated = kubectl.says(&["annotate", "lhn", "k3s2", "a=b"]);
    assert_eq!(annotated, "node.longhorn.io/k3s2 annotated");
    let labelled = kubectl.says(&["label", "lhn", "k3s2", "tier=fast"]);
    assert_eq!(labelled, "node.longhorn.io/k3s2 labeled");
    assert_eq!(
        kubectl.says(&["get", "lhn", "-l", "tier=fast", "-o", "name"]),
        "node.longhorn.io/k3s2"
    );
    let mut waiting = kubectl
        .command(&[
            "wait",
            "lhn",
            "k3s2",
            "--for=condition=Ready",
            "--timeout=60s",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    merge(&at.client, &format!("{}/status", at.node("k3s2")), &ready).await;
    assert!(waiting.wait().expect("an end").success());
    let deleted = kubectl.says(&["delete", "lhn", "k3s2"]);
    assert!(deleted.contains("\"k3s2\" deleted"), "{deleted}");
    assert_eq!(kubectl.says(&["get", "lhn", "-o", "name"]), "");
}

#[tokio::test]
async fn kubectl_watches() {
    let at = Place::new().await;
    let kubectl = Kubectl::new(&at);
    at.make_node("k3s2").await;
    let mut watching = kubectl
        .command(&["get", "lhn", "--watch", "--output-watch-events"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let output = BufReader::new(watching.stdout.take().expect("an output"));
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        output
            .lines()
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    let next = || lines.recv_timeout(PATIENCE).expect("a line");
    assert!(next().starts_with("EVENT "));
    assert!(next().starts_with("ADDED "));
    merge(
        &at.client,
        &at.node("k3s2"),
        &json!({"spec": {"allowScheduling": false}}),
    )
    .await;
    let line = next();
    assert!(
        line.starts_with("MODIFIED ") && line.contains("false"),
        "{line}"
    );
    watching.kill().expect("killed");
    watching.wait().expect("an end");
}

#[tokio::test]
async fn kubectl_says_who_one_is_and_what_one_may_not_do() {
    let at = Place::new().await;
    let kubectl = Kubectl::new(&at);
    let name = "jsonpath={.status.userInfo.username}";
    let other = format!("{}-other", at.namespace);
    kubectl.says(&["create", "namespace", &other]);
    assert_eq!(
        kubectl.says(&["get", "ns", &other, "-o", "name"]),
        format!("namespace/{other}")
    );
    // Older servers cannot be asked.
    let who = || {
        at.is_of_today()
            .then(|| kubectl.says(&["auth", "whoami", "-o", name]))
    };
    let admin = who();
    assert_eq!(
        kubectl.says(&["auth", "can-i", "delete", "nodes.longhorn.io"]),
        "yes"
    );
    kubectl.says(&["create", "serviceaccount", "agent"]);
    let token = kubectl.says(&["create", "token", "agent"]);
    let agent = at.endpoint.with_token(&token);
    kubectl.file("config", &agent.kubeconfig().to_string());
    let user = format!("system:serviceaccount:{}:agent", at.namespace);
    assert_ne!(admin.as_ref(), Some(&user));
    assert_eq!(who().unwrap_or_else(|| user.clone()), user);
    let refused = kubectl.complains(&["get", "nodes.longhorn.io"]);
    let forbidden = format!(
        "Error from server (Forbidden): nodes.longhorn.io is forbidden: User \"{user}\" cannot list"
    );
    assert!(refused.starts_with(&forbidden), "{refused}");
    let may = ["auth", "can-i", "delete", "nodes.longhorn.io"];
    let output = kubectl.output(&may);
    assert_eq!(squeezed(&output.stdout), "no");
}
