//! What tests, benches and the demo share: a virtual machine with the agent
//! installed as an operator would install it.

pub mod node;
pub mod report;

pub use node::{Node, binary};
pub use report::Disks;
