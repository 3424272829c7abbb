//! The stand-in of longhorn-manager, with the webhook, at an API server.

mod disks;
mod life;
mod replicas;
mod world;
