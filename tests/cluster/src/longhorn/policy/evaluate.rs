//! One request before one policy.

use std::{collections::HashMap, sync::Arc};

use cel::{Context, ExecutionError, Value as Cel};
use serde_json::{Value, json};

use super::parse::{Expression, Policy, Validation};
use crate::{admission::Review, longhorn::lenient::text};

/// Why a policy refuses.
#[derive(Debug)]
pub struct Denial {
    pub reason: String,
    pub message: String,
}

impl Denial {
    /// The code that belongs to the reason.
    pub fn code(&self) -> u16 {
        match self.reason.as_str() {
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        }
    }
}

impl Policy {
    /// The first of its validations that does not hold.
    pub fn judge(&self, review: &Review<'_>) -> Result<(), Denial> {
        if !self.concerns(review) {
            return Ok(());
        }
        let mut context = Context::with_env(Arc::clone(&self.env));
        context.add_variable_from_value("request", cel(&request(review)));
        for (name, object) in [("object", review.object), ("oldObject", review.old)] {
            context.add_variable_from_value(name, object.map_or(Cel::Null, cel));
        }
        if !self.is_met(&context)? {
            return Ok(());
        }
        let failed = self.add_variables(&mut context);
        self.validations
            .iter()
            .try_for_each(|validation| self.check(validation, &context, &failed))
    }

    /// All conditions; one that is false outweighs one that fails.
    fn is_met(&self, context: &Context<'_, '_>) -> Result<bool, Denial> {
        let mut failure = None;
        for condition in &self.conditions {
            match truth(condition, context) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        match failure {
            None => Ok(true),
            Some(message) if self.fails => Err(error(message)),
            Some(_) => Ok(false),
        }
    }

    /// A variable that fails is absent, so that whatever uses it fails, and
    /// nothing else: the API server evaluates variables only when they are used.
    fn add_variables(&self, context: &mut Context<'_, '_>) -> HashMap<&str, String> {
        let mut failed = HashMap::new();
        let mut variables: HashMap<String, Cel> = HashMap::new();
        context.add_variable_from_value("variables", variables.clone());
        for variable in &self.variables {
            match variable.program.execute(context) {
                Ok(value) => {
                    variables.insert(variable.name.clone(), value);
                    context.add_variable_from_value("variables", variables.clone());
                }
                Err(error) => {
                    failed.insert(variable.name.as_str(), explain(&error, &failed));
                }
            }
        }
        failed
    }

    fn check(
        &self,
        validation: &Validation,
        context: &Context<'_, '_>,
        failed: &HashMap<&str, String>,
    ) -> Result<(), Denial> {
        let expression = &validation.expression;
        let outcome = expression.program.execute(context);
        match outcome {
            Ok(Cel::Bool(true)) => Ok(()),
            Ok(_) => Err(Denial {
                reason: validation.reason.clone(),
                message: words(validation, context),
            }),
            Err(_) if !self.fails => Ok(()),
            Err(why) => Err(error(format!(
                "expression '{}' resulted in error: {}",
                expression.source,
                explain(&why, failed)
            ))),
        }
    }
}

fn error(message: String) -> Denial {
    Denial {
        reason: "Invalid".to_owned(),
        message,
    }
}

/// A key that is missing in `variables` is missing because it failed.
fn explain(error: &ExecutionError, failed: &HashMap<&str, String>) -> String {
    if let ExecutionError::NoSuchKey(key) = error
        && let Some(why) = failed.get(key.as_str())
    {
        return format!("composited variable \"{key}\" fails to evaluate: {why}");
    }
    error.to_string()
}

fn truth(expression: &Expression, context: &Context<'_, '_>) -> Result<bool, String> {
    let failed = |why: String| {
        format!(
            "expression '{}' resulted in error: {why}",
            expression.source
        )
    };
    match expression.program.execute(context) {
        Ok(Cel::Bool(truth)) => Ok(truth),
        Ok(other) => Err(failed(format!("{other:?} is no bool"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// The expression's text where it has one of one line, else the message, else
/// the expression itself.
fn words(validation: &Validation, context: &Context<'_, '_>) -> String {
    if let Some(says) = &validation.says
        && let Ok(Cel::String(said)) = says.execute(context)
        && !said.trim().is_empty()
        && !said.trim().contains('\n')
    {
        return said.trim().to_owned();
    }
    if validation.message.is_empty() {
        return format!("failed expression: {}", validation.expression.source);
    }
    validation.message.clone()
}

/// `AdmissionRequest`, without what is empty in it.
fn request(review: &Review<'_>) -> Value {
    let kind = review
        .object
        .or(review.old)
        .map_or("", |object| text(object, "/kind"));
    let kind = json!({"group": review.group, "version": review.version, "kind": kind});
    let resource =
        json!({"group": review.group, "version": review.version, "resource": review.resource});
    let mut user = json!({});
    for (key, value) in [
        ("username", json!(review.user.username)),
        ("uid", json!(review.user.uid)),
        ("groups", json!(review.user.groups)),
        ("extra", json!(review.user.extra)),
    ] {
        add(&mut user, key, value);
    }
    let mut request = json!({
        "uid": "", "kind": kind, "requestKind": kind, "resource": resource,
        "requestResource": resource, "operation": review.operation.name(), "userInfo": user,
        "dryRun": false,
    });
    for (key, value) in [
        ("name", review.name),
        ("namespace", review.namespace),
        ("subResource", review.subresource),
        ("requestSubResource", review.subresource),
    ] {
        add(&mut request, key, json!(value));
    }
    request
}

fn add(to: &mut Value, key: &str, value: Value) {
    if value != json!("") && value != json!([]) && value != json!({}) {
        to[key] = value;
    }
}

/// JSON as Kubernetes hands it to CEL: whole numbers are `int`.
fn cel(json: &Value) -> Cel {
    match json {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(*truth),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(whole), _, _) => Cel::Int(whole),
            (None, Some(large), _) => Cel::UInt(large),
            (None, None, broken) => Cel::Float(broken.unwrap_or(f64::NAN)),
        },
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(list) => Cel::from(list.iter().map(cel).collect::<Vec<_>>()),
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| (key.clone(), cel(value)));
            Cel::from(entries.collect::<HashMap<_, _>>())
        }
    }
}
