//! The agent against an API server.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on should say so and stop"
)]

mod ask;
mod server_kubectl;
mod server_moods;
mod server_objects;
mod server_rights;
mod server_watch;
