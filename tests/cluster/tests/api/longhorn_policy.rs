//! Admission policies: what is understood of them, and what the agent's own one
//! lets through.

use std::collections::BTreeMap;

use cluster_fixtures::{
    admission::{Admission, Denied, Operation, Review, UserInfo},
    longhorn::Policies,
};
use serde_json::{Value, json};

/// What a cluster is given.
const OWN_NODE: &str =
    include_str!("../../../../deploy/infrastructure/storage/admission-policy.yaml");
const AGENT: &str = "system:serviceaccount:longhorn-system:disk-discovery";
const CLAIM: &str = "authentication.kubernetes.io/node-name";

fn user(name: &str, node: Option<&str>) -> UserInfo {
    let extra = node.map(|node| (CLAIM.to_owned(), vec![node.to_owned()]));
    UserInfo {
        username: name.to_owned(),
        groups: vec!["system:authenticated".to_owned()],
        extra: extra.into_iter().collect(),
        ..UserInfo::default()
    }
}

/// One request: what it is about, before and after.
#[derive(Clone)]
struct Call {
    operation: Operation,
    resource: (&'static str, &'static str, &'static str),
    namespace: &'static str,
    name: &'static str,
    old: Option<Value>,
    new: Option<Value>,
}

impl Call {
    fn by(&self, policies: &Policies, user: &UserInfo) -> Result<(), Denied> {
        let (group, resource, subresource) = self.resource;
        policies.validate(&Review {
            operation: self.operation,
            group,
            version: if group.is_empty() { "v1" } else { "v1beta2" },
            resource,
            subresource,
            namespace: self.namespace,
            name: self.name,
            old: self.old.as_ref(),
            object: self.new.as_ref(),
            user,
        })
    }
}

fn longhorn() -> Value {
    json!({
        "apiVersion": "longhorn.io/v1beta2", "kind": "Node",
        "metadata": {
            "name": "k3s1", "namespace": "longhorn-system", "finalizers": ["longhorn.io"],
            "labels": {"a": "b"},
        },
        "spec": {
            "name": "k3s1", "allowScheduling": true, "evictionRequested": false,
            "tags": ["fast"], "instanceManagerCPURequest": 0,
            "disks": {
                "default": {
                    "path": "/var/lib/longhorn/", "diskType": "filesystem",
                    "allowScheduling": true, "evictionRequested": false,
                    "storageReserved": 5, "tags": [],
                },
                "sdb1": disk("/mnt/longhorn/sdb1"),
            },
        },
    })
}

fn disk(path: &str) -> Value {
    json!({
        "path": path, "diskType": "filesystem", "diskDriver": "", "allowScheduling": true,
        "evictionRequested": false, "storageReserved": 0, "tags": ["ssd"],
    })
}

fn update(old: Value, new: Value) -> Call {
    Call {
        operation: Operation::Update,
        resource: ("longhorn.io", "nodes", ""),
        namespace: "longhorn-system",
        name: "k3s1",
        old: Some(old),
        new: Some(new),
    }
}

/// The Longhorn Node with one value set, or removed where there is none.
fn changed(pointer: &str, value: Option<Value>) -> Call {
    update(longhorn(), edited(longhorn(), pointer, value))
}

fn edited(mut object: Value, pointer: &str, value: Option<Value>) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(parent.insert(key, value)),
        None => assert!(parent.remove(&key).is_some(), "{pointer}"),
    }
    object
}

fn kubernetes() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "k3s1", "labels": {"x": "y"}, "annotations": {"theirs": "1"}},
        "spec": {"podCIDR": "10.42.0.0/24"},
    })
}

fn core(pointer: &str, value: Option<Value>) -> Call {
    Call {
        resource: ("", "nodes", ""),
        namespace: "",
        ..update(kubernetes(), edited(kubernetes(), pointer, value))
    }
}

fn event(regarding: &str) -> Call {
    Call {
        operation: Operation::Create,
        resource: ("events.k8s.io", "events", ""),
        namespace: "longhorn-system",
        name: "k3s1.1234",
        old: None,
        new: Some(json!({
            "kind": "Event", "metadata": {"name": "k3s1.1234"},
            "regarding": {"kind": "Node", "name": regarding},
        })),
    }
}

#[test]
fn the_agent_may_do_its_work_on_its_own_node() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let agent = user(AGENT, Some("k3s1"));
    let added = edited(
        longhorn(),
        "/spec/disks/sdc1",
        Some(disk("/mnt/longhorn/sdc1")),
    );
    let bare = edited(longhorn(), "/spec/disks/old", Some(json!({"path": "/old"})));
    let completed = edited(
        bare.clone(),
        "/spec/disks/old",
        Some(json!({"path": "/old", "diskType": "filesystem", "tags": []})),
    );
    let no_finalizer = edited(longhorn(), "/metadata/finalizers", None);
    let no_labels = edited(longhorn(), "/metadata/labels", None);
    let no_disks = edited(longhorn(), "/spec/disks", None);
    let first = edited(
        longhorn(),
        "/spec/disks",
        Some(json!({"sdb1": disk("/mnt/longhorn/sdb1")})),
    );
    for (what, call) in [
        ("nothing", update(longhorn(), longhorn())),
        ("adds a disk", update(longhorn(), added.clone())),
        ("removes a disk", update(added, longhorn())),
        ("adds the first disk", update(no_disks, first)),
        (
            "annotates",
            changed(
                "/metadata/annotations",
                Some(json!({"node.longhorn.io/paths": "/mnt/longhorn/sdb1"})),
            ),
        ),
        (
            "stops scheduling",
            changed("/spec/disks/sdb1/allowScheduling", Some(json!(false))),
        ),
        (
            "evicts",
            changed("/spec/disks/sdb1/evictionRequested", Some(json!(true))),
        ),
        ("what the mutator completes", update(bare, completed)),
        ("the mutator's finalizer", update(no_finalizer, longhorn())),
        (
            "a node without labels",
            update(no_labels.clone(), no_labels),
        ),
        (
            "its annotation of the Kubernetes Node",
            core(
                "/metadata/annotations/node.longhorn.io~1default-disks-config",
                Some(json!("[]")),
            ),
        ),
        ("an event", event("k3s1")),
    ] {
        if let Err(denied) = call.by(&policies, &agent) {
            panic!("{what}: {denied}");
        }
    }
}

#[test]
fn the_agent_may_do_nothing_else() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let agent = user(AGENT, Some("k3s1"));
    let outside = |path| Some(disk(path));
    let create = Call {
        operation: Operation::Create,
        old: None,
        ..update(longhorn(), longhorn())
    };
    let delete = Call {
        operation: Operation::Delete,
        new: None,
        ..update(longhorn(), longhorn())
    };
    let status = Call {
        resource: ("longhorn.io", "nodes", "status"),
        ..update(longhorn(), longhorn())
    };
    let core_status = Call {
        resource: ("", "nodes", "status"),
        namespace: "",
        ..update(kubernetes(), kubernetes())
    };
    let pod_event = Call {
        new: Some(json!({"kind": "Event", "regarding": {"kind": "Pod", "name": "k3s1"}})),
        ..event("k3s1")
    };
    let no_subject = Call {
        new: Some(json!({"kind": "Event"})),
        ..event("k3s1")
    };
    for (what, call) in [
        ("creates", create),
        ("deletes", delete),
        ("writes the status", status),
        ("writes the status of the Kubernetes Node", core_status),
        ("renames", changed("/spec/name", Some(json!("k3s2")))),
        ("forgets the name", changed("/spec/name", None)),
        (
            "stops the node",
            changed("/spec/allowScheduling", Some(json!(false))),
        ),
        (
            "evicts the node",
            changed("/spec/evictionRequested", Some(json!(true))),
        ),
        (
            "tags the node",
            changed("/spec/tags", Some(json!(["fast", "mine"]))),
        ),
        ("untags the node", changed("/spec/tags", Some(json!([])))),
        (
            "takes CPUs",
            changed("/spec/instanceManagerCPURequest", Some(json!(1))),
        ),
        ("labels", changed("/metadata/labels/c", Some(json!("d")))),
        ("unlabels", changed("/metadata/labels", None)),
        ("lets go", changed("/metadata/finalizers", Some(json!([])))),
        (
            "holds",
            changed("/metadata/finalizers", Some(json!(["longhorn.io", "mine"]))),
        ),
        (
            "owns",
            changed("/metadata/ownerReferences", Some(json!([{"name": "x"}]))),
        ),
        (
            "adds a disk elsewhere",
            changed("/spec/disks/x", outside("/var/lib/x")),
        ),
        (
            "adds the root",
            changed("/spec/disks/x", outside("/mnt/longhorn/")),
        ),
        (
            "adds what looks alike",
            changed("/spec/disks/x", outside("/mnt/longhornx/a")),
        ),
        (
            "climbs",
            changed("/spec/disks/x", outside("/mnt/longhorn/../x")),
        ),
        (
            "adds the root twice",
            changed("/spec/disks/x", outside("/mnt/longhorn//")),
        ),
        ("adds nothing", changed("/spec/disks/x", Some(json!({})))),
        (
            "removes a disk elsewhere",
            changed("/spec/disks/default", None),
        ),
        (
            "moves a disk",
            changed("/spec/disks/sdb1/path", Some(json!("/mnt/longhorn/sdc1"))),
        ),
        (
            "takes a disk from elsewhere",
            changed(
                "/spec/disks/default/path",
                Some(json!("/mnt/longhorn/sdc1")),
            ),
        ),
        (
            "changes the type",
            changed("/spec/disks/sdb1/diskType", Some(json!("block"))),
        ),
        (
            "stops a disk elsewhere",
            changed("/spec/disks/default/allowScheduling", Some(json!(false))),
        ),
        (
            "evicts a disk elsewhere",
            changed("/spec/disks/default/evictionRequested", Some(json!(true))),
        ),
        (
            "reserves elsewhere",
            changed("/spec/disks/default/storageReserved", Some(json!(6))),
        ),
        (
            "tags a disk elsewhere",
            changed("/spec/disks/default/tags", Some(json!(["x"]))),
        ),
        (
            "annotates the Kubernetes Node otherwise",
            core("/metadata/annotations/mine", Some(json!("1"))),
        ),
        (
            "drops an annotation of the Kubernetes Node",
            core("/metadata/annotations/theirs", None),
        ),
        (
            "labels the Kubernetes Node",
            core("/metadata/labels/storage", Some(json!("longhorn"))),
        ),
        (
            "taints the Kubernetes Node",
            core(
                "/spec/taints",
                Some(json!([{"key": "x", "effect": "NoExecute"}])),
            ),
        ),
        ("an event on a pod", pod_event),
        ("an event on nothing", no_subject),
    ] {
        let denied = call.by(&policies, &agent).expect_err(what);
        assert!(
            !denied.message.contains("resulted in error"),
            "{what}: {denied}"
        );
        assert_eq!(
            (denied.code, denied.reason.as_str()),
            (403, "Forbidden"),
            "{what}: {denied}"
        );
    }
}

#[test]
fn the_agent_of_another_node_may_do_nothing_and_says_which() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let annotation = core(
        "/metadata/annotations/node.longhorn.io~1default-disks-config",
        Some(json!("[]")),
    );
    for call in [update(longhorn(), longhorn()), annotation, event("k3s1")] {
        let other = user(AGENT, Some("k3s2"));
        let denied = call.by(&policies, &other).expect_err("another node");
        assert_eq!((denied.code, denied.reason.as_str()), (403, "Forbidden"));
        assert!(denied.message.contains("k3s2"), "{denied}");
        let unbound = user(AGENT, None);
        let denied = call.by(&policies, &unbound).expect_err("no node");
        assert_eq!((denied.code, denied.reason.as_str()), (403, "Forbidden"));
        assert!(denied.message.contains("names no node"), "{denied}");
    }
}

#[test]
fn nobody_else_is_held_by_it() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let call = changed("/spec/disks", Some(json!({})));
    for name in [
        "system:admin",
        "system:serviceaccount:longhorn-system:longhorn-service-account",
    ] {
        call.by(&policies, &user(name, None)).expect(name);
    }
}

/// A policy about Longhorn Nodes, bound, with this in its spec.
fn policies(spec: &Value) -> Policies {
    Policies::new(&[policy(spec), binding()]).expect("a policy")
}

fn policy(spec: &Value) -> Value {
    let mut whole = json!({
        "matchConstraints": {"resourceRules": [{
            "apiGroups": ["longhorn.io"], "apiVersions": ["*"], "operations": ["UPDATE"],
            "resources": ["nodes"],
        }]},
        "validations": [{"expression": "false"}],
    });
    let fields = spec.as_object().unwrap().clone();
    whole.as_object_mut().unwrap().extend(fields);
    json!({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "p"}, "spec": whole})
}

fn binding() -> Value {
    json!({
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "b"},
        "spec": {"policyName": "p", "validationActions": ["Deny"]},
    })
}

fn judge(spec: &Value) -> Result<(), Denied> {
    let somebody = user("somebody", Some("k3s1"));
    update(longhorn(), longhorn()).by(&policies(spec), &somebody)
}

fn holds(expression: &str) -> Result<(), Denied> {
    judge(&json!({"validations": [{"expression": expression}]}))
}

#[test]
fn a_denial_names_object_policy_and_binding() {
    let denied = judge(&json!({"validations": [{"expression": "false", "message": "no"}]}));
    let denied = denied.expect_err("denied");
    assert_eq!(
        denied.message,
        "nodes.longhorn.io \"k3s1\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' \
         denied request: no"
    );
    assert_eq!((denied.code, denied.reason.as_str()), (422, "Invalid"));
}

#[test]
fn the_reason_of_a_validation_is_that_of_the_answer() {
    for (reason, code) in [("Forbidden", 403), ("Unauthorized", 401), ("Invalid", 422)] {
        let spec = json!({"validations": [{"expression": "false", "reason": reason}]});
        let denied = judge(&spec).expect_err(reason);
        assert_eq!((denied.code, denied.reason.as_str()), (code, reason));
    }
}

#[test]
fn a_message_is_an_expression_first_then_a_text_then_the_expression_itself() {
    for (validation, says) in [
        (
            json!({"messageExpression": "'not ' + request.name", "message": "no"}),
            ": not k3s1",
        ),
        (
            json!({"messageExpression": "object.nothing", "message": "no"}),
            ": no",
        ),
        (
            json!({"messageExpression": "'a\\nb'", "message": "no"}),
            ": no",
        ),
        (json!({}), ": failed expression: 1 > 2"),
    ] {
        let mut validation = validation;
        validation["expression"] = json!("1 > 2");
        let denied = judge(&json!({"validations": [validation]})).expect_err(says);
        assert!(denied.message.ends_with(says), "{denied}");
    }
}

#[test]
fn a_request_has_no_field_that_would_be_empty() {
    holds("!has(request.subResource) && request.operation == 'UPDATE'").expect("absent");
    let denied = holds("request.subResource == ''").expect_err("an error");
    assert!(denied.message.contains("resulted in error"), "{denied}");
    holds("request.resource.group == 'longhorn.io' && request.resource.resource == 'nodes'")
        .expect("the resource");
    holds("request.namespace == 'longhorn-system' && !request.dryRun").expect("the namespace");
    holds("request.kind.kind == 'Node'").expect("the kind");
}

#[test]
fn claims_are_read_with_optional_types_and_without() {
    for expression in [
        "request.userInfo.extra['authentication.kubernetes.io/node-name'][0] == 'k3s1'",
        "request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('') == 'k3s1'",
        "request.userInfo.?extra[?'authentication.kubernetes.io/other'][?0].orValue('-') == '-'",
        "object.metadata.?annotations.orValue({}) == {}",
        "'system:authenticated' in request.userInfo.groups",
    ] {
        holds(expression).expect(expression);
    }
}

#[test]
fn an_error_in_an_expression_is_for_the_failure_policy() {
    let validations = json!([{"expression": "object.spec.nothing == 1"}]);
    let denied = judge(&json!({"validations": validations})).expect_err("fails");
    assert!(denied.message.contains("resulted in error"), "{denied}");
    assert_eq!(denied.code, 422);
    judge(&json!({"validations": validations, "failurePolicy": "Ignore"})).expect("ignored");
}

#[test]
fn a_variable_that_fails_matters_only_where_it_is_used() {
    let variables = json!([
        {"name": "broken", "expression": "object.nothing"},
        {"name": "two", "expression": "1 + 1"},
        {"name": "four", "expression": "variables.two * 2"},
    ]);
    let judge = |expression: &str| {
        judge(&json!({"variables": variables, "validations": [{"expression": expression}]}))
    };
    judge("variables.four == 4 || variables.broken").expect("not used");
    let denied = judge("variables.broken == 1").expect_err("used");
    assert!(
        denied.message.contains("variable \"broken\" fails"),
        "{denied}"
    );
}

#[test]
fn conditions_say_whom_it_is_about() {
    let conditions = |expressions: &[&str]| {
        let conditions = expressions
            .iter()
            .map(|expression| json!({"name": "c", "expression": expression}))
            .collect::<Vec<_>>();
        judge(&json!({"matchConditions": conditions}))
    };
    conditions(&["request.userInfo.username == 'another'"]).expect("not about it");
    conditions(&["true", "true"]).expect_err("about it");
    conditions(&["object.nothing", "false"]).expect("false outweighs an error");
    let denied = conditions(&["true", "object.nothing"]).expect_err("an error");
    assert!(denied.message.contains("resulted in error"), "{denied}");
}

#[test]
fn rules_choose_groups_operations_resources_and_names() {
    let node = user("somebody", None);
    let call = update(longhorn(), longhorn());
    let status = Call {
        resource: ("longhorn.io", "nodes", "status"),
        ..call.clone()
    };
    let delete = Call {
        operation: Operation::Delete,
        new: None,
        ..call.clone()
    };
    let rule = |changes: Value| {
        let mut rule = json!({
            "apiGroups": ["longhorn.io"], "apiVersions": ["v1beta2"], "operations": ["UPDATE"],
            "resources": ["nodes"],
        });
        let changes = changes.as_object().unwrap().clone();
        rule.as_object_mut().unwrap().extend(changes);
        policies(&json!({"matchConstraints": {"resourceRules": [rule]}}))
    };
    for (changes, denied) in [
        (json!({}), [true, false, false]),
        (json!({"apiGroups": [""]}), [false, false, false]),
        (json!({"apiVersions": ["v1"]}), [false, false, false]),
        (json!({"operations": ["*"]}), [true, false, true]),
        (json!({"resources": ["nodes/status"]}), [false, true, false]),
        (json!({"resources": ["nodes/*"]}), [true, true, false]),
        (json!({"resources": ["*"]}), [true, false, false]),
        (json!({"resources": ["*/*"]}), [true, true, false]),
        (json!({"resourceNames": ["k3s2"]}), [false, false, false]),
    ] {
        let policies = rule(changes.clone());
        let calls = [&call, &status, &delete];
        let said = calls.map(|call| call.by(&policies, &node).is_err());
        assert_eq!(said, denied, "{changes}");
    }
}

#[test]
fn what_is_excluded_is_not_looked_at() {
    let mut excluding = policy(&json!({}));
    let constraints = &mut excluding["spec"]["matchConstraints"];
    constraints["excludeResourceRules"] = constraints["resourceRules"].clone();
    let policies = Policies::new(&[excluding, binding()]).expect("a policy");
    let call = update(longhorn(), longhorn());
    call.by(&policies, &user("somebody", None))
        .expect("excluded");
}

#[test]
fn nothing_is_denied_without_a_binding_that_denies() {
    let call = update(longhorn(), longhorn());
    let user = user("somebody", None);
    let alone = Policies::new(&[policy(&json!({}))]).expect("a policy");
    call.by(&alone, &user).expect("not bound");
    let mut warning = binding();
    warning["spec"]["validationActions"] = json!(["Warn", "Audit"]);
    let warned = Policies::new(&[policy(&json!({})), warning]).expect("a policy");
    call.by(&warned, &user).expect("only a warning");
}

#[test]
fn what_is_not_understood_is_refused_and_not_passed_over() {
    for spec in [
        json!({"paramKind": {"kind": "ConfigMap"}}),
        json!({"failurePolicy": "Perhaps"}),
        json!({"validations": []}),
        json!({"validations": [{"message": "no expression"}]}),
        json!({"validations": [{"expression": "1 +"}]}),
        json!({"matchConstraints": {}}),
    ] {
        Policies::new(&[policy(&spec)]).expect_err(&spec.to_string());
    }
    let mut selecting = policy(&json!({}));
    selecting["spec"]["matchConstraints"]["namespaceSelector"] = json!({});
    Policies::new(&[selecting]).expect_err("namespaceSelector");
    let mut selected = binding();
    selected["spec"]["matchResources"] = json!({});
    Policies::new(&[selected]).expect_err("matchResources");
}

#[test]
fn policies_written_through_the_server_take_effect() {
    let policies = Policies::default();
    let (admin, call) = (user("system:admin", None), update(longhorn(), longhorn()));
    let write = |operation, resource, name, object: Option<&Value>| {
        policies.validate(&Review {
            operation,
            group: "admissionregistration.k8s.io",
            version: "v1",
            resource,
            subresource: "",
            namespace: "",
            name,
            old: None,
            object,
            user: &admin,
        })
    };
    let (kind, bindings) = (
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
    );
    write(Operation::Create, kind, "p", Some(&policy(&json!({})))).expect("written");
    call.by(&policies, &admin).expect("not bound");
    write(Operation::Create, bindings, "b", Some(&binding())).expect("written");
    call.by(&policies, &admin).expect_err("bound");
    let broken = policy(&json!({"validations": [{"expression": "("}]}));
    let denied = write(Operation::Update, kind, "p", Some(&broken)).expect_err("broken");
    assert_eq!(denied.code, 422);
    call.by(&policies, &admin).expect_err("as it was");
    write(Operation::Delete, kind, "p", None).expect("deleted");
    call.by(&policies, &admin).expect("no policy");
}

#[test]
fn only_what_the_claim_holds_counts() {
    let policies = Policies::from_yaml(OWN_NODE).expect("the manifest");
    let mut agent = user(AGENT, None);
    agent.extra = BTreeMap::from([(
        "authentication.kubernetes.io/pod-name".to_owned(),
        vec!["k3s1".to_owned()],
    )]);
    let denied = update(longhorn(), longhorn()).by(&policies, &agent);
    denied.expect_err("another claim");
}
