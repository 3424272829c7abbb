//! What is understood of a policy.

use cluster_fixtures::{
    admission::{Admission, Denied, Operation, Review},
    longhorn::Policies,
};
use serde_json::{Value, json};

use super::{Call, longhorn, update, user};

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
        "object.metadata.?ownerReferences.orValue([]) == []",
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
