//! What the document for operators says of the manifests.

use disk_discovery::config::Mode;
use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, EnvVar},
    rbac::v1::{PolicyRule, Role},
};

use super::{POD_NETWORK, base, base_with, daemonset, only, overlay, project};

fn document() -> String {
    let path = project().join("docs/kubernetes.md");
    std::fs::read_to_string(path).expect("the document")
}

/// The examples in YAML, in their order.
fn examples() -> Vec<String> {
    let text = document();
    let blocks = text.split("```yaml\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().expect("an end").to_owned());
    blocks.collect()
}

#[test]
fn its_first_overlay_chooses_an_image_and_only_looks() {
    // Its patches are of a form that came with components.
    if base_with(POD_NETWORK).is_none() {
        return;
    }
    let example = examples()[0].replace("<path to>", "{project}");
    let built = overlay(&example).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(built.len(), base().len());
    let agent: DaemonSet = only(&built);
    let container = daemonset::container(&agent);
    let image = container.image.as_deref().expect("an image");
    assert!(image.starts_with("registry.example/"), "{image}");
    let variables = container.env.as_deref().expect("variables");
    let chosen = daemonset::settings_of(variables);
    assert_eq!(chosen.mode, Mode::Observe);
    let usual: DaemonSet = only(&base());
    let usual = daemonset::container(&usual).env.clone().expect("variables");
    assert_eq!(variables.len(), usual.len());
}

#[test]
fn its_second_example_gives_the_agent_options_by_the_config_map_that_is_there() {
    if base_with(POD_NETWORK).is_none() {
        return;
    }
    let example = &examples()[1];
    let built = overlay(&format!(
        "resources: ['{{project}}/deploy/infrastructure/storage']\n{example}"
    ));
    let built = built.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(built.len(), base().len());
    let options: ConfigMap = only(&built);
    let variables: Vec<EnvVar> = options
        .data
        .expect("options")
        .into_iter()
        .map(|(name, value)| EnvVar {
            name,
            value: Some(value),
            value_from: None,
        })
        .collect();
    let policy = daemonset::settings_of(&variables).policy;
    assert_eq!(policy.min_size.0, 100_000_000_000);
    assert_eq!(policy.deny.len(), 2, "{:?}", policy.deny);
}

#[test]
fn its_third_example_leaves_out_the_policy_and_nothing_else() {
    if base_with(POD_NETWORK).is_none() {
        return;
    }
    let example = &examples()[2];
    let built = overlay(&format!(
        "resources: ['{{project}}/deploy/infrastructure/storage']\n{example}"
    ));
    let built = built.unwrap_or_else(|error| panic!("{error}"));
    let rest: Vec<_> = base()
        .into_iter()
        .filter(|document| {
            let kind = document["kind"].as_str().expect("a kind");
            !kind.starts_with("ValidatingAdmissionPolicy")
        })
        .collect();
    assert_eq!(built, rest);
}

#[test]
fn its_table_of_rights_is_the_role() {
    let role: Role = only(&base());
    let row = |rule: PolicyRule| {
        let of = |words: Vec<String>| -> String {
            let words = words.iter().map(|word| format!("`{word}`"));
            words.collect::<Vec<_>>().join(", ")
        };
        format!(
            "| {} | {} | {} | ",
            of(rule.api_groups.expect("groups")),
            of(rule.resources.expect("resources")),
            of(rule.verbs)
        )
    };
    let rows: Vec<String> = role.rules.expect("rules").into_iter().map(row).collect();
    let text = document();
    let shown: Vec<&str> = text
        .lines()
        .skip_while(|line| *line != "## What it may do in the cluster")
        .filter(|line| line.starts_with("| `"))
        .take_while(|line| !line.starts_with("| `disk_"))
        .collect();
    assert_eq!(shown.len(), rows.len(), "{shown:#?}");
    for (shown, row) in shown.iter().zip(&rows) {
        assert!(shown.starts_with(row), "{shown}, not {row}");
    }
}

#[test]
fn its_table_of_the_host_has_every_mount() {
    let text = document();
    let agent: DaemonSet = only(&base());
    let mounts = daemonset::container(&agent).volume_mounts.as_ref();
    let rows = text
        .lines()
        .skip_while(|line| *line != "## What it is given of the host")
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter(|line| line.starts_with("| `/"));
    let rows: Vec<&str> = rows.collect();
    let mounts = mounts.expect("mounts");
    assert_eq!(rows.len(), mounts.len());
    for mount in mounts {
        let path = format!("`{}`", mount.mount_path);
        let row = rows.iter().find(|row| row.contains(&path));
        let row = row.unwrap_or_else(|| panic!("no row for {path}"));
        let read_only = mount.read_only == Some(true);
        assert_eq!(row.contains("read only"), read_only, "{row}");
    }
}
