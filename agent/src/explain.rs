//! What is known of one device, for a person: evidence, verdict, reason,
//! advice, the approval token where a disk can be approved, and how to erase
//! it by hand where nothing else helps. Pure; `cli` prints it.

mod erase;
mod evidence;

use serde::Serialize;

use crate::{
    approval::Token,
    claim::Geometry,
    decide::{Reason, Verdict},
    fact::Fact,
    observe::{Device, Identity, Inventory, Medium, identity_keys},
    report::Row,
};

/// The answer to `explain`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation<'a> {
    /// As in `/v1/disks`.
    #[serde(flatten)]
    pub row: Row,
    /// What was read of the device itself.
    pub facts: &'a Device,
    /// What was read off the medium; absent where the decision did not need it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<&'a Fact<Medium>>,
    /// How the disk can be approved; absent where it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Commands by which a person erases what keeps the disk from being taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub erase: Vec<String>,
    /// Commands that overwrite all of it, where that may not be enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overwrite: Vec<String>,
}

/// A person's way to let a disk be taken that is not blank.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// For this disk, in this state, once.
    pub token: Token,
}

impl<'a> Explanation<'a> {
    /// Of a device of an inventory, with its verdict.
    pub fn of(inventory: &'a Inventory, device: &'a Device, verdict: &Verdict, row: Row) -> Self {
        let medium = inventory.media.get(&device.name).map(|medium| &**medium);
        let read = medium.and_then(|medium| medium.known().ok());
        let reason = match verdict {
            Verdict::Refused(refusal) => Some(refusal.reason),
            Verdict::Managed(_)
            | Verdict::Adopt(_)
            | Verdict::Provision(_)
            | Verdict::Resume(_) => None,
        };
        let approval = (reason == Some(Reason::ResidualData))
            .then(|| token(device, read))
            .flatten()
            .map(|token| Approval { token });
        let erasable = reason.is_some_and(|reason| {
            [
                Reason::Signature,
                Reason::AmbivalentSignatures,
                Reason::ResidualData,
                Reason::Partitioned,
            ]
            .contains(&reason)
        });
        let erase = if erasable {
            erase::commands(device, read)
        } else {
            erase::Commands::default()
        };
        Self {
            row,
            facts: device,
            medium,
            approval,
            erase: erase.places,
            overwrite: erase.all,
        }
    }

    /// For people, in paragraphs.
    pub fn text(&self) -> String {
        let row = &self.row;
        let mut text = format!("{}: {}", row.device, self.headline());
        if let (Some(explanation), Some(advice)) = (row.explanation, row.advice) {
            text.push_str(&format!("\n\n  {explanation}"));
            if let Some(detail) = &row.detail {
                text.push_str(&format!("\n  Detail: {detail}."));
            }
            text.push_str(&format!("\n  {advice}"));
        }
        if let Some(growth) = &row.growth {
            text.push_str(&format!("\n\n  {growth}"));
            for more in [growth.explanation.map(str::to_owned), growth.detail.clone()] {
                text.push_str(&more.map_or_else(String::new, |more| format!("\n  {more}")));
            }
        }
        text.push_str("\n\nEvidence\n");
        for (what, value) in evidence::lines(self.facts, self.medium) {
            text.push_str(&format!("  {what:<14} {value}\n"));
        }
        if let Some(approval) = &self.approval {
            text.push_str(&format!(
                "\nApproval\n  If nothing on it is needed, this lets the agent take the disk, in exactly this state, once:\n\n  \
                 approve:\n    - {}\n",
                approval.token
            ));
        }
        if self.approval.is_none()
            && self.row.reason.as_deref() == Some(Reason::ResidualData.code())
        {
            text.push_str(
                "\nApproval\n  Not possible: the disk has neither a serial number nor a world-wide name by which an\n  \
                 approval would know it.\n",
            );
        }
        if !self.erase.is_empty() {
            text.push_str(
                "\nErasing by hand\n  If nothing on it is needed. The agent never does this; look twice at the name. As root on the\n  \
                 node itself, not in a container: the lock that keeps the agent away is one of the node's own /dev.\n\n",
            );
            text.push_str(&indented(&self.erase));
        }
        if !self.overwrite.is_empty() {
            text.push_str(
                "\n  If it is refused as residual-data after that, and not before: approve it where explain prints a\n  \
                 token, or overwrite all of it.\n\n",
            );
            text.push_str(&indented(&self.overwrite));
        }
        text.trim_end().to_owned()
    }

    fn headline(&self) -> String {
        let row = &self.row;
        match (&row.reason, &row.mount_path, row.mounted) {
            (Some(reason), _, _) => format!("refused ({reason})"),
            (None, Some(path), Some(true)) => format!("managed, mounted at {path}"),
            (None, Some(path), _) => format!("{}, {path}", row.verdict.name()),
            (None, None, _) => row.verdict.name().to_owned(),
        }
    }
}

fn indented(commands: &[String]) -> String {
    let lines = commands.iter().flat_map(|command| command.lines());
    lines.map(|line| format!("  {line}\n")).collect()
}

/// The token for the disk as it was read: only where a person may approve it.
fn token(device: &Device, medium: Option<&Medium>) -> Option<Token> {
    let geometry = Geometry {
        size: *device.size.known().ok()?,
        sector: (*device.sector.known().ok()?)?,
    };
    let scan = medium?.content.as_ref()?.scan.as_ref()?.known().ok()?;
    let identity = Identity::of(device).ok()?;
    // A token for a disk that cannot be told from another would be for both.
    let unique = !identity_keys(device).is_empty();
    unique.then(|| Token::of(&identity, geometry, scan))
}

#[cfg(test)]
mod tests;
