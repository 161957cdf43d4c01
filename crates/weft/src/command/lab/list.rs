//! `weft lab list`

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::Args;
use weft_lab::LabRecord;

use crate::output::{Format, OutputArgs, age, print_json, print_table};

/// List the labs of this machine
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    output: OutputArgs,
}

impl List {
    pub fn run(self) -> Result<ExitCode> {
        // A lab that is just coming up has no record yet.
        let records: Vec<LabRecord> = super::running()?.iter().filter_map(|lab| lab.record().ok()).collect();
        match self.output.output {
            Format::Json => print_json(&records)?,
            Format::Table if records.is_empty() => {
                eprintln!("no lab is running: start one with 'weft lab up'")
            }
            Format::Table => {
                let rows: Vec<[String; 6]> = records
                    .iter()
                    .map(|lab| {
                        [
                            lab.name.to_string(),
                            if lab.ready { "ready" } else { "not ready" }.into(),
                            lab.nodes.len().to_string(),
                            format!("{:?}", lab.ip_family).to_lowercase(),
                            lab.api.to_string(),
                            age_of(lab),
                        ]
                    })
                    .collect();
                print_table(["LAB", "STATE", "NODES", "IP", "API SERVER", "AGE"], &rows);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// How long a lab has been there.
pub fn age_of(lab: &LabRecord) -> String {
    let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_secs());
    let now = seconds(SystemTime::now()).unwrap_or(0);
    let started = lab.started_seconds().unwrap_or(now);
    age(Duration::from_secs(now.saturating_sub(started)))
}
