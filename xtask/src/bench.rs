//! Benchmarks: always release builds, and ratios to a floor or a peer in the same run.

use anyhow::{Context as _, bail};

use crate::{
    command::{self, command},
    setup,
};

/// The task.
pub fn run(names: &[String]) -> anyhow::Result<()> {
    setup::need_root("bench")?;
    setup::run_quietly_if_done()?;
    command::run(
        "cargo",
        &[
            "build",
            "--release",
            "--quiet",
            "--package",
            "weft",
            "--package",
            "weft-cni",
            "--package",
            "weft-bench",
        ],
    )?;
    let program = "target/release/weft-bench";
    let status =
        command(program, &["target/bench"]).args(names).status().with_context(|| program.to_owned())?;
    if !status.success() {
        bail!("not every goal is reached, or a benchmark failed: see above and target/bench");
    }
    Ok(())
}
