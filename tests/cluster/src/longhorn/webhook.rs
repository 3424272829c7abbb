//! The rules as the API server of the tests meets them: two webhooks, which can
//! be unreachable.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use super::rules::{self, Settings};
use crate::admission::{Admission, Denied, Operation, Review};

/// Asked about changes.
pub const MUTATOR: &str = "mutator.longhorn.io";
/// Asked about what came of them.
pub const VALIDATOR: &str = "validator.longhorn.io";

/// Longhorn's admission webhook. It is asked about `nodes` of `longhorn.io`,
/// and not about their status.
#[derive(Debug, Default)]
pub struct Webhook {
    settings: Mutex<Settings>,
    down: AtomicBool,
}

impl Webhook {
    /// With these settings, and up.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings: Mutex::new(settings),
            down: AtomicBool::new(false),
        }
    }

    /// Changes the settings from now on.
    pub fn set(&self, settings: Settings) {
        *self.lock() = settings;
    }

    /// Whether nobody answers. longhorn-manager serves the webhook, so it is down
    /// when the manager is.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Settings> {
        // A number of settings cannot be left half written.
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `failurePolicy: Fail`: where nobody answers, nothing is written.
    fn reach(&self, webhook: &str, path: &str) -> Result<(), Denied> {
        if !self.down.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(Denied {
            code: 500,
            reason: "InternalError".to_owned(),
            message: format!(
                "Internal error occurred: failed calling webhook \"{webhook}\": failed to call \
                 webhook: Post \"https://longhorn-admission-webhook.longhorn-system.svc:9502{path}\
                 ?timeout=10s\": no endpoints available for service \"longhorn-admission-webhook\""
            ),
            causes: Vec::new(),
        })
    }
}

impl Admission for Webhook {
    fn mutate(&self, review: &Review<'_>, object: &mut Value) -> Result<(), Denied> {
        if !concerns(review) || review.operation == Operation::Delete {
            return Ok(());
        }
        self.reach(MUTATOR, "/v1/webhook/mutation")?;
        rules::mutate(object)
    }

    fn validate(&self, review: &Review<'_>) -> Result<(), Denied> {
        if !concerns(review) {
            return Ok(());
        }
        self.reach(VALIDATOR, "/v1/webhook/validation")?;
        let settings = *self.lock();
        judge(review.operation, review.old, review.object, settings).map_err(|denied| Denied {
            message: format!(
                "admission webhook \"{VALIDATOR}\" denied the request: {}",
                denied.message
            ),
            ..denied
        })
    }
}

/// The validator's answer.
///
/// # Errors
///
/// When the request is refused, in the webhook's own words.
pub fn judge(
    operation: Operation,
    old: Option<&Value>,
    new: Option<&Value>,
    settings: Settings,
) -> Result<(), Denied> {
    let nothing = json!({});
    let old = old.unwrap_or(&nothing);
    let new = new.unwrap_or(&nothing);
    match operation {
        Operation::Create => rules::validate_create(new, settings),
        Operation::Update => rules::validate_update(old, new, settings),
        Operation::Delete => rules::validate_delete(old),
    }
}

fn concerns(review: &Review<'_>) -> bool {
    review.group == "longhorn.io"
        && review.version == "v1beta2"
        && review.resource == "nodes"
        && review.subresource.is_empty()
}
