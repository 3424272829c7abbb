//! The fixture that starts a real API server, tried with programs that are none.
//! With a real one, all other tests of this program try it.

use std::{fs, path::Path, process::Command};

use cluster_fixtures::real::RealServer;
use tempfile::TempDir;

/// What this process has open for writing is inherited by a child that another
/// test starts meanwhile, and could not be run: so another process makes it.
fn program(directory: &Path, name: &str, text: &str) {
    let written = directory.join(format!("{name}.sh"));
    fs::write(&written, format!("#!/bin/sh\n{text}\n")).expect("written");
    let mut install = Command::new("install");
    install.args(["--mode", "755", "--"]);
    install.args([&written, &directory.join(name)]);
    assert!(install.status().expect("install").success(), "{install:?}");
}

/// What `RealServer::start` says, with these as its programs.
fn refusal(apiserver: &str, etcd: &str) -> String {
    let assets = TempDir::new().expect("a directory");
    program(
        assets.path(),
        "kube-apiserver",
        &format!("[ \"$1\" = --version ] && echo Kubernetes v1.32.4 && exit\n{apiserver}"),
    );
    program(assets.path(), "etcd", etcd);
    let error = RealServer::start(assets.path()).expect_err("no API server");
    format!("{error:#}")
}

#[test]
fn an_api_server_that_ends_at_once_is_reported_with_its_last_words() {
    let said = refusal("echo unknown flag >&2; exit 7", "exec sleep 1000");
    assert!(
        said.contains("kube-apiserver ended with exit status: 7"),
        "{said}"
    );
    assert!(said.contains("unknown flag"), "{said}");
}

#[test]
fn an_etcd_that_ends_at_once_is_reported_with_its_last_words() {
    let said = refusal("exec sleep 1000", "echo no space left >&2; exit 1");
    assert!(said.contains("etcd ended with exit status: 1"), "{said}");
    assert!(said.contains("no space left"), "{said}");
}

#[test]
fn a_port_that_was_taken_meanwhile_is_chosen_anew() {
    let counter = TempDir::new().expect("a directory");
    let file = counter.path().join("starts");
    let said = refusal(
        "exec sleep 1000",
        &format!(
            "echo >> {0}\n[ $(wc -l < {0}) -ge 3 ] && echo gave up && exit 1\n\
             echo 'bind: address already in use'; exit 1",
            file.display()
        ),
    );
    assert!(said.contains("gave up"), "{said}");
}

#[test]
fn what_was_started_ends_with_a_start_that_failed() {
    let counter = TempDir::new().expect("a directory");
    let file = counter.path().join("pid");
    let said = refusal(
        &format!(
            "while ! [ -s {} ]; do sleep 0.05; done; exit 1",
            file.display()
        ),
        &format!("echo $$ > {}; exec sleep 1000", file.display()),
    );
    let pid = fs::read_to_string(&file).expect("etcd was started");
    let pid = pid.trim();
    assert!(
        !Path::new("/proc").join(pid).exists(),
        "{pid} is there: {said}"
    );
}

#[test]
fn a_directory_without_the_programs_is_named() {
    let assets = TempDir::new().expect("a directory");
    let error = RealServer::start(assets.path()).expect_err("no API server");
    let said = format!("{error:#}");
    assert!(said.contains("kube-apiserver --version"), "{said}");
}
