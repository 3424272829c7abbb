//! disk-discovery turns a newly attached, provably blank disk into mounted,
//! named storage, and never damages a disk that holds anything.
//!
//! ```text
//! observe ─► decide ─► provision ─► register ─► serve
//! facts      verdicts  the only     the only    health and
//! (reads)    (pure)    writer of    writer of   /v1/disks
//!                      disks        the API
//! ```
//!
//! Data flows one way. [`observe`] reads what is and keeps every error,
//! [`decide`] is pure, [`provision`] alone writes to disks and can only be
//! entered with values that the checks make, [`reconcile`] is the loop around
//! them, [`longhorn`] registers what the loop last saw and alone writes to the
//! API, [`serve`] shows it. [`claim`] is the mark that
//! makes a disk ours, [`journal`] what we are about to write, [`ledger`] what
//! was done on this host, [`approval`] a person's word for one disk.

pub mod approval;
pub mod backoff;
pub mod claim;
pub mod cli;
pub mod config;
pub mod decide;
mod durable;
pub mod explain;
pub mod fact;
pub mod journal;
pub mod ledger;
pub mod longhorn;
pub mod look;
pub mod mount_unit;
pub mod observe;
pub mod provision;
pub mod reconcile;
pub mod releases;
pub mod report;
pub mod requests;
pub mod serve;
pub mod state;
pub mod sys;
pub mod text;
pub mod units;
pub mod workers;
