//! Weft's own binaries, built beside this one.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, bail};
use weft_netns::random_name;

/// A binary of the same build.
pub fn path(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().context("this binary is in no folder")?.join(name);
    if !path.exists() {
        bail!("{} is missing: cargo build --release --package weft --package weft-cni", path.display());
    }
    Ok(path)
}

/// A lab that goes with the value.
pub struct Lab {
    /// Its name.
    pub name: String,
}

impl Lab {
    /// Brings a lab up and waits until everything is.
    pub fn up(arguments: &[&str]) -> anyhow::Result<Lab> {
        let lab = Lab { name: random_name("b") };
        weft_scratch::lab(&lab.name, &path("weft")?);
        lab.weft(&[&["lab", "up"], arguments].concat())?;
        Ok(lab)
    }

    /// Runs `weft … --name LAB`; returns what it prints.
    pub fn weft(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(path("weft")?);
        let output = command.args(arguments).args(["--name", &self.name]).output()?;
        if !output.status.success() {
            bail!("weft {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.weft(&["lab", "down"]) {
            eprintln!("warning: {error:#}");
        }
    }
}
