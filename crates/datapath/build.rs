//! Builds the kernel programs and hands the loader their object.
//!
//! Without a BPF toolchain the build goes on with an empty object, so that `cargo check` works everywhere; the agent
//! then says what is missing when it starts.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

const TARGET: &str = "bpfel-unknown-none";

fn main() -> anyhow::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR")?);
    for watched in ["../ebpf/src", "../ebpf/Cargo.toml", "../abi/src", "../../Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(watched).display());
    }
    let object = out.join("weft");
    match build(&root, &out) {
        Ok(built) => {
            fs::copy(&built, &object).with_context(|| format!("copy {}", built.display()))?;
        }
        Err(error) => {
            for line in format!("kernel programs not built: {error:#}").lines() {
                println!("cargo:warning={line}");
            }
            fs::write(&object, [])?;
        }
    }
    Ok(())
}

fn build(root: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    if !succeeds("bpf-linker", &["--version"]) {
        bail!("there is no bpf-linker; run `cargo xtask setup`");
    }
    // A compiler with `core` prebuilt for BPF, as `cargo xtask setup` links it; else a nightly that builds `core`.
    let (toolchain, build_std): (&str, &[&str]) = if succeeds("rustup", &["run", "bpf", "rustc", "--version"])
    {
        ("bpf", &[])
    } else {
        ("nightly", &["-Z", "build-std=core"])
    };
    // One folder for all profiles: the object is the same for each.
    let target = out.ancestors().nth(4).context("OUT_DIR is not in a target folder")?.join("ebpf");
    let architecture = env::var("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{architecture}\""),
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Otherwise what is copied or cleared in memory is so byte by byte, in a function of its own.
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ];
    let output = Command::new("rustup")
        .args(["run", toolchain, "cargo", "build", "--release", "--quiet", "--package", "weft-ebpf"])
        .args(["--target", TARGET])
        .args(build_std)
        .arg("--target-dir")
        .arg(&target)
        .current_dir(root)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("RUSTC_BOOTSTRAP", "aya_ebpf,weft")
        // This build's own compiler must not reach into the other.
        .env_remove("RUSTC")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .output()
        .context("rustup")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(target.join(TARGET).join("release/weft"))
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}
