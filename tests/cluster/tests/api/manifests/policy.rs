//! The admission policy as a text. What it lets through is tested where
//! requests are.

use std::collections::BTreeSet;

use cel::{Env, Program};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingAdmissionPolicySpec,
};

use super::{base, only};

fn policy() -> ValidatingAdmissionPolicySpec {
    let policy: ValidatingAdmissionPolicy = only(&base());
    policy.spec.expect("a spec")
}

fn program(expression: &str) -> Program {
    // This environment knows optional types, the bare parser does not.
    let program = Env::stdlib().compile(expression);
    program.unwrap_or_else(|error| panic!("{error}\n{expression}"))
}

/// `variables.x` for each x.
fn variables_in(expression: &str) -> BTreeSet<&str> {
    let parts = expression.split("variables.").skip(1);
    let names = parts.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric());
        rest.get(..end.unwrap_or(rest.len())).expect("a name")
    });
    names.collect()
}

#[test]
fn every_expression_is_cel_and_uses_only_what_is_there() {
    let policy = policy();
    let mut known = BTreeSet::new();
    let mut used = BTreeSet::new();
    let check = |expression: &str, known: &BTreeSet<String>| {
        let program = program(expression);
        for name in program.references().variables() {
            let given = ["request", "object", "oldObject", "variables"].contains(&name);
            let bound = ["name", "one", "tag", "key", "path"].contains(&name);
            assert!(given || bound || name.starts_with('@'), "{name}");
        }
        for name in variables_in(expression) {
            assert!(
                known.contains(name),
                "{name} is not set before {expression}"
            );
        }
    };
    for condition in policy.match_conditions.expect("conditions") {
        check(&condition.expression, &known);
    }
    for variable in policy.variables.expect("variables") {
        check(&variable.expression, &known);
        used.extend(
            variables_in(&variable.expression)
                .into_iter()
                .map(str::to_owned),
        );
        assert!(
            known.insert(variable.name.clone()),
            "{} twice",
            variable.name
        );
    }
    for validation in policy.validations.expect("validations") {
        check(&validation.expression, &known);
        used.extend(
            variables_in(&validation.expression)
                .into_iter()
                .map(str::to_owned),
        );
        if let Some(message) = &validation.message_expression {
            check(message, &known);
        }
        // The API server takes no message of several lines.
        let message = validation.message.as_deref().unwrap_or_default();
        assert!(!message.contains('\n'), "{message}");
        assert!(!message.is_empty() || validation.message_expression.is_some());
    }
    assert_eq!(known, used, "variables that nobody uses");
}

#[test]
fn every_write_that_the_agent_may_attempt_is_looked_at() {
    let policy = policy();
    assert_eq!(policy.failure_policy.as_deref(), Some("Fail"));
    let constraints = policy.match_constraints.expect("constraints");
    assert_eq!(constraints.exclude_resource_rules, None);
    assert_eq!(constraints.namespace_selector, None);
    assert_eq!(constraints.object_selector, None);
    let rules = constraints.resource_rules.expect("rules");
    let rules = rules.into_iter().map(|rule| {
        assert_eq!(rule.resource_names, None);
        assert_eq!(rule.api_versions.as_deref(), Some(&["*".to_owned()][..]));
        format!(
            "{:?} {}: {}",
            rule.api_groups.expect("groups").join(","),
            rule.resources.expect("resources").join(","),
            rule.operations.expect("operations").join(" ")
        )
    });
    assert_eq!(
        rules.collect::<Vec<_>>(),
        [
            "\"longhorn.io\" nodes,nodes/status: CREATE UPDATE DELETE",
            "\"\" nodes,nodes/status: CREATE UPDATE DELETE",
            "\"events.k8s.io\" events: CREATE UPDATE",
        ]
    );
}

#[test]
fn what_the_policy_refuses_is_denied_everywhere() {
    let documents = base();
    let policy: ValidatingAdmissionPolicy = only(&documents);
    let binding: ValidatingAdmissionPolicyBinding = only(&documents);
    let binding = binding.spec;
    assert_eq!(Some(binding.policy_name), policy.metadata.name);
    assert_eq!(binding.validation_actions, ["Deny"]);
    assert_eq!(binding.match_resources, None);
    assert_eq!(binding.param_ref, None);
}
