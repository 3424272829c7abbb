//! Policies and bindings as they are written.

use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use cel::{Env, Program};
use serde_json::Value;

use crate::{
    admission::Review,
    longhorn::lenient::{map, text, texts},
};

/// Fields of a policy's `spec` that are known here.
const SPEC: [&str; 6] = [
    "failurePolicy",
    "matchConstraints",
    "matchConditions",
    "variables",
    "validations",
    "auditAnnotations",
];
const CONSTRAINTS: [&str; 3] = ["resourceRules", "excludeResourceRules", "matchPolicy"];
const BINDING: [&str; 2] = ["policyName", "validationActions"];

/// A policy with its expressions compiled.
pub struct Policy {
    pub name: String,
    pub env: Arc<Env>,
    /// Whether an error in an expression denies.
    pub fails: bool,
    pub rules: Vec<Rule>,
    pub excluded: Vec<Rule>,
    pub conditions: Vec<Expression>,
    /// In their order: each may use those before it.
    pub variables: Vec<Expression>,
    pub validations: Vec<Validation>,
}

/// A named expression.
pub struct Expression {
    pub name: String,
    pub source: String,
    pub program: Program,
}

pub struct Validation {
    pub expression: Expression,
    pub message: String,
    pub says: Option<Program>,
    /// Of the `Status`; `Invalid` where it is not given.
    pub reason: String,
}

/// What a policy is about.
pub struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    operations: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
}

/// A binding of a policy to the whole cluster.
pub struct Binding {
    pub name: String,
    pub policy: String,
    /// `Deny` is among its actions; what only warns or is written to the log of
    /// the server has no effect here.
    pub denies: bool,
}

impl Policy {
    pub fn parse(object: &Value) -> anyhow::Result<Self> {
        let name = text(object, "/metadata/name").to_owned();
        Self::parse_spec(name.clone(), object).with_context(|| format!("policy {name:?}"))
    }

    fn parse_spec(name: String, object: &Value) -> anyhow::Result<Self> {
        only_known(object, "/spec", &SPEC)?;
        only_known(object, "/spec/matchConstraints", &CONSTRAINTS)?;
        let mut env = Env::stdlib();
        env.add_extension(cel::extensions::strings)
            .map_err(|error| anyhow!("{error}"))?;
        let expressions = |pointer: &str| -> anyhow::Result<Vec<Expression>> {
            let compile = |one| Expression::compile(&env, text(one, "/name"), one);
            list(object, pointer).iter().map(compile).collect()
        };
        let rules = |pointer: &str| -> Vec<Rule> {
            list(object, pointer).iter().map(Rule::parse).collect()
        };
        let validations = list(object, "/spec/validations").iter();
        let policy = Self {
            name,
            fails: match text(object, "/spec/failurePolicy") {
                "" | "Fail" => true,
                "Ignore" => false,
                other => anyhow::bail!("failurePolicy {other:?}"),
            },
            rules: rules("/spec/matchConstraints/resourceRules"),
            excluded: rules("/spec/matchConstraints/excludeResourceRules"),
            conditions: expressions("/spec/matchConditions")?,
            variables: expressions("/spec/variables")?,
            validations: validations
                .map(|one| Validation::parse(&env, one))
                .collect::<anyhow::Result<_>>()?,
            env: Arc::new(env),
        };
        ensure!(
            !policy.rules.is_empty(),
            "no matchConstraints.resourceRules"
        );
        ensure!(!policy.validations.is_empty(), "no validations");
        Ok(policy)
    }

    /// Whether a request is this policy's business, before its conditions.
    pub fn concerns(&self, review: &Review<'_>) -> bool {
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.matches(review));
        any(&self.rules) && !any(&self.excluded)
    }
}

impl Expression {
    fn compile(env: &Env, name: &str, of: &Value) -> anyhow::Result<Self> {
        let source = text(of, "/expression").trim().to_owned();
        ensure!(!source.is_empty(), "{of} has no expression");
        let program = compile(env, &source)?;
        Ok(Self {
            name: name.to_owned(),
            source,
            program,
        })
    }
}

impl Validation {
    fn parse(env: &Env, of: &Value) -> anyhow::Result<Self> {
        let says = match text(of, "/messageExpression") {
            "" => None,
            source => Some(compile(env, source)?),
        };
        Ok(Self {
            expression: Expression::compile(env, "", of)?,
            message: text(of, "/message").trim().to_owned(),
            says,
            reason: match text(of, "/reason") {
                "" => "Invalid".to_owned(),
                reason => reason.to_owned(),
            },
        })
    }
}

impl Rule {
    fn parse(of: &Value) -> Self {
        let all = |pointer| {
            let texts = texts(of, pointer).unwrap_or_default();
            texts.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        Self {
            groups: all("/apiGroups"),
            versions: all("/apiVersions"),
            operations: all("/operations"),
            resources: all("/resources"),
            names: all("/resourceNames"),
        }
    }

    fn matches(&self, review: &Review<'_>) -> bool {
        let among = |list: &[String], one: &str| list.iter().any(|it| it == "*" || it == one);
        among(&self.groups, review.group)
            && among(&self.versions, review.version)
            && among(&self.operations, review.operation.name())
            && self.resources.iter().any(|it| is_resource(it, review))
            && (self.names.is_empty() || self.names.iter().any(|name| name == review.name))
    }
}

impl Binding {
    pub fn parse(object: &Value) -> anyhow::Result<Self> {
        let name = text(object, "/metadata/name").to_owned();
        only_known(object, "/spec", &BINDING).with_context(|| format!("binding {name:?}"))?;
        let actions = texts(object, "/spec/validationActions").unwrap_or_default();
        Ok(Self {
            name,
            policy: text(object, "/spec/policyName").to_owned(),
            denies: actions.contains(&"Deny"),
        })
    }
}

/// `*` is every resource without its subresources, `*/*` both.
fn is_resource(pattern: &str, review: &Review<'_>) -> bool {
    let (resource, subresource) = pattern.split_once('/').unwrap_or((pattern, ""));
    (resource == "*" || resource == review.resource)
        && (subresource == "*" || subresource == review.subresource)
}

fn compile(env: &Env, source: &str) -> anyhow::Result<Program> {
    env.compile(source)
        .map_err(|error| anyhow!("{source}: {error}"))
}

fn list<'a>(of: &'a Value, pointer: &str) -> &'a [Value] {
    let list = of.pointer(pointer).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// What is not known must not be passed over: a policy without its selector, or
/// without its parameters, is another policy.
fn only_known(of: &Value, pointer: &str, known: &[&str]) -> anyhow::Result<()> {
    let mut keys = map(of, pointer).into_iter().flatten().map(|(key, _)| key);
    match keys.find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(anyhow!("{pointer}/{key} is not known here")),
    }
}
