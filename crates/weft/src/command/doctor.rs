//! `weft doctor`: what this machine has and lacks for Weft.

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use clap::Args;
use serde_json::json;
use weft_lab::Cgroup;

use crate::output::{Format, OutputArgs, print_json, print_table};

/// Tell what this machine has and lacks for Weft
#[derive(Args, Debug)]
pub struct Doctor {
    #[command(flatten)]
    output: OutputArgs,
}

impl Doctor {
    pub fn run(self) -> Result<ExitCode> {
        let cgroup = Cgroup::mount_point();
        let checks = [
            (
                "BPF type format",
                Path::new("/sys/kernel/btf/vmlinux").exists(),
                "a kernel built with CONFIG_DEBUG_INFO_BTF",
            ),
            ("cgroup2", cgroup.is_ok(), "mount -t cgroup2 none /sys/fs/cgroup"),
        ];
        match self.output.output {
            Format::Table => {
                let rows = checks.map(|(what, there, lacks)| {
                    let (state, advice) = if there { ("ok", "") } else { ("missing", lacks) };
                    [what.to_owned(), state.to_owned(), advice.to_owned()]
                });
                print_table(["NEEDED", "STATE", "WHAT TO DO"], &rows);
            }
            Format::Json => {
                let rows = checks
                    .map(|(what, there, lacks)| json!({ "needed": what, "ok": there, "advice": lacks }));
                print_json(&rows)?;
            }
        }
        Ok(if checks.iter().all(|(_, there, _)| *there) { ExitCode::SUCCESS } else { ExitCode::from(3) })
    }
}
