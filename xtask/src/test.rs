//! Everything that must hold before a change lands.

use std::{path::PathBuf, time::Instant};

use anyhow::Context as _;

use crate::{
    command::{self, has},
    setup, tidy,
};

/// Built apart: what it needs of libraries would have everything built once more.
const END_TO_END: &str = "weft-tests";

/// The task.
pub fn run() -> anyhow::Result<()> {
    setup::need_root("test")?;
    setup::run_quietly_if_done()?;
    let steps: [(&str, &dyn Fn() -> anyhow::Result<()>); 6] = [
        ("format", &|| command::run("cargo", &["fmt", "--all", "--check"])),
        ("rules of the repository", &tidy::run),
        ("lints, and all programs", &|| lint_and(&["build", "--quiet", "--all-targets"])),
        // What the tests need of a library may be what makes the programs compile: alone they must do so as well.
        ("the programs that are delivered, alone", &|| {
            lint_and(&["build", "--quiet", "--package", "weft", "--package", "weft-cni"])
        }),
        ("the end-to-end tests", &|| {
            lint_and(&["build", "--quiet", "--all-targets", "--package", END_TO_END])
        }),
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
    // Built by a step before. By themselves the tests build them alone, with most libraries once more.
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| command::root().join("target"), PathBuf::from);
    let weft = target.join("debug/weft");
    let weft = weft.to_str().context("the path of the target folder is no text")?;
    // Labs wait for each other's processes more than they compute.
    let at_once = (std::thread::available_parallelism()?.get() * 3 / 2).to_string();
    let (arguments, at_once): (&[&str], &[&str]) = if has("cargo-nextest") {
        (&["nextest", "run"], &["--test-threads", &at_once])
    } else {
        (&["test"], &["--", "--test-threads", &at_once])
    };
    let run =
        |more: &[&str]| lint_with(&[("WEFT_BIN", weft)], &[arguments, &["--no-fail-fast"], more].concat());
    // All of them are run, whatever fails.
    let results = [run(&[]), run(&[&["--package", END_TO_END], at_once].concat())];
    results.into_iter().collect()
}

fn lint_and(arguments: &[&str]) -> anyhow::Result<()> {
    lint_with(&[], arguments)
}

/// Runs cargo with Clippy as the compiler of what is ours: a check of its own would go through everything that is built once more.
fn lint_with(more: &[(&str, &str)], arguments: &[&str]) -> anyhow::Result<()> {
    let lints =
        [("RUSTC_WORKSPACE_WRAPPER", "clippy-driver"), ("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__")];
    command::run_with(&[&lints, more].concat(), "cargo", arguments)
}
