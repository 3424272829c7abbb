//! Who the agent is, and what it may do.

use k8s_openapi::api::{
    admissionregistration::v1::ValidatingAdmissionPolicy,
    apps::v1::DaemonSet,
    core::v1::{Container, EnvVar, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject},
};

use super::{DEFAULT_DISKS, base, base_with, daemonset, only, part};

const ACCOUNT: &str = "disk-discovery";
const NAMESPACE: &str = "longhorn-system";

/// Rules as lines of group, resource and verbs. What could widen a rule besides
/// must not be there.
fn lines(rules: Option<Vec<PolicyRule>>) -> Vec<String> {
    let line = |rule: PolicyRule| {
        assert_eq!(rule.non_resource_urls, None);
        assert_eq!(rule.resource_names, None);
        let groups = rule.api_groups.expect("groups").join(",");
        let resources = rule.resources.expect("resources").join(",");
        format!("{groups:?} {resources}: {}", rule.verbs.join(" "))
    };
    rules.expect("rules").into_iter().map(line).collect()
}

fn is_the_account(subjects: Option<Vec<Subject>>) -> bool {
    let subjects = subjects.expect("subjects");
    matches!(subjects.as_slice(), [one] if one.kind == "ServiceAccount"
        && one.name == ACCOUNT
        && one.namespace.as_deref() == Some(NAMESPACE)
        && one.api_group.is_none())
}

#[test]
fn the_role_permits_what_the_agent_does_and_nothing_else() {
    let documents = base();
    let role: Role = only(&documents);
    assert_eq!(role.metadata.namespace.as_deref(), Some(NAMESPACE));
    assert_eq!(
        lines(role.rules),
        [
            "\"longhorn.io\" nodes: get list watch patch",
            "\"longhorn.io\" replicas: list",
            "\"events.k8s.io\" events: create",
        ]
    );
    let bound: RoleBinding = only(&documents);
    assert_eq!(bound.metadata.namespace.as_deref(), Some(NAMESPACE));
    assert_eq!(
        (bound.role_ref.kind.as_str(), Some(bound.role_ref.name)),
        ("Role", role.metadata.name)
    );
    assert!(is_the_account(bound.subjects));
    // Nothing is given in other namespaces.
    let cluster = documents.iter().filter(|document| {
        let kind = document["kind"].as_str().expect("a kind");
        kind.starts_with("ClusterRole")
    });
    assert_eq!(cluster.count(), 0);
}

#[test]
fn account_pod_binding_and_policy_mean_the_same_account() {
    let documents = base();
    let account: ServiceAccount = only(&documents);
    assert_eq!(account.metadata.name.as_deref(), Some(ACCOUNT));
    assert_eq!(account.metadata.namespace.as_deref(), Some(NAMESPACE));
    let agent: DaemonSet = only(&documents);
    assert_eq!(agent.metadata.namespace.as_deref(), Some(NAMESPACE));
    let pod = daemonset::pod(&agent);
    assert_eq!(pod.service_account_name.as_deref(), Some(ACCOUNT));
    let policy: ValidatingAdmissionPolicy = only(&documents);
    let conditions = policy.spec.and_then(|spec| spec.match_conditions);
    let conditions = conditions.expect("conditions");
    let [condition] = conditions.as_slice() else {
        panic!("{conditions:?}");
    };
    assert_eq!(
        condition.expression,
        format!("request.userInfo.username == 'system:serviceaccount:{NAMESPACE}:{ACCOUNT}'")
    );
}

#[test]
fn only_the_pod_of_the_agent_gets_a_token() {
    let documents = base();
    let account: ServiceAccount = only(&documents);
    assert_eq!(account.automount_service_account_token, Some(false));
    let agent: DaemonSet = only(&documents);
    let pod = daemonset::pod(&agent);
    assert_eq!(pod.automount_service_account_token, Some(true));
}

fn container_of(documents: &[serde_json::Value]) -> Container {
    daemonset::container(&only::<DaemonSet>(documents)).clone()
}

const OPTION: &str = "DISK_DISCOVERY_DEFAULT_DISKS";

#[test]
fn default_disks_add_one_right_and_switch_it_on() {
    let read = |file: &str| part(DEFAULT_DISKS, file);
    let role: ClusterRole = only(&read("clusterrole.yaml"));
    assert_eq!(role.aggregation_rule, None);
    assert_eq!(lines(role.rules), ["\"\" nodes: get patch"]);
    let bound: ClusterRoleBinding = only(&read("clusterrolebinding.yaml"));
    assert_eq!(
        (bound.role_ref.kind.as_str(), Some(bound.role_ref.name)),
        ("ClusterRole", role.metadata.name)
    );
    assert!(is_the_account(bound.subjects));
    let patch = &read("daemonset-patch.yaml")[0];
    let container = &patch["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], "disk-discovery");
    let env: Vec<EnvVar> = serde_json::from_value(container["env"].clone()).expect("variables");
    assert!(matches!(env.as_slice(), [one] if one.name == OPTION));
    assert!(daemonset::settings_of(&env).default_disks);
    let before = container_of(&base());
    assert!(!daemonset::settings_of(before.env.as_deref().expect("variables")).default_disks);
}

#[test]
fn default_disks_are_added_by_an_overlay() {
    let Some(built) = base_with(DEFAULT_DISKS) else {
        return;
    };
    assert_eq!(built.len(), base().len() + 2);
    let container = container_of(&built);
    let mut env = container.env.clone().expect("variables");
    let added = env
        .iter()
        .position(|variable| variable.name == OPTION)
        .expect("the option");
    assert_eq!(env.remove(added).value.as_deref(), Some("true"));
    let rest = Container {
        env: Some(env),
        ..container
    };
    assert_eq!(rest, container_of(&base()));
}
