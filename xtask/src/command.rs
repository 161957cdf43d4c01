//! Running other programs.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(PathBuf::from).unwrap_or(here)
}

/// A program to be run in the root of the repository.
pub fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    // What cargo tells this task about its own package would make build scripts of dependencies run again, and what
    // depends on them be built again: minutes, each time that a task and a plain `cargo build` take turns.
    for (name, _) in std::env::vars_os() {
        let of_package = |name: &str| name.starts_with("CARGO_MANIFEST") || name.starts_with("CARGO_PKG");
        if name.to_str().is_some_and(of_package) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a program whose output is for the user, and says which one it is.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    run_with(&[], program, arguments)
}

/// The same with more variables in its environment.
pub fn run_with(variables: &[(&str, &str)], program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let before: String = variables.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    eprintln!("    $ {before}{program} {}", arguments.join(" "));
    let status = command(program, arguments).envs(variables.iter().copied()).stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("{program} could not be started"))?;
    if !status.success() {
        bail!("`{program} {}` ended with {status}", arguments.join(" "));
    }
    Ok(())
}

/// What a program prints, if it succeeds.
pub fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = command(program, arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a program can be found.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
        || ["/usr/sbin", "/sbin"].iter().any(|folder| PathBuf::from(folder).join(program).is_file())
}
