//! What a bench measured, and whether that is as it should be.

use std::{fmt, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

/// What a bench fails without.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// The figures are for people to judge.
    None,
    /// At most so many times the median of the baseline. It counts as missed when
    /// the median is above every measurement of the baseline, too: how far those
    /// are apart is the noise of this machine.
    Times(f64),
    /// At most this, in the unit of the bench.
    AtMost(f64),
}

impl Aim {
    /// Whether sorted measurements keep it.
    fn is_kept(self, ours: &[f64], theirs: &[f64]) -> bool {
        let value = median(ours);
        match self {
            Self::None => true,
            Self::Times(times) => {
                value <= times * median(theirs) || theirs.iter().any(|one| value <= *one)
            }
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Times(times) => write!(f, "at most {times} times the baseline, but for noise"),
            Self::AtMost(most) => write!(f, "at most {most}"),
        }
    }
}

/// Both sides of a bench.
#[derive(Debug)]
pub struct Figures {
    pub name: &'static str,
    pub unit: &'static str,
    pub baseline: &'static str,
    pub aim: Aim,
    pub ours: Vec<f64>,
    pub theirs: Vec<f64>,
}

impl Figures {
    /// Prints and records them; whether the aim is kept.
    pub fn tell(&self) -> Result<bool> {
        let (ours, theirs) = (sorted(&self.ours)?, sorted(&self.theirs)?);
        let (value, baseline_value) = (median(&ours), median(&theirs));
        let ratio = value / baseline_value;
        let kept = self.aim.is_kept(&ours, &theirs);
        let judged = if kept { "" } else { " MISSED" };
        println!("{} {value:.3} {} {ratio:.3}{judged}", self.name, self.unit);
        if !kept {
            eprintln!(
                "{}: {ours:.3?} against {theirs:.3?}; aim: {}",
                self.name, self.aim
            );
        }
        let record = json!({
            "name": self.name,
            "value": value,
            "unit": self.unit,
            "baseline": self.baseline,
            "baseline_value": baseline_value,
            "ratio": ratio,
            "n": ours.len(),
            "min": ours.first(),
            "median": value,
            "max": ours.last(),
            "aim": self.aim.to_string(),
            "kept": kept,
        });
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")),
            PathBuf::from,
        );
        let directory = target.join("bench");
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{}.json", self.name));
        let written = fs::write(&path, format!("{record:#}\n"));
        written.with_context(|| path.display().to_string())?;
        Ok(kept)
    }
}

fn sorted(values: &[f64]) -> Result<Vec<f64>> {
    ensure!(values.len() >= 5, "only {} measurements", values.len());
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    Ok(values)
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_above_the_aim_and_above_every_baseline_is_missed() {
        let aim = Aim::Times(1.2);
        assert!(!aim.is_kept(&[11.0, 13.0, 14.0], &[9.0, 10.0, 12.0]));
        // Slower, but not by more than it may be.
        assert!(aim.is_kept(&[11.0, 11.9, 14.0], &[9.0, 10.0, 11.0]));
        // No slower than the machine itself happens to be.
        assert!(aim.is_kept(&[11.0, 13.0, 14.0], &[9.0, 10.0, 13.5]));
        assert!(Aim::AtMost(32.0).is_kept(&[9.0, 32.0, 40.0], &[]));
        assert!(!Aim::AtMost(32.0).is_kept(&[9.0, 32.1, 40.0], &[]));
    }
}
