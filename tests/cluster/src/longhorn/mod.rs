//! Longhorn, as far as the agent meets it: what its webhook allows
//! ([`rules`], [`webhook`], [`webhook_server`]), and what its manager does with
//! disks.
//!
//! Rules, texts and orders are those of Longhorn 1.12.1; the functions of
//! longhorn-manager that they were read from are named where they are used.

#![allow(
    clippy::indexing_slicing,
    reason = "an index into a JSON object makes what is missing"
)]

mod lenient;
pub mod manager;
pub mod names;
mod policy;
pub mod rules;
pub mod webhook;
pub mod webhook_server;

pub use manager::Manager;
pub use policy::Policies;
pub use webhook::Webhook;
pub use webhook_server::WebhookServer;
