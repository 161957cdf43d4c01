//! Cluster DNS: every Service and Pod by name, from every Pod, as the usual clients ask.

mod clients;
mod commands;
mod dig;
mod names;
mod outages;
mod search;
mod specification;

use std::{fs, path::PathBuf};

use weft_tests::{Lab, Place, wait_for};

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// What the DNS server of the host outside was asked of its domains: protocol, client, name and type. Of other names are the
/// questions by which servers are found to be there.
fn asked_outside(lab: &Lab) -> Vec<String> {
    let path: PathBuf = lab.folder().join("outside/asked");
    let all = fs::read_to_string(path).unwrap();
    all.lines().filter(|line| line.contains("example")).map(str::to_owned).collect()
}

/// The host outside was asked this, in this order.
#[track_caller]
fn nothing_else(lab: &Lab, expected: &[&str]) {
    assert_eq!(asked_outside(lab), expected);
}

/// A program of a Pod finds the name, by the C library.
#[track_caller]
fn found(from: &Place, name: &str, address: &str) {
    wait_for(&format!("getent to find {name}"), || {
        let output = from.runs(&["getent", "ahostsv4", name]);
        if output.stdout.starts_with(address) { Ok(()) } else { Err(output) }
    });
}
