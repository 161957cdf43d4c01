//! What is fuzzed: everything that reads octets that others wrote.
//!
//! ```text
//! cargo xtask fuzz TARGET ──▶ octets that reach something new ──▶ corpus/TARGET.hex, an input a line
//! cargo test -p weft-fuzz ──▶ every line of it again
//! ```

use std::{fs, path::Path};

mod names;

/// A target: takes any octets, and panics when a promise is broken.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 5] = [
    ("server", weft_dns::fuzz::server),
    ("upstream", weft_dns::fuzz::upstream),
    ("settings", weft_dns::fuzz::settings),
    ("resolv_conf", weft_dns::fuzz::resolv_conf),
    ("names", names::names),
];

/// What fuzzers have found for a target.
///
/// # Errors
/// When its file cannot be read.
pub fn corpus(target: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{target}.hex"));
    let octet =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let text = fs::read_to_string(file)?;
    Ok(text.lines().map(|line| line.as_bytes().chunks(2).filter_map(octet).collect()).collect())
}
