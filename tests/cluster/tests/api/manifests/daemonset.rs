//! The DaemonSet: what the agent is told and given of its host.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::{Args, FromArgMatches};
use disk_discovery::{
    config::{LogFormat, Mode, Options, Settings},
    observe::Host,
};
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Container, EnvVar, HTTPGetAction, PodSpec, Probe},
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::{POD_NETWORK, base, base_with, only, part};

pub(super) fn pod(agent: &DaemonSet) -> &PodSpec {
    let template = &agent.spec.template;
    template.spec.as_ref().expect("a pod")
}

pub(super) fn container(agent: &DaemonSet) -> &Container {
    let pod = pod(agent);
    assert_eq!(pod.init_containers, None);
    let [container] = pod.containers.as_slice() else {
        panic!("more than one container");
    };
    container
}

fn agent() -> DaemonSet {
    only(&base())
}

fn settings(agent: &DaemonSet) -> Settings {
    settings_of(container(agent).env.as_ref().expect("variables"))
}

/// The options as the agent reads them out of the variables of the manifest.
pub(super) fn settings_of(variables: &[EnvVar]) -> Settings {
    let command = Options::augment_args(clap::Command::new("agent"));
    let flag = |variable: &EnvVar| {
        let argument = command.get_arguments().find(|argument| {
            argument
                .get_env()
                .is_some_and(|name| name.to_str() == Some(&variable.name))
        });
        let argument = argument.unwrap_or_else(|| panic!("{} is no option", variable.name));
        let value = variable.value.clone().unwrap_or_else(|| {
            let source = variable.value_from.as_ref().expect("a source");
            let field = source.field_ref.as_ref().expect("a field of the pod");
            assert_eq!(field.field_path, "spec.nodeName");
            "k3s2".to_owned()
        });
        format!("--{}={value}", argument.get_long().expect("a long name"))
    };
    let flags: Vec<String> = variables.iter().map(flag).collect();
    let words = std::iter::once("agent".to_owned()).chain(flags);
    let matches = command
        .clone()
        .try_get_matches_from(words)
        .unwrap_or_else(|error| panic!("{error}"));
    let options = Options::from_arg_matches(&matches).expect("options");
    options.into_settings().expect("possible values")
}

#[test]
fn every_variable_is_an_option_of_the_agent() {
    let agent = agent();
    let settings = settings(&agent);
    assert_eq!(settings.mode, Mode::Enforce);
    assert_eq!(settings.node_name, "k3s2");
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.longhorn_namespace, "longhorn-system");
    assert_eq!(
        container(&agent).args.as_deref(),
        Some(&["run".to_owned()][..])
    );
    assert_eq!(container(&agent).command, None);
}

/// Rules that deny disks are among its options: one that started without them
/// would format those.
#[test]
fn it_does_not_start_without_the_options_that_the_manifests_bring() {
    let documents = base();
    let (agent, options): (DaemonSet, ConfigMap) = (only(&documents), only(&documents));
    let sources = container(&agent).env_from.as_ref().expect("sources");
    let [source] = sources.as_slice() else {
        panic!("{sources:?}");
    };
    let named = source.config_map_ref.as_ref().expect("a ConfigMap");
    assert_eq!(named.optional, None, "a missing one is passed over");
    assert_eq!(source.prefix, None);
    assert_eq!(options.metadata.name.as_ref(), Some(&named.name));
    assert_eq!(options.metadata.namespace, agent.metadata.namespace);
    assert_eq!((options.data, options.immutable), (None, None));
}

/// A directory of the host as the container sees it.
#[derive(Debug, PartialEq, Eq)]
struct View {
    host: PathBuf,
    kind: Option<String>,
    read_only: bool,
    propagation: Option<String>,
}

fn views(agent: &DaemonSet) -> BTreeMap<PathBuf, View> {
    let volumes = pod(agent).volumes.as_ref().expect("volumes");
    let mounts = container(agent).volume_mounts.as_ref().expect("mounts");
    let view = |mount: &k8s_openapi::api::core::v1::VolumeMount| {
        assert_eq!(mount.sub_path, None);
        assert_eq!(mount.sub_path_expr, None);
        let volume = volumes.iter().find(|volume| volume.name == mount.name);
        let volume = volume.unwrap_or_else(|| panic!("no volume {}", mount.name));
        let host = volume.host_path.as_ref().expect("a directory of the host");
        let view = View {
            host: PathBuf::from(&host.path),
            kind: host.type_.clone(),
            read_only: mount.read_only == Some(true),
            propagation: mount.mount_propagation.clone(),
        };
        (PathBuf::from(&mount.mount_path), view)
    };
    let used = |name: &String| mounts.iter().any(|mount| mount.name == *name);
    assert!(volumes.iter().all(|volume| used(&volume.name)));
    mounts.iter().map(view).collect()
}

/// Where on the host something is that the agent finds at `path`.
fn on_host(views: &BTreeMap<PathBuf, View>, path: &Path) -> PathBuf {
    let mount = path
        .ancestors()
        .find_map(|above| views.get_key_value(above));
    let (at, view) = mount.unwrap_or_else(|| panic!("{} is the container's", path.display()));
    let rest = path.strip_prefix(at).expect("below it");
    view.host.join(rest).components().collect()
}

type PathOf = fn(&Host) -> PathBuf;

#[test]
fn all_that_the_agent_looks_at_is_the_hosts() {
    let agent = agent();
    let (views, settings) = (views(&agent), settings(&agent));
    let (inside, outside) = (settings.host(), Host::at("/"));
    let look: [(&str, PathOf); 8] = [
        ("devices", Host::class_block),
        ("udevd's database", Host::udev_database),
        ("udevd", Host::udev_runtime),
        ("mounts", Host::init_mountinfo),
        ("swap", Host::swaps),
        ("nodes", Host::nodes),
        ("errors of ext4", |host| host.ext4_errors("sda1")),
        ("a node", |host| host.node("sda1")),
    ];
    for (what, path) in look {
        assert_eq!(on_host(&views, &path(&inside)), path(&outside), "{what}");
    }
    // What it writes, and what it tells others about, has one path everywhere.
    for path in [&settings.mount_root, &settings.state_dir] {
        assert_eq!(on_host(&views, path), *path);
    }
    // libudev looks there itself, whatever the root is.
    let control = Path::new("/run/udev/control");
    assert_eq!(on_host(&views, control), control);
}

#[test]
fn the_agent_is_given_these_directories_of_the_host_and_no_others() {
    let shown = views(&agent());
    let rows: Vec<String> = shown
        .iter()
        .map(|(at, view)| {
            format!(
                "{} is {}{}{}, {}",
                at.display(),
                view.host.display(),
                view.kind
                    .as_ref()
                    .map_or(String::new(), |kind| format!(" ({kind})")),
                if view.read_only { " read only" } else { "" },
                view.propagation.as_deref().unwrap_or("None"),
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            "/host/dev is /dev (Directory), HostToContainer",
            "/host/proc is /proc (Directory) read only, None",
            "/host/run/udev is /run/udev read only, None",
            "/host/sys is /sys (Directory) read only, None",
            "/mnt/longhorn is /mnt/longhorn (DirectoryOrCreate), Bidirectional",
            "/run/udev is /run/udev read only, None",
            "/var/lib/disk-discovery is /var/lib/disk-discovery (DirectoryOrCreate), None",
        ]
    );
}

#[test]
fn it_has_the_hosts_network_and_devices_but_not_its_processes() {
    let agent = agent();
    let pod = pod(&agent);
    assert_eq!(pod.host_network, Some(true));
    assert_eq!(pod.dns_policy.as_deref(), Some("ClusterFirstWithHostNet"));
    assert_eq!(pod.host_pid, None);
    assert_eq!(pod.host_ipc, None);
    let security = container(&agent).security_context.as_ref();
    let security = security.expect("a security context");
    assert_eq!(security.privileged, Some(true));
    assert_eq!(security.run_as_user, Some(0));
    assert_eq!(security.read_only_root_filesystem, Some(true));
}

#[test]
fn the_network_of_pods_is_a_choice_and_health_stays_on_the_node() {
    let patch = &part(POD_NETWORK, "daemonset-patch.yaml")[0];
    let network = serde_json::json!({"hostNetwork": false, "dnsPolicy": "ClusterFirst"});
    assert_eq!(patch["spec"]["template"]["spec"], network);
    let Some(built) = base_with(POD_NETWORK) else {
        return;
    };
    let (chosen, usual): (DaemonSet, DaemonSet) = (only(&built), agent());
    let expected = PodSpec {
        host_network: Some(false),
        dns_policy: Some("ClusterFirst".to_owned()),
        ..pod(&usual).clone()
    };
    assert_eq!(*pod(&chosen), expected);
    let ports = container(&chosen).ports.as_ref().expect("ports");
    assert!(ports.iter().all(|port| port.host_port.is_some()));
    assert_eq!(built.len(), base().len());
}

#[test]
fn it_runs_on_nodes_for_storage_whatever_their_taints_and_is_evicted_last() {
    let agent = agent();
    let pod = pod(&agent);
    let selector = pod.node_selector.as_ref().expect("a selector");
    let selector: Vec<_> = selector.iter().collect();
    assert_eq!(selector, [(&"storage".to_owned(), &"longhorn".to_owned())]);
    assert_eq!(pod.affinity, None);
    let tolerations = pod.tolerations.as_ref().expect("tolerations");
    let [all] = tolerations.as_slice() else {
        panic!("{tolerations:?}");
    };
    assert_eq!(all.operator.as_deref(), Some("Exists"));
    assert_eq!((&all.key, &all.effect), (&None, &None));
    let priority = pod.priority_class_name.as_deref();
    assert_eq!(priority, Some("system-node-critical"));
}

#[test]
fn a_new_version_comes_to_one_node_after_the_other() {
    let agent = agent();
    let spec = &agent.spec;
    let strategy = spec.update_strategy.as_ref().expect("a strategy");
    assert_eq!(strategy.type_.as_deref(), Some("RollingUpdate"));
    let rolling = strategy.rolling_update.as_ref().expect("its numbers");
    assert_eq!(rolling.max_unavailable, Some(IntOrString::Int(1)));
    // Two on one node would want the same port and the same state directory.
    assert_eq!(rolling.max_surge, None);
    // It is stopped in 5 s by itself; a kill would be no harm.
    assert!(pod(&agent).termination_grace_period_seconds > Some(5));
}

fn request(probe: Option<&Probe>) -> &HTTPGetAction {
    let probe = probe.expect("a probe");
    probe.http_get.as_ref().expect("a request")
}

#[test]
fn probes_ask_for_health_at_the_port_that_the_agent_opens() {
    let agent = agent();
    let container = container(&agent);
    let ports = container.ports.as_ref().expect("ports");
    let [port] = ports.as_slice() else {
        panic!("{ports:?}");
    };
    let listens = i32::from(settings(&agent).listen.port());
    assert_eq!(
        (port.container_port, port.host_port),
        (listens, Some(listens))
    );
    let (startup, alive, ready) = (
        container.startup_probe.as_ref(),
        container.liveness_probe.as_ref(),
        container.readiness_probe.as_ref(),
    );
    for (probe, path) in [
        (startup, "/healthz"),
        (alive, "/healthz"),
        (ready, "/readyz"),
    ] {
        let request = request(probe);
        assert_eq!(request.path.as_deref(), Some(path));
        let name = port.name.clone().expect("a name");
        assert_eq!(request.port, IntOrString::String(name));
        assert_eq!(request.scheme, None);
    }
    // Killed only when it has failed for a while.
    let alive = alive.expect("a probe");
    let (period, failures) = (alive.period_seconds, alive.failure_threshold);
    let patience = period.expect("a period") * failures.expect("a number");
    assert!(patience >= 120, "{patience} s");
}

#[test]
fn there_is_memory_for_every_mkfs_at_once_and_no_limit_for_the_processor() {
    let agent = agent();
    let resources = container(&agent).resources.as_ref().expect("resources");
    let limits = resources.limits.as_ref().expect("limits");
    let mebibytes = |amounts: &BTreeMap<String, Quantity>| -> u64 {
        let amount = &amounts.get("memory").expect("memory").0;
        let number = amount.strip_suffix("Mi").expect("mebibytes");
        number.parse().expect("a number")
    };
    let requests = resources.requests.as_ref().expect("requests");
    // As the manifest says: for the agent, and as much for each mkfs.
    let at_once = u64::from(settings(&agent).parallel);
    assert!(mebibytes(limits) > (1 + at_once) * mebibytes(requests));
    assert_eq!(limits.keys().collect::<Vec<_>>(), ["memory"]);
}

#[test]
fn image_and_labels_name_the_version_of_this_source() {
    let agent = agent();
    let version = env!("CARGO_PKG_VERSION");
    let image = container(&agent).image.as_deref();
    assert_eq!(image, Some(format!("disk-discovery:{version}").as_str()));
    let spec = &agent.spec;
    let of_pods = spec.template.metadata.as_ref().expect("metadata");
    let of_pods = of_pods.labels.as_ref().expect("labels");
    let own = agent.metadata.labels.as_ref().expect("labels");
    for labels in [own, of_pods] {
        let label = labels.get("app.kubernetes.io/version");
        assert_eq!(label.map(String::as_str), Some(version));
    }
    // Selected by what no new version changes.
    let selector = spec.selector.match_labels.as_ref().expect("labels");
    assert!(!selector.contains_key("app.kubernetes.io/version"));
    for (key, value) in selector {
        assert_eq!(of_pods.get(key), Some(value));
    }
}
