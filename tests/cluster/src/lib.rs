//! A cluster for tests, without one: an API server, Longhorn's admission webhook
//! and the part of Longhorn's manager that looks after disks.

pub mod admission;
pub mod endpoint;
pub mod host;
pub mod longhorn;
pub mod server;
