//! The agent as a container of its DaemonSet, made as a container runtime makes
//! it, from the manifest: a root of its own that is read only, the volumes with
//! their propagation, the host's network, the files of its ServiceAccount.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use cluster_fixtures::{
    endpoint::Endpoint,
    longhorn_cluster::{NAMESPACE, manifest},
};
use serde_json::Value;

use super::member::{Member, NODE};

/// Where the container's root is put together on the host.
const ROOT: &str = "/run/pod/root";
/// Where the volume with the files of its ServiceAccount is on the host.
const VOLUME: &str = "/run/pod/account";
/// Where a pod finds them: below `/run`, to which `/var/run` is a link.
const ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";

/// Lays out what the container is made of, and how it is started. Its token is
/// returned.
pub fn install(member: &Member) -> Result<String> {
    let way = member.way();
    let (host, port) = way
        .url
        .trim_start_matches("https://")
        .split_once(':')
        .context("no port")?;
    let daemon_set = manifest("disk-discovery-daemonset.yaml");
    let daemon_set = daemon_set.first().context("no DaemonSet")?;
    let pod = at(daemon_set, "/spec/template/spec");
    let container = at(pod, "/containers/0");
    let mut script = String::from(START);
    for mount in list(container, "/volumeMounts") {
        let volume = list(pod, "/volumes").find(|one| text(one, "/name") == text(mount, "/name"));
        let volume = volume.context("a mount of no volume")?;
        let (source, target) = (text(volume, "/hostPath/path"), text(mount, "/mountPath"));
        let read_only = at(mount, "/readOnly") == true;
        let propagation = match text(mount, "/mountPropagation") {
            "Bidirectional" => "rshared",
            "HostToContainer" => "rslave",
            _ => "rprivate",
        };
        writeln!(script, "volume {source} {target} {propagation} {read_only}")?;
    }
    writeln!(script, "volume {VOLUME} {ACCOUNT} rprivate true")?;
    script.push_str(INSIDE);
    let mut environment =
        format!("KUBERNETES_SERVICE_HOST={host} KUBERNETES_SERVICE_PORT={port} NODE_NAME={NODE}");
    for variable in list(container, "/env") {
        if let Some(value) = at(variable, "/value").as_str() {
            write!(environment, " {}={value}", text(variable, "/name"))?;
        }
    }
    let arguments: Vec<&str> = list(container, "/args").filter_map(Value::as_str).collect();
    writeln!(
        script,
        "exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin {environment} /usr/local/bin/disk-discovery {}",
        arguments.join(" ")
    )?;
    replace(member, "..1", &way)?;
    for name in ["token", "ca.crt", "namespace"] {
        member.sh(&format!("ln -s ..data/{name} {VOLUME}/{name}"))?;
    }
    member
        .guest
        .with(|node| node.vm.write_file("/run/pod/start", &script, 0o755))?;
    Ok(way.token)
}

/// Gives the pod another token.
pub fn renew(member: &Member) -> Result<()> {
    replace(member, "..2", &member.way())
}

/// As kubelet replaces what is in a volume: each file is a link through `..data`,
/// which is a link to the directory of the last version, and changes in one step.
fn replace(member: &Member, version: &str, way: &Endpoint) -> Result<()> {
    let files = [
        ("token", way.token.as_str()),
        ("ca.crt", way.ca_pem.as_deref().context("no authority")?),
        ("namespace", NAMESPACE),
    ];
    member.guest.with(|node| {
        for (name, content) in files {
            let path = format!("{VOLUME}/{version}/{name}");
            node.vm.write_file(&path, content, 0o644)?;
        }
        // The first time there is nothing to be replaced.
        node.vm.sh(&format!(
            "cd {VOLUME}
             before=$(readlink ..data || true)
             ln -s {version} ..data_tmp
             mv -T ..data_tmp ..data
             if [ -n \"$before\" ]; then rm -r \"$before\"; fi"
        ))
    })?;
    Ok(())
}

/// Starts the container.
pub fn start(member: &Member) -> Result<()> {
    let script = format!(
        "mkdir -p /run/pod/upper /run/pod/work {ROOT} /mnt/longhorn /var/lib/disk-discovery
         mount -t overlay overlay -o lowerdir=/,upperdir=/run/pod/upper,workdir=/run/pod/work {ROOT}
         systemd-run --quiet --unit=pod unshare --mount --pid --fork --propagation unchanged /run/pod/start"
    );
    member.sh(&script).map(drop)
}

/// Kills everything in the container, and takes away what it was made of.
pub fn kill(member: &Member) -> Result<()> {
    let script = format!(
        "systemctl kill -s KILL pod
         # Between active and failed there is a state in which nothing is to be reset.
         until systemctl show -p ActiveState --value pod | grep -qxE 'failed|inactive'; do sleep 0.1; done
         systemctl reset-failed -q pod; umount {ROOT} && rm -rf /run/pod/upper /run/pod/work"
    );
    member.sh(&script).map(drop)
}

fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    at(value, pointer).as_array().into_iter().flatten()
}

/// Nothing that is mounted below the root reaches the host: neither it nor what
/// it lies on is shared. A mount of the host stays what it was, and so does a
/// bind mount of it.
const START: &str = r#"#!/bin/bash
set -eu
root=/run/pod/root
mount --make-private /run
mount --make-private $root
mount --bind $root $root
mount --make-private $root
mkdir -p $root/proc $root/sys $root/dev $root/old
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mount -t tmpfs tmpfs $root/dev
for device in null zero full random urandom; do cp -a /dev/$device $root/dev/; done
volume() {
    mkdir -p "$root$2"
    mount --rbind "$1" "$root$2"
    mount --make-"$3" "$root$2"
    if [ "$4" = true ]; then mount -o remount,bind,ro "$root$2"; fi
}
"#;

/// The host's own root goes, without a word to the host.
const INSIDE: &str = r"cd $root
pivot_root . old
mount --make-rslave /old
umount -l /old
mount -o remount,bind,ro /
cd /
";
