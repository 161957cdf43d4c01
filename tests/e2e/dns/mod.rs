//! Cluster DNS: every Service and Pod by name, from every Pod, as the usual clients ask.

mod names;

use std::{fs, path::PathBuf};

use weft_tests::Lab;

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// What the DNS server of the host outside was asked: protocol, client, name and type.
fn asked_outside(lab: &Lab) -> Vec<String> {
    let path: PathBuf = lab.folder().join("outside/asked");
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// The host outside was asked this, in this order.
#[track_caller]
fn nothing_else(lab: &Lab, expected: &[&str]) {
    assert_eq!(asked_outside(lab), expected);
}
