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
        ("lints", &|| command::run("cargo", &["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"])),
        ("binaries that the tests run", &|| {
            command::run("cargo", &["build", "--quiet", "--package", "weft", "--package", "weft-cni"])
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
    if has("cargo-nextest") {
        command::run("cargo", &["nextest", "run", "--no-fail-fast"])
    } else {
        command::run("cargo", &["test", "--no-fail-fast"])
    }
}
