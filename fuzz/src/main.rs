//! The fuzzer: libFuzzer calls the target that `WEFT_FUZZ` names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<weft_fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("WEFT_FUZZ").unwrap_or_default();
    let found = weft_fuzz::TARGETS.iter().find(|(target, _)| *target == name);
    #[expect(clippy::panic, reason = "libFuzzer leaves no other way to say so")]
    found.map_or_else(|| panic!("WEFT_FUZZ={name:?} is no target: run cargo xtask fuzz"), |(_, run)| *run)
});

fuzz_target!(|data: &[u8]| TARGET(data));
