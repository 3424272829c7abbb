//! Where an API server asks others before it stores an object: the seam
//! between the server and the webhooks and policies of the tests.
//!
//! The order is the API server's own. All mutations come first, one after the
//! other on one object, then everything that validates sees the outcome.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;

/// Who makes a request, as `request.userInfo` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// `system:serviceaccount:<namespace>:<account>` for a ServiceAccount.
    pub username: String,
    /// Of the account; empty where there is none.
    pub uid: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// Claims of the token, such as `authentication.kubernetes.io/node-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request does to an object. A patch is an update, unless it creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// There was no such object.
    Create,
    /// There is one.
    Update,
    /// It is to go.
    Delete,
}

impl Operation {
    /// As `request.operation` and the rules of webhooks spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One request, just before its object is stored.
#[derive(Debug, Clone, Copy)]
pub struct Review<'a> {
    /// What it does.
    pub operation: Operation,
    /// API group; empty for the core.
    pub group: &'a str,
    /// Version of the API.
    pub version: &'a str,
    /// Plural name, without the subresource.
    pub resource: &'a str,
    /// `status` and the like; empty for the object itself.
    pub subresource: &'a str,
    /// Empty for what has none.
    pub namespace: &'a str,
    /// Of the object; empty where the server is to choose one.
    pub name: &'a str,
    /// What is stored; none for a creation.
    pub old: Option<&'a Value>,
    /// What is to be stored; none for a deletion.
    ///
    /// While objects are mutated this is what the request asked for, and the
    /// object handed over beside it is what became of it.
    pub object: Option<&'a Value>,
    /// Who asks.
    pub user: &'a UserInfo,
}

/// Why a request is not let through; becomes the `Status` of the answer as it
/// is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// HTTP code.
    pub code: u16,
    /// `Invalid`, `Forbidden`, `InternalError`.
    pub reason: String,
    /// The whole sentence, with the name of the webhook that speaks.
    pub message: String,
    /// For `details.causes`.
    pub causes: Vec<Cause>,
}

/// One of `details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `reason`, such as `FieldValueInvalid`; empty where there is none.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Path of the field, such as `spec.disks`; empty where there is none.
    pub field: String,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.reason, self.message)
    }
}

impl std::error::Error for Denied {}

/// What is asked before an object is stored.
pub trait Admission: Send + Sync {
    /// May change the object that is to be stored.
    ///
    /// # Errors
    ///
    /// When the request is refused.
    fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Denied>;

    /// May refuse what is to be stored or deleted.
    ///
    /// # Errors
    ///
    /// When the request is refused.
    fn validate(&self, review: &Review<'_>) -> Result<(), Denied>;
}

/// Several, asked in their order.
#[derive(Clone, Default)]
pub struct Chain(pub Vec<Arc<dyn Admission>>);

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain of {}", self.0.len())
    }
}

impl Admission for Chain {
    fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Denied> {
        self.0.iter().try_for_each(|one| one.mutate(review, object))
    }

    fn validate(&self, review: &Review<'_>) -> Result<(), Denied> {
        self.0.iter().try_for_each(|one| one.validate(review))
    }
}
