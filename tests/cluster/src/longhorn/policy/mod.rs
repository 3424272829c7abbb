//! `ValidatingAdmissionPolicy` and its binding, evaluated as the API server
//! does it, with the `cel` crate in place of Google's library.
//!
//! The crate knows what policies for Longhorn Nodes need: `has`, `in`, `all`,
//! `exists`, `filter`, `map`, the conditional, string functions, and optional
//! types (`.?field`, `[?key]`, `orValue`). It has no type checker, no cost
//! limits, no regular expressions, and none of the libraries that Kubernetes
//! adds. What a policy asks for beyond that is refused when it is read, or is an
//! error in its expression, which `failurePolicy` decides; nothing is ignored.
//!
//! `request` has, as on a real server, no field that would be empty:
//! `request.subResource` without a subresource is an error, and so is
//! `request.userInfo.extra` of a token without claims.

mod evaluate;
mod parse;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;

use self::parse::{Binding, Policy};
use super::lenient::text;
use crate::admission::{Admission, Denied, Operation, Review};

const GROUP: &str = "admissionregistration.k8s.io";

/// The policies of a cluster.
///
/// They are given, or hear of policies and bindings that are written through
/// the server they are asked by; both take effect at once.
#[derive(Default)]
pub struct Policies {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    policies: Vec<Policy>,
    bindings: Vec<Binding>,
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.lock();
        let names = known.policies.iter().map(|policy| policy.name.as_str());
        f.debug_list().entries(names).finish()
    }
}

impl Policies {
    /// Policies and bindings from a manifest; other documents in it are left
    /// out.
    ///
    /// # Errors
    ///
    /// When it is no YAML, or asks for what is not known here.
    pub fn from_yaml(manifest: &str) -> anyhow::Result<Self> {
        Self::new(&serde_saphyr::from_multiple::<Value>(manifest)?)
    }

    /// Policies and bindings among these objects.
    ///
    /// # Errors
    ///
    /// When one asks for what is not known here.
    pub fn new(objects: &[Value]) -> anyhow::Result<Self> {
        let policies = Self::default();
        for object in objects {
            policies.put(object)?;
        }
        Ok(policies)
    }

    /// Adds a policy or a binding, or replaces the one of its name.
    ///
    /// # Errors
    ///
    /// When it asks for what is not known here.
    pub fn put(&self, object: &Value) -> anyhow::Result<()> {
        match text(object, "/kind") {
            "ValidatingAdmissionPolicy" => {
                let policy = Policy::parse(object)?;
                let mut known = self.lock();
                known.policies.retain(|other| other.name != policy.name);
                known.policies.push(policy);
            }
            "ValidatingAdmissionPolicyBinding" => {
                let binding = Binding::parse(object)?;
                let mut known = self.lock();
                known.bindings.retain(|other| other.name != binding.name);
                known.bindings.push(binding);
            }
            _ => {}
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // A list is changed as a whole or not at all.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, review: &Review<'_>) -> Result<(), Denied> {
        if review.operation == Operation::Delete {
            let mut known = self.lock();
            match review.resource {
                "validatingadmissionpolicies" => {
                    known.policies.retain(|policy| policy.name != review.name);
                }
                "validatingadmissionpolicybindings" => {
                    known.bindings.retain(|binding| binding.name != review.name);
                }
                _ => {}
            }
            return Ok(());
        }
        let put = review.object.map_or(Ok(()), |object| self.put(object));
        put.map_err(|error| Denied {
            code: 422,
            reason: "Invalid".to_owned(),
            message: format!(
                "{}.{GROUP} \"{}\" is invalid: {error:#}",
                review.resource, review.name
            ),
            causes: Vec::new(),
        })
    }
}

impl Admission for Policies {
    fn mutate(&self, _: &Review<'_>, _: &mut Value) -> Result<(), Denied> {
        Ok(())
    }

    fn validate(&self, review: &Review<'_>) -> Result<(), Denied> {
        if review.group == GROUP {
            return self.learn(review);
        }
        let known = self.lock();
        for binding in known.bindings.iter().filter(|binding| binding.denies) {
            let named = |policy: &&Policy| policy.name == binding.policy;
            if let Some(policy) = known.policies.iter().find(named) {
                policy.judge(review).map_err(|denial| Denied {
                    code: denial.code(),
                    message: format!(
                        "{} is forbidden: ValidatingAdmissionPolicy '{}' with binding '{}' denied \
                         request: {}",
                        named_object(review),
                        policy.name,
                        binding.name,
                        denial.message
                    ),
                    causes: vec![crate::admission::Cause {
                        reason: String::new(),
                        message: denial.message.clone(),
                        field: String::new(),
                    }],
                    reason: denial.reason,
                })?;
            }
        }
        Ok(())
    }
}

fn named_object(review: &Review<'_>) -> String {
    let resource = match review.group {
        "" => review.resource.to_owned(),
        group => format!("{}.{group}", review.resource),
    };
    match review.name {
        "" => resource,
        name => format!("{resource} \"{name}\""),
    }
}
