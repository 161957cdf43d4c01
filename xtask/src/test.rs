//! Everything that must hold before a change lands.

use std::time::Instant;

use crate::{
    command::{self, has},
    setup, tidy,
};

/// The task.
pub fn run() -> anyhow::Result<()> {
    setup::need_root("test")?;
    setup::run_quietly_if_done()?;
    let steps: [(&str, &dyn Fn() -> anyhow::Result<()>); 5] = [
        ("format", &|| command::run("cargo", &["fmt", "--all", "--check"])),
        ("rules of the repository", &tidy::run),
        ("lints, and binaries that the tests run", &|| {
            lint_and(&["build", "--quiet", "--package", "weft", "--package", "weft-cni"])
        }),
        ("lints, and the tests' own programs", &|| lint_and(&["build", "--quiet", "--all-targets"])),
        ("tests", &tests),
    ];
    for (name, step) in steps {
        eprintln!("==> {name}");
        let start = Instant::now();
        step()?;
        eprintln!("    {:.1} s", start.elapsed().as_secs_f32());
    }
    Ok(())
}

fn tests() -> anyhow::Result<()> {
    if has("cargo-nextest") {
        lint_and(&["nextest", "run", "--no-fail-fast"])
    } else {
        lint_and(&["test", "--no-fail-fast"])
    }
}

/// Runs cargo with Clippy as the compiler of what is ours: a check of its own would go through everything that is built once more.
fn lint_and(arguments: &[&str]) -> anyhow::Result<()> {
    let variables =
        [("RUSTC_WORKSPACE_WRAPPER", "clippy-driver"), ("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__")];
    command::run_with(&variables, "cargo", arguments)
}
