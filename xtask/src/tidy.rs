//! The rules of the repository, as a check: who may import whom, what may be a file's name, how long a file may grow.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::command::{output, root};

/// What each of our packages may import of ours. A package that is not listed here may not exist.
const OURS: [(&str, &[&str]); 19] = [
    ("weft-abi", &[]),
    ("weft-model", &[]),
    ("weft-netns", &[]),
    ("weft-scratch", &["weft-netns"]),
    ("weft-cni", &[]),
    ("weft-cni-plugin", &[]),
    ("weft-apiserver", &[]),
    ("weft-ebpf", &["weft-abi"]),
    ("weft-datapath", &["weft-abi", "weft-model", "weft-netns"]),
    ("weft-announce", &["weft-model"]),
    ("weft-dns", &["weft-model"]),
    ("weft-kube", &["weft-model"]),
    ("weft-lab", &["weft-apiserver", "weft-cni", "weft-netns"]),
    ("weft-agent", &["weft-announce", "weft-cni", "weft-datapath", "weft-dns", "weft-kube", "weft-model"]),
    ("weft", &["weft-agent", "weft-kube", "weft-lab", "weft-model"]),
    ("weft-bench", ANY),
    ("weft-fuzz", ANY),
    ("weft-tests", ANY),
    ("xtask", &[]),
];

const ANY: &[&str] = &["*"];

/// Crates that only these packages may use, whatever the reason.
const ONLY: [(&str, &[&str], &str); 6] = [
    ("aya", &["weft-datapath"], "only the data plane speaks to the kernel's BPF"),
    ("aya-ebpf", &["weft-ebpf"], "kernel programs live in one crate"),
    ("hickory-proto", &["weft-dns"], "one place that reads and writes DNS messages"),
    ("netlink-packet-route", &["weft-netns"], "one netlink client"),
    ("kube", &["weft-kube", "weft-lab"], "one way to the Kubernetes API"),
    ("k8s-openapi", &["weft-kube", "weft-lab"], "one way to the Kubernetes API"),
];

/// Packages that must stay free of an async runtime.
const NO_TOKIO: [&str; 5] = ["weft-abi", "weft-ebpf", "weft-model", "weft-netns", "weft-cni"];

/// File names that say nothing.
const EMPTY_NAMES: [&str; 8] =
    ["manager.rs", "util.rs", "utils.rs", "helper.rs", "helpers.rs", "common.rs", "misc.rs", "manager"];

/// Lines at which a file has become a folder in waiting.
const LONGEST: usize = 700;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// The task.
pub fn run() -> anyhow::Result<()> {
    let metadata =
        output("cargo", &["metadata", "--format-version", "1", "--no-deps"]).context("cargo metadata")?;
    let metadata: Metadata = serde_json::from_str(&metadata).context("cargo metadata")?;
    let mut broken = imports(&metadata);
    files(&root().join("crates"), &mut broken)?;
    files(&root().join("xtask"), &mut broken)?;
    files(&root().join("tests"), &mut broken)?;
    if !broken.is_empty() {
        bail!("{} rules of the repository are broken:\n  {}", broken.len(), broken.join("\n  "));
    }
    Ok(())
}

fn imports(metadata: &Metadata) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = OURS.into_iter().collect();
    let mut broken = Vec::new();
    for package in metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id))
    {
        let name = package.name.as_str();
        let Some(may) = allowed.get(name) else {
            broken.push(format!("{name}: not in the table of allowed imports (xtask/src/tidy.rs)"));
            continue;
        };
        if !package.license.as_deref().is_some_and(|license| license.starts_with("Apache-2.0")) {
            broken.push(format!("{name}: the licence is Apache-2.0"));
        }
        // Tests may look at anything.
        for dependency in
            package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"))
        {
            let used = dependency.name.as_str();
            if allowed.contains_key(used) && !may.contains(&used) && *may != ANY {
                broken.push(format!("{name} imports {used}, which the architecture does not allow"));
            }
            if used == "tokio" && NO_TOKIO.contains(&name) {
                broken.push(format!("{name} imports tokio; it has to stay synchronous"));
            }
            for (crate_name, users, why) in ONLY {
                if used == crate_name && !users.contains(&name) && *may != ANY {
                    broken.push(format!("{name} imports {used}: {why}"));
                }
            }
        }
    }
    broken
}

fn files(folder: &Path, broken: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if EMPTY_NAMES.contains(&name) {
            broken.push(format!("{}: a name tells what a thing is", path.display()));
        }
        if path.is_dir() {
            if name != "target" {
                files(&path, broken)?;
            }
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let lines = text.lines().count();
            if lines > LONGEST {
                broken.push(format!("{}: {lines} lines; make it a folder", path.display()));
            }
            if !text.trim_start().starts_with("//!") && name != "tests.rs" && !text.is_empty() {
                broken.push(format!("{}: the first line says what the file is (//!)", path.display()));
            }
        }
    }
    Ok(())
}
