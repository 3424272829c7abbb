//! `/v1/disks` as a test reads it.

use anyhow::{Context, Result};
use serde_json::Value;

/// The answer of `/v1/disks` or `plan -o json`.
#[derive(Debug, Clone)]
pub struct Disks(pub Value);

impl Disks {
    /// From the body of a response.
    ///
    /// # Errors
    /// When it is no JSON.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self(
            serde_json::from_str(text).with_context(|| format!("not JSON: {text:?}"))?,
        ))
    }

    /// The row of a device.
    pub fn row(&self, device: &str) -> Option<&Value> {
        self.0
            .get("disks")?
            .as_array()?
            .iter()
            .find(|row| text(row, "device") == device)
    }

    /// A field of a device's row as text; empty when there is none.
    pub fn field<'a>(&'a self, device: &str, field: &str) -> &'a str {
        self.row(device).map_or("", |row| text(row, field))
    }

    /// Mount paths of the disks that are mounted, sorted.
    pub fn mounted(&self) -> Vec<String> {
        let rows = self
            .0
            .get("disks")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let mounted = rows.filter(|row| row.get("mounted") == Some(&Value::Bool(true)));
        let mut paths: Vec<String> = mounted
            .map(|row| text(row, "mountPath").to_owned())
            .collect();
        paths.sort();
        paths
    }

    /// A number of the last round, such as `micros`.
    pub fn round(&self, field: &str) -> u64 {
        self.0
            .pointer(&format!("/round/{field}"))
            .and_then(Value::as_u64)
            .unwrap_or_default()
    }

    /// Codes of what limits the agent.
    pub fn degraded(&self) -> Vec<&str> {
        let states = self
            .0
            .get("degraded")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        states.map(|state| text(state, "code")).collect()
    }
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row.get(field).and_then(Value::as_str).unwrap_or_default()
}
