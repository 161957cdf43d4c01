//! Installing what building and testing need.
//!
//! On Debian 12 and later it does so itself; elsewhere it says what to install. What is there already is left alone.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};

use crate::command::{self, has, output};

const LLVM: &str = "22";
const LINKER: &str = "0.13.0";
/// The rustup toolchain that stands for the distribution's compiler, the one with `core` prebuilt for BPF.
const TOOLCHAIN: &str = "bpf";

/// A program that tests and benches run, and the Debian package that has it.
const TOOLS: [(&str, &str); 18] = [
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("dnsperf", "dnsperf"),
    ("drill", "ldnsutils"),
    ("iperf3", "iperf3"),
    ("ip", "iproute2"),
    ("iptables-restore", "iptables"),
    ("kdig", "knot-dnsutils"),
    ("kresd", "knot-resolver"),
    ("musl-gcc", "musl-tools"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    // The tests' client of container runtimes is built with it.
    ("protoc", "protobuf-compiler"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("taskset", "util-linux"),
    ("unbound", "unbound"),
];

/// Files of further packages, for what is no program on the path.
const FILES: [(&str, &str); 3] = [
    ("/bin/busybox", "busybox-static"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/lib/cni/host-local", "containernetworking-plugins"),
];

/// Installs what is missing.
pub fn run_quietly_if_done() -> anyhow::Result<()> {
    if missing().is_empty() {
        return Ok(());
    }
    run_all()
}

/// The task.
pub fn run() -> anyhow::Result<()> {
    if missing().is_empty() {
        println!("setup: everything is there");
        return Ok(());
    }
    run_all()
}

/// What is not there yet, in words.
fn missing() -> Vec<String> {
    let mut missing: Vec<String> = packages().into_iter().map(str::to_owned).collect();
    if !has_toolchain() {
        missing.push(format!("rustup toolchain {TOOLCHAIN}"));
    }
    if !has_linker() {
        missing.push(format!("bpf-linker {LINKER}"));
    }
    if !has("kubectl") {
        missing.push("kubectl".to_owned());
    }
    missing
}

/// Debian packages to install.
fn packages() -> Vec<&'static str> {
    let mut packages: Vec<&str> = Vec::new();
    let tools = TOOLS.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package);
    let files = FILES.iter().filter(|(file, _)| !Path::new(file).exists()).map(|(_, package)| *package);
    packages.extend(tools.chain(files));
    if !has_toolchain() && !has_bpf_core() {
        packages.extend(["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"]);
    }
    if !has_linker() && !Path::new("/usr/lib/llvm-22/bin/llvm-config").exists() {
        packages.extend(["llvm-22-dev", "libpolly-22-dev", "clang-22"]);
    }
    packages.dedup();
    packages
}

fn run_all() -> anyhow::Result<()> {
    println!("setup: missing are {}", missing().join(", "));
    if !is_debian() {
        bail!("{}", advice());
    }
    let mut packages = packages();
    if !has("kubectl") {
        packages.push("kubernetes-client");
    }
    if !packages.is_empty() {
        if !nix_is_root() {
            bail!(
                "installing packages needs root; run: apt-get install -y --no-install-recommends {}",
                packages.join(" ")
            );
        }
        println!("setup: installing Debian packages");
        command::run("apt-get", &["update", "-qq"])?;
        let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
        arguments.extend(packages);
        command::run("apt-get", &arguments)?;
    }
    if !has_toolchain() {
        println!(
            "setup: linking the distribution's compiler, which has `core` for BPF, as toolchain {TOOLCHAIN}"
        );
        command::run("rustup", &["toolchain", "link", TOOLCHAIN, "/usr"])?;
    }
    if !has_linker() {
        println!("setup: building bpf-linker {LINKER} (about a minute)");
        let prefix = format!("LLVM_PREFIX=/usr/lib/llvm-{LLVM}");
        let features = format!("llvm-{LLVM}");
        let package = format!("bpf-linker@{LINKER}");
        command::run(
            "env",
            &[&prefix, "cargo", "install", &package, "--no-default-features", "--features", &features],
        )?;
    }
    let left = missing();
    if !left.is_empty() {
        bail!("still missing after the installation: {}\n{}", left.join(", "), advice());
    }
    println!("setup: done");
    Ok(())
}

fn advice() -> String {
    let programs: Vec<&str> = TOOLS.iter().map(|(program, _)| *program).collect();
    format!(
        "this machine is not one that setup knows (Debian 12 or later). Install:\n  \
         - a Rust toolchain for BPF: `rustup toolchain install nightly --component rust-src`\n  \
         - LLVM {LLVM} with headers, then `LLVM_PREFIX=… cargo install bpf-linker@{LINKER} --no-default-features \
         --features llvm-{LLVM}`\n  \
         - kubectl 1.20 (which Debian 12 has) or later, the reference CNI plugins in /usr/lib/cni, and: {}",
        programs.join(", ")
    )
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian" || line.starts_with("ID_LIKE=") && line.contains("debian"))
        && has("apt-get")
}

fn has_toolchain() -> bool {
    output("rustup", &["run", TOOLCHAIN, "rustc", "--version"]).is_some()
        || output("rustup", &["component", "list", "--toolchain", "nightly", "--installed"])
            .is_some_and(|list| list.contains("rust-src"))
}

/// Whether the distribution's compiler with `core` for BPF is installed.
fn has_bpf_core() -> bool {
    output("/usr/bin/rustc", &["--print", "sysroot"])
        .is_some_and(|root| Path::new(root.trim()).join("lib/rustlib/bpfel-unknown-none").exists())
}

fn has_linker() -> bool {
    output("bpf-linker", &["--version"]).is_some_and(|version| version.contains(LINKER))
}

fn nix_is_root() -> bool {
    output("id", &["-u"]).is_some_and(|id| id.trim() == "0")
}

/// Fails unless run as root, which namespaces and kernel programs need.
pub fn need_root(task: &str) -> anyhow::Result<()> {
    if nix_is_root() {
        return Ok(());
    }
    Err(anyhow::anyhow!("not root"))
        .with_context(|| format!("cargo xtask {task} makes network namespaces and loads kernel programs"))
}
