//! Rows, tables and files.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

/// What a ratio must be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// Ours divided by theirs is at least this.
    AtLeast(f64),
    /// Ours divided by theirs (or ours alone) is at most this.
    AtMost(f64),
}

/// One measure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What it is compared with; empty for an absolute goal.
    pub against: String,
    /// Unit of `ours` and `theirs`.
    pub unit: &'static str,
    /// Our median.
    pub ours: f64,
    /// Their median.
    pub theirs: f64,
    /// Ours divided by theirs; ours itself for an absolute goal.
    pub ratio: f64,
    /// The goal in words.
    pub goal: String,
    /// Whether it is reached.
    pub holds: bool,
}

impl Row {
    /// A comparison of medians, for sides that were measured one after the other.
    pub fn compare(
        name: &str,
        against: &str,
        unit: &'static str,
        ours: &[f64],
        theirs: &[f64],
        goal: Goal,
    ) -> Row {
        let (ours, theirs) = (median(ours), median(theirs));
        Row::new(name, against, unit, ours, theirs, ours / theirs, goal)
    }

    /// A comparison round by round, for sides whose rounds alternate: the ratio is the median of the rounds' ratios, so that
    /// a machine which is slower for a while is slower for both.
    pub fn paired(name: &str, against: &str, unit: &'static str, rounds: &[(f64, f64)], goal: Goal) -> Row {
        let (ours, theirs): (Vec<f64>, Vec<f64>) = rounds.iter().copied().unzip();
        let ratios: Vec<f64> = rounds.iter().map(|(ours, theirs)| ours / theirs).collect();
        Row::new(name, against, unit, median(&ours), median(&theirs), median(&ratios), goal)
    }

    /// A figure that stands for itself.
    pub fn absolute(name: &str, unit: &'static str, ours: &[f64], goal: Goal) -> Row {
        let ours = median(ours);
        Row::new(name, "", unit, ours, f64::NAN, ours, goal)
    }

    fn new(
        name: &str,
        against: &str,
        unit: &'static str,
        ours: f64,
        theirs: f64,
        ratio: f64,
        goal: Goal,
    ) -> Row {
        let (goal, holds) = match goal {
            Goal::AtLeast(least) => (format!(">= {least}"), ratio >= least),
            Goal::AtMost(most) => (
                format!("<= {:.3}", most).trim_end_matches('0').trim_end_matches('.').to_owned(),
                ratio <= most,
            ),
        };
        Row { name: name.to_owned(), against: against.to_owned(), unit, ours, theirs, ratio, goal, holds }
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// A percentile by linear interpolation; NaN of nothing.
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len().saturating_sub(1)) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
        _ => f64::NAN,
    }
}

/// Prints the table and writes `NAME.json`; says whether every goal is reached.
pub fn write(folder: &Path, name: &str, rows: &[Row]) -> anyhow::Result<bool> {
    println!(
        "{:<46} {:<26} {:>10} {:>10} {:>7}  {:<8} holds",
        "measure", "against", "ours", "theirs", "ratio", "goal"
    );
    for row in rows {
        println!(
            "{:<46} {:<26} {:>10} {:>10} {:>7.3}  {:<8} {}",
            format!("{} ({})", row.name, row.unit),
            row.against,
            figure(row.ours),
            figure(row.theirs),
            row.ratio,
            row.goal,
            if row.holds { "yes" } else { "NO" }
        );
    }
    println!();
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(format!("{name}.json"));
    fs::write(&path, serde_json::to_vec_pretty(rows)?).with_context(|| path.display().to_string())?;
    Ok(rows.iter().all(|row| row.holds))
}

fn figure(value: f64) -> String {
    match value {
        value if value.is_nan() => String::new(),
        value if value >= 1000.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_few_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(percentile(&[1.0, 2.0, 3.0, 4.0, 5.0], 1.0), 5.0);
        assert!(median(&[]).is_nan());
    }
}
