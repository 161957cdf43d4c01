//! Fuzzing, guided by coverage: stable Rust has the instrumentation, libFuzzer the search.

use std::{fs, io, path::Path};

use anyhow::{Context as _, bail};

use crate::command::{command, root};

/// What makes LLVM count which edges are taken, and tell what is compared with what.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks";
const HOST: &str = "x86_64-unknown-linux-gnu";

/// The task: goes on from what is kept in `fuzz/corpus/TARGET.hex`, and keeps there what reaches something new, or breaks a
/// promise.
pub fn run(target: &str, seconds: u32) -> anyhow::Result<()> {
    let kept = root().join(format!("fuzz/corpus/{target}.hex"));
    let text = fs::read_to_string(&kept)
        .with_context(|| format!("{} cannot be read: is {target} a target?", kept.display()))?;
    let folder = root().join("target/fuzz");
    build(&folder)?;
    let place = |name: &str| -> io::Result<_> {
        let place = folder.join(name).join(target);
        if place.exists() {
            fs::remove_dir_all(&place)?;
        }
        fs::create_dir_all(&place).map(|()| place)
    };
    let (corpus, found, merged) = (place("corpus")?, place("found")?, place("merged")?);
    for (number, line) in text.lines().enumerate() {
        let octets = unhex(line).with_context(|| format!("{}:{}", kept.display(), number + 1))?;
        fs::write(corpus.join(number.to_string()), octets)?;
    }
    let fuzzer = |arguments: &[&str], places: &[&Path]| {
        let program = folder.join(HOST).join("release/fuzz");
        let mut fuzzer = command(&program.to_string_lossy(), arguments);
        fuzzer.env("WEFT_FUZZ", target).arg(format!("-artifact_prefix={}/", found.display())).args(places);
        fuzzer.status().context("the fuzzer")
    };
    let time = format!("-max_total_time={seconds}");
    let limits = [&*time, "-max_len=4096", "-rss_limit_mb=1024", "-timeout=5", "-print_final_stats=1"];
    let went_well = fuzzer(&limits, &[&corpus])?.success();
    // By what is reached, not by how often: one input an edge is enough to keep.
    if went_well && !fuzzer(&["-merge=1", "-use_counters=0"], &[&merged, &corpus])?.success() {
        bail!("what was found cannot be merged");
    }
    let mut lines = if went_well { Vec::new() } else { text.lines().map(str::to_owned).collect() };
    for place in [&merged, &found] {
        for file in fs::read_dir(place)? {
            lines.push(hex(&fs::read(file?.path())?));
        }
    }
    lines.sort_by_cached_key(|line| (line.len(), line.clone()));
    lines.dedup();
    fs::write(&kept, lines.join("\n") + "\n")?;
    if !went_well {
        bail!("a promise is broken; what does it is in {}, and the tests of weft-fuzz fail", kept.display());
    }
    println!("{} inputs are kept in {}", lines.len(), kept.display());
    Ok(())
}

fn build(folder: &Path) -> anyhow::Result<()> {
    let arguments =
        ["build", "--release", "--package", "weft-fuzz", "--features", "libfuzzer", "--bin", "fuzz"];
    let mut build = command("cargo", &arguments);
    // With the host named as a target, build scripts are not instrumented.
    build.args(["--target", HOST, "--target-dir"]).arg(folder).env("RUSTFLAGS", INSTRUMENTED);
    if !build.status().context("cargo")?.success() {
        bail!("the fuzzer cannot be built");
    }
    Ok(())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn unhex(line: &str) -> anyhow::Result<Vec<u8>> {
    let pairs = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.map(|pair| u8::from_str_radix(pair, 16).with_context(|| format!("{pair:?} is no octet"))).collect()
}
