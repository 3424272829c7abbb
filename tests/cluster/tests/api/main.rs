//! The agent against an API server, and what a cluster is given to run it.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on should say so and stop"
)]

mod agent_costs;
mod agent_default_disks;
mod agent_doubles;
mod agent_endures;
mod agent_preserves;
mod agent_registers;
mod agent_releases;
mod agent_storm;
mod agent_token_file;
mod ask;
mod cluster;
mod longhorn_manager;
mod longhorn_policy;
mod longhorn_webhook;
mod manifests;
mod real;
mod server_kubectl;
mod server_moods;
mod server_objects;
mod server_program;
mod server_rights;
mod server_watch;
