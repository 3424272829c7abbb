//! Rules by which an operator picks disks: `transport=usb,serial=WD-*`.

use std::{fmt, str::FromStr};

use glob::Pattern;
use serde::{Deserialize, Deserializer, de};
use thiserror::Error;

use crate::{
    fact::Fact,
    observe::{Device, Transport},
    units::Bytes,
};

/// A property that a rule can speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// Kernel name.
    Name,
    /// Links below `/dev/disk/by-id`.
    ById,
    /// Links below `/dev/disk/by-path`.
    ByPath,
    /// As the device says it.
    Model,
    /// As the device says it.
    Vendor,
    /// As the device says it.
    Serial,
    /// World-wide name.
    Wwn,
    /// How it is attached.
    Transport,
    /// Has spinning platters.
    Rotational,
    /// The medium can be taken out.
    Removable,
    /// Bytes.
    Size,
}

impl Field {
    const ALL: [(&'static str, Self); 11] = [
        ("name", Self::Name),
        ("by-id", Self::ById),
        ("by-path", Self::ByPath),
        ("model", Self::Model),
        ("vendor", Self::Vendor),
        ("serial", Self::Serial),
        ("wwn", Self::Wwn),
        ("transport", Self::Transport),
        ("rotational", Self::Rotational),
        ("removable", Self::Removable),
        ("size", Self::Size),
    ];
}

/// What a property must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Glob(Pattern),
    Transport(Transport),
    Flag(bool),
    Size(Comparison, Bytes),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// A property and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    field: Field,
    wanted: Wanted,
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    conditions: Vec<Condition>,
    text: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Text that is not a rule.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadRule {
    /// Nothing is said: it would match every disk.
    #[error("an empty rule; write at least one condition, as in name=sd*")]
    Empty,
    /// Not `property=value`.
    #[error("{0:?} is not a condition; write property=value, as in transport=usb")]
    NoCondition(String),
    /// No such property.
    #[error("{0:?} is no property of a disk; there are {properties}", properties = properties())]
    NoProperty(String),
    /// Both conditions would have to hold.
    #[error("{0} stands twice in a rule, and all conditions must hold; write two rules")]
    Twice(&'static str),
    /// A value that the property cannot have.
    #[error("{property}={value}: allowed are {allowed}")]
    Impossible {
        /// The property.
        property: &'static str,
        /// As it was given.
        value: String,
        /// What may be given.
        allowed: &'static str,
    },
}

fn properties() -> String {
    Field::ALL.map(|(name, _)| name).join(", ")
}

impl Rule {
    /// Whether all conditions hold. One that certainly does not hold decides,
    /// whatever else cannot be read.
    pub fn matches(&self, disk: &Device) -> Fact<bool> {
        let mut doubt = None;
        for condition in &self.conditions {
            match condition.holds(disk) {
                Fact::Known(true) => {}
                Fact::Known(false) => return Fact::Known(false),
                Fact::Unreadable(why) => doubt = Some(why),
            }
        }
        doubt.map_or(Fact::Known(true), Fact::Unreadable)
    }

    /// Whether it names a single disk, by its serial number or world-wide name.
    pub(super) fn is_for_one_disk(&self) -> bool {
        self.conditions.iter().any(|condition| {
            matches!(condition.field, Field::Serial | Field::Wwn) && condition.is_exact()
        })
    }

    /// Whether it has a condition on one of these properties that does not
    /// hold for just anything.
    pub(super) fn speaks_of(&self, fields: &[Field]) -> bool {
        self.conditions
            .iter()
            .any(|condition| fields.contains(&condition.field) && !condition.is_idle())
    }

    fn of<'a>(conditions: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, BadRule> {
        let conditions: Vec<(&str, &str)> = conditions.collect();
        if conditions.is_empty() {
            return Err(BadRule::Empty);
        }
        let words: Vec<String> = conditions
            .iter()
            .map(|(property, value)| format!("{property}={value}"))
            .collect();
        let conditions = conditions
            .into_iter()
            .map(|(property, value)| Condition::of(property, value))
            .collect::<Result<Vec<_>, _>>()?;
        for (name, field) in Field::ALL {
            let same = conditions
                .iter()
                .filter(|condition| condition.field == field);
            if same.count() > 1 {
                return Err(BadRule::Twice(name));
            }
        }
        Ok(Self {
            text: words.join(","),
            conditions,
        })
    }
}

impl Condition {
    fn of(property: &str, value: &str) -> Result<Self, BadRule> {
        let found = Field::ALL.iter().find(|(name, _)| *name == property);
        let (name, field) = found.ok_or_else(|| BadRule::NoProperty(property.to_owned()))?;
        let impossible = |allowed| BadRule::Impossible {
            property: name,
            value: value.to_owned(),
            allowed,
        };
        // What can never match would be a rule of deny that protects nothing.
        let directory = matches!(field, Field::Name | Field::ById | Field::ByPath);
        if value.is_empty() {
            return Err(impossible("a value that is not empty"));
        }
        if directory && value.contains('/') {
            return Err(impossible("a name without its directory, such as sdb"));
        }
        let wanted = match field {
            Field::Name
            | Field::ById
            | Field::ByPath
            | Field::Model
            | Field::Vendor
            | Field::Serial
            | Field::Wwn => Pattern::new(value)
                .map(Wanted::Glob)
                .map_err(|_syntax| impossible("patterns with * for anything, ? for one character and [ab] for one of some"))?,
            Field::Transport => Transport::ALL
                .iter()
                .find(|transport| transport.name() == value)
                .map(|transport| Wanted::Transport(*transport))
                .ok_or_else(|| impossible("virtio, scsi, nvme, mmc, usb, iscsi, fibre-channel, nvme-fabrics, srp, target-loop, virtual and other"))?,
            Field::Rotational | Field::Removable => match value {
                "true" => Wanted::Flag(true),
                "false" => Wanted::Flag(false),
                _ => return Err(impossible("true and false")),
            },
            Field::Size => {
                let (comparison, size) = comparison(value)
                    .ok_or_else(|| impossible("<4TB, <=4TB, >=1TiB, >500GB and =12GB"))?;
                Wanted::Size(comparison, size)
            }
        };
        Ok(Self {
            field: *field,
            wanted,
        })
    }

    fn holds(&self, disk: &Device) -> Fact<bool> {
        // What a disk does not have matches no pattern.
        let text = |fact: &Fact<Option<String>>| {
            fact.clone()
                .map(|text| text.is_some_and(|text| self.fits(&text)))
        };
        match self.field {
            Field::Name => Fact::Known(self.fits(&disk.name)),
            Field::ById => self.fits_link(disk, "by-id/"),
            Field::ByPath => self.fits_link(disk, "by-path/"),
            Field::Model => text(&disk.model),
            Field::Vendor => text(&disk.vendor),
            Field::Serial => text(&disk.serial),
            Field::Wwn => text(&disk.wwn),
            Field::Transport => disk
                .transport
                .clone()
                .map(|transport| self.wanted == Wanted::Transport(transport)),
            Field::Rotational => disk.rotational.clone().and_then(|flag| match flag {
                Some(flag) => Fact::Known(self.wanted == Wanted::Flag(flag)),
                None => Fact::unreadable("rotational", "the kernel does not say"),
            }),
            Field::Removable => disk
                .removable
                .clone()
                .map(|flag| self.wanted == Wanted::Flag(flag)),
            Field::Size => disk.size.clone().map(|size| match self.wanted {
                Wanted::Size(Comparison::Less, limit) => size < limit.0,
                Wanted::Size(Comparison::AtMost, limit) => size <= limit.0,
                Wanted::Size(Comparison::Equal, limit) => size == limit.0,
                Wanted::Size(Comparison::AtLeast, limit) => size >= limit.0,
                Wanted::Size(Comparison::More, limit) => size > limit.0,
                Wanted::Glob(_) | Wanted::Transport(_) | Wanted::Flag(_) => false,
            }),
        }
    }

    fn fits(&self, text: &str) -> bool {
        match &self.wanted {
            Wanted::Glob(pattern) => pattern.matches(text),
            Wanted::Transport(_) | Wanted::Flag(_) | Wanted::Size(..) => false,
        }
    }

    /// Links are udevd's: without its record it cannot be told which there are.
    fn fits_link(&self, disk: &Device, directory: &str) -> Fact<bool> {
        disk.udev.clone().and_then(|record| match record {
            Some(record) => {
                let links = record.links.iter();
                let mut names = links.filter_map(|link| link.strip_prefix(directory));
                Fact::Known(names.any(|name| self.fits(name)))
            }
            None => Fact::unreadable(
                format_args!("links of {} in {directory}", disk.name),
                "udevd has no record of it",
            ),
        })
    }

    /// Names nothing in particular: a pattern without a letter or a digit
    /// outside of brackets.
    fn is_idle(&self) -> bool {
        match &self.wanted {
            Wanted::Glob(pattern) => {
                let mut inside = false;
                !pattern.as_str().chars().any(|c| {
                    match c {
                        '[' => inside = true,
                        ']' => inside = false,
                        _ => {}
                    }
                    !inside && c.is_alphanumeric()
                })
            }
            Wanted::Transport(_) | Wanted::Flag(_) | Wanted::Size(..) => false,
        }
    }

    /// Names one thing and no other.
    fn is_exact(&self) -> bool {
        match &self.wanted {
            Wanted::Glob(pattern) => !pattern.as_str().contains(['*', '?', '[']),
            Wanted::Transport(_) | Wanted::Flag(_) | Wanted::Size(..) => false,
        }
    }
}

fn comparison(text: &str) -> Option<(Comparison, Bytes)> {
    let text = text.trim();
    let ways = [
        ("<=", Comparison::AtMost),
        (">=", Comparison::AtLeast),
        ("<", Comparison::Less),
        (">", Comparison::More),
        ("=", Comparison::Equal),
    ];
    let (rest, comparison) = ways
        .into_iter()
        .find_map(|(sign, comparison)| Some((text.strip_prefix(sign)?, comparison)))?;
    match rest.trim().parse() {
        Ok(size) => Some((comparison, size)),
        Err(_not_a_size) => None,
    }
}

impl FromStr for Rule {
    type Err = BadRule;

    /// Conditions joined by commas. A value with a comma in it is for the file.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let conditions = text
            .split(',')
            .map(str::trim)
            .filter(|condition| !condition.is_empty())
            .map(|condition| {
                condition
                    .split_once('=')
                    .map(|(property, value)| (property.trim(), value.trim()))
                    .ok_or_else(|| BadRule::NoCondition(condition.to_owned()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::of(conditions.into_iter())
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Conditions;
        impl<'de> de::Visitor<'de> for Conditions {
            type Value = Rule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("conditions as property: value")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Rule, A::Error> {
                let mut conditions: Vec<(String, Scalar)> = Vec::new();
                while let Some(condition) = map.next_entry()? {
                    conditions.push(condition);
                }
                let words = conditions
                    .iter()
                    .map(|(property, value)| (property.as_str(), value.0.as_str()));
                Rule::of(words).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_map(Conditions)
    }
}

/// A value that YAML may take for a number or a flag: `serial: 0042`.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(Self)
            .ok_or_else(|| de::Error::custom("a property of a rule has no value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::example_disk;

    fn rule(text: &str) -> Rule {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn lost<T>() -> Fact<T> {
        Fact::unreadable("a fact", "Input/output error")
    }

    #[test]
    fn each_property_can_be_asked_for() {
        let mut disk = example_disk();
        if let Fact::Known(Some(record)) = &mut disk.udev {
            record.links = ["by-id/ata-SSD_12_S16", "by-path/pci-0000:00:1f.2-ata-2"]
                .map(str::to_owned)
                .to_vec();
        }
        for (text, holds) in [
            ("name=sd*", true),
            ("name=sd?", true),
            ("name=nvme*", false),
            ("by-id=ata-SSD*", true),
            ("by-id=pci-*", false),
            ("by-path=*-ata-2", true),
            ("by-path=ata-*", false),
            ("model=SSD*", true),
            ("model=ssd*", false),
            ("vendor=AT[AB]", true),
            ("serial=S16", true),
            ("wwn=naa.5*", true),
            ("transport=scsi", true),
            ("transport=usb", false),
            ("rotational=false", true),
            ("rotational=true", false),
            ("removable=false", true),
            ("size=>10GB", true),
            ("size=>=12GB", true),
            ("size=<12GB", false),
            ("size=<=12GB", true),
            ("size==12GB", true),
            ("size=>12GB", false),
            ("name=sd*, model=SSD*", true),
            ("name=sd*,model=HDD*", false),
        ] {
            assert_eq!(rule(text).matches(&disk), Fact::Known(holds), "{text}");
        }
    }

    #[test]
    fn what_a_disk_does_not_have_matches_nothing() {
        let mut disk = example_disk();
        disk.model = Fact::Known(None);
        assert_eq!(rule("model=*").matches(&disk), Fact::Known(false));
    }

    #[test]
    fn what_cannot_be_read_is_in_doubt_unless_another_condition_fails() {
        let mut disk = example_disk();
        disk.model = lost();
        assert!(rule("model=SSD*").matches(&disk).known().is_err());
        assert!(rule("model=SSD*,name=sd*").matches(&disk).known().is_err());
        assert_eq!(
            rule("model=SSD*,name=vd*").matches(&disk),
            Fact::Known(false)
        );
        disk.udev = Fact::Known(None);
        disk.rotational = Fact::Known(None);
        for text in ["by-id=*", "by-path=*", "rotational=true"] {
            assert!(rule(text).matches(&disk).known().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_speaks_only_of_what_it_narrows_down() {
        assert!(rule("transport=usb").speaks_of(&[Field::Transport]));
        assert!(rule("model=*Elastic*").speaks_of(&[Field::Vendor, Field::Model]));
        for text in [
            "model=*",
            "model=**",
            "model=??*",
            "model=*-*",
            "model=[!_]*",
            "model=[a-z]*",
            "name=sd*",
        ] {
            assert!(!rule(text).speaks_of(&[Field::Model]), "{text}");
        }
    }

    #[test]
    fn only_a_whole_serial_number_or_world_wide_name_names_a_single_disk() {
        for one in ["serial=S16", "name=sd*,wwn=naa.5000"] {
            assert!(rule(one).is_for_one_disk(), "{one}");
        }
        for many in [
            "serial=S*",
            "wwn=naa.?",
            "serial=S[1]6",
            "model=SSD",
            "name=sdb",
        ] {
            assert!(!rule(many).is_for_one_disk(), "{many}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_what_is_allowed() {
        for (text, words) in [
            ("", "at least one condition"),
            (" , ", "at least one condition"),
            ("usb", "property=value"),
            ("colour=red", "by-path"),
            ("model=[", "patterns"),
            ("transport=floppy", "fibre-channel"),
            ("name=", "not empty"),
            ("name=/dev/sdb", "without its directory"),
            ("by-id=/dev/disk/by-id/x", "without its directory"),
            ("name=sdb,name=sdc", "write two rules"),
            ("rotational=yes", "true and false"),
            ("size=12GB", "<4TB"),
            ("size=>much", "<4TB"),
        ] {
            let error = text.parse::<Rule>().expect_err(text).to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }
}
