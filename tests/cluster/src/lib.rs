//! A cluster for tests, without one: an API server, Longhorn's admission webhook
//! and the part of Longhorn's manager that looks after disks; or a real API
//! server, where there is one.

pub mod admission;
pub mod cluster;
pub mod endpoint;
pub mod host;
pub mod longhorn;
pub mod longhorn_cluster;
pub mod objects;
pub mod real;
pub mod server;
