//! What `deploy/infrastructure/storage` gives a cluster: built by kustomize,
//! read as the types that an API server reads, and held against the agent's own
//! options and paths.

mod daemonset;
mod document;
mod policy;
mod rights;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::{
    Resource,
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const BASE: &str = "deploy/infrastructure/storage";
const DEFAULT_DISKS: &str = "deploy/infrastructure/storage/default-disks";
const POD_NETWORK: &str = "deploy/infrastructure/storage/pod-network";

fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    here.canonicalize().expect("the project")
}

/// What kustomize makes of a directory, or what it says against it.
fn build(directory: &Path) -> Result<Vec<Value>, String> {
    let out = Command::new("kubectl")
        .arg("kustomize")
        .arg(directory)
        .output()
        .expect("kubectl is needed, which ./scripts/setup installs");
    if out.status.success() {
        Ok(documents(&String::from_utf8(out.stdout).expect("text")))
    } else {
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    }
}

fn base() -> Vec<Value> {
    build(&project().join(BASE)).unwrap_or_else(|error| panic!("{error}"))
}

/// Builds an overlay as an operator would write it, in a directory of its own.
/// `{project}` in its text is the way there.
fn overlay(kustomization: &str) -> Result<Vec<Value>, String> {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let at = directory.path().canonicalize().expect("its path");
    // kustomize takes relative paths only.
    let up = "../".repeat(at.components().count() - 1);
    let project = project();
    let project = project.strip_prefix("/").expect("an absolute path");
    let way = format!("{up}{}", project.display());
    let text = kustomization.replace("{project}", &way);
    std::fs::write(at.join("kustomization.yaml"), text).expect("written");
    build(&at)
}

/// The base with a component; none where kubectl is too old for them.
fn base_with(component: &str) -> Option<Vec<Value>> {
    let built = overlay(&format!(
        "resources: ['{{project}}/{BASE}']\ncomponents: ['{{project}}/{component}']\n"
    ));
    match built {
        Ok(built) => {
            built.iter().for_each(check);
            Some(built)
        }
        // Components came with kubectl 1.21; one that is older must say so, and
        // for no other reason may this fail.
        Err(error) => {
            assert!(error.contains("unknown field \"components\""), "{error}");
            None
        }
    }
}

/// What a file of a component says.
fn part(component: &str, file: &str) -> Vec<Value> {
    let path = project().join(component).join(file);
    documents(&std::fs::read_to_string(path).expect("a file of the component"))
}

fn documents(text: &str) -> Vec<Value> {
    let documents = format!("\n{text}");
    let documents = documents.split("\n---\n").map(|document| {
        serde_saphyr::from_str::<Value>(document)
            .unwrap_or_else(|error| panic!("{error}\n{document}"))
    });
    let documents: Vec<Value> = documents.filter(|document| !document.is_null()).collect();
    assert!(!documents.is_empty(), "nothing in {text:?}");
    documents
}

/// A document as the API server reads it. A field that its type does not have
/// would be dropped there without a word, so it fails here.
fn typed<K: Resource + DeserializeOwned + Serialize>(document: &Value) -> K {
    let read: K = serde_json::from_value(document.clone())
        .unwrap_or_else(|error| panic!("no {}: {error}\n{document:#}", K::KIND));
    let understood = serde_json::to_value(&read).expect("a value");
    assert_eq!(
        understood,
        *document,
        "left: what a {} can say, right: what the manifest says",
        K::KIND
    );
    read
}

/// The only document of a kind.
fn only<K: Resource + DeserializeOwned + Serialize>(documents: &[Value]) -> K {
    let mut found = documents
        .iter()
        .filter(|document| document["kind"] == K::KIND);
    let one = found
        .next()
        .unwrap_or_else(|| panic!("there is no {}", K::KIND));
    assert!(found.next().is_none(), "more than one {}", K::KIND);
    typed(one)
}

fn check(document: &Value) {
    match document["kind"].as_str().expect("a kind") {
        ConfigMap::KIND => drop(typed::<ConfigMap>(document)),
        DaemonSet::KIND => drop(typed::<DaemonSet>(document)),
        ServiceAccount::KIND => drop(typed::<ServiceAccount>(document)),
        Role::KIND => drop(typed::<Role>(document)),
        RoleBinding::KIND => drop(typed::<RoleBinding>(document)),
        ClusterRole::KIND => drop(typed::<ClusterRole>(document)),
        ClusterRoleBinding::KIND => drop(typed::<ClusterRoleBinding>(document)),
        ValidatingAdmissionPolicy::KIND => drop(typed::<ValidatingAdmissionPolicy>(document)),
        ValidatingAdmissionPolicyBinding::KIND => {
            drop(typed::<ValidatingAdmissionPolicyBinding>(document));
        }
        other => panic!("nobody expects a {other}"),
    }
}

#[test]
fn every_document_says_only_what_its_type_can_say() {
    let documents = base();
    documents.iter().for_each(check);
    assert_eq!(documents.len(), 7, "{documents:#?}");
}

#[test]
fn every_object_can_be_found_by_its_labels() {
    for document in base() {
        let labels = &document["metadata"]["labels"];
        for (key, value) in [
            ("app.kubernetes.io/name", "disk-discovery"),
            ("app.kubernetes.io/component", "agent"),
            ("app.kubernetes.io/part-of", "storage"),
        ] {
            assert_eq!(labels[key], value, "{document:#}");
        }
    }
}

#[test]
fn an_overlay_chooses_the_image() {
    let built = overlay(
        "resources: ['{project}/deploy/infrastructure/storage']\n\
         images: [{name: disk-discovery, newName: registry.example/storage/agent, newTag: 9.9.9}]\n",
    );
    // kubectl before 1.21 has a kustomize that knows directories under
    // another name.
    let built = built.or_else(|_| {
        overlay(
            "bases: ['{project}/deploy/infrastructure/storage']\n\
             images: [{name: disk-discovery, newName: registry.example/storage/agent, newTag: 9.9.9}]\n",
        )
    });
    let built = built.unwrap_or_else(|error| panic!("{error}"));
    let agent: DaemonSet = only(&built);
    let image = daemonset::container(&agent).image.clone();
    assert_eq!(
        image.as_deref(),
        Some("registry.example/storage/agent:9.9.9")
    );
}
