//! `weft doctor`: what this machine has and lacks for Weft.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use weft_agent::requirements::{Requirement, check};
use weft_lab::Cgroup;

use crate::output::{Format, OutputArgs, print_json, print_table};

/// Tell what this machine has and lacks for Weft, by trying it
#[derive(Args, Debug)]
pub struct Doctor {
    #[command(flatten)]
    output: OutputArgs,
}

impl Doctor {
    pub fn run(self) -> Result<ExitCode> {
        let mut found = check();
        found.push(Requirement {
            name: "cgroup2",
            purpose: "the lab's nodes",
            state: match Cgroup::mount_point() {
                Ok(path) => Ok(path.display().to_string()),
                Err(error) => Err(format!("{error:#}: mount -t cgroup2 none /sys/fs/cgroup")),
            },
        });
        match self.output.output {
            Format::Table => {
                let rows: Vec<[String; 4]> = found
                    .iter()
                    .map(|requirement| {
                        let (state, text) = match &requirement.state {
                            Ok(text) => ("ok", text),
                            Err(text) => ("MISSING", text),
                        };
                        [requirement.name.into(), requirement.purpose.into(), state.into(), text.clone()]
                    })
                    .collect();
                print_table(["NEEDED", "FOR", "STATE", "FOUND"], &rows);
            }
            Format::Json => {
                let rows: Vec<serde_json::Value> = found
                    .iter()
                    .map(|requirement| {
                        let (ok, text) = match &requirement.state {
                            Ok(text) => (true, text),
                            Err(text) => (false, text),
                        };
                        json!({ "name": requirement.name, "purpose": requirement.purpose, "ok": ok, "found": text })
                    })
                    .collect();
                print_json(&rows)?;
            }
        }
        let all = found.iter().all(|requirement| requirement.state.is_ok());
        Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(3) })
    }
}
