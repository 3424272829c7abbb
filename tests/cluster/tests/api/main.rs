//! The agent against an API server, and what a cluster is given to run it.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say so and stop"
)]

mod ask;
mod longhorn_policy;
mod longhorn_webhook;
mod manifests;
mod server_objects;
mod server_watch;
