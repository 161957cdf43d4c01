//! What a lab leaves on the machine: nothing.

use std::fs;

use weft_netns::{Netlink, Netns};

/// Namespaces, mounts, cgroups, files and processes of a lab.
pub fn leftovers(name: &str) -> Vec<String> {
    let prefix = format!("weft-{name}-");
    let mut found: Vec<String> =
        Netns::list().unwrap().into_iter().filter(|netns| netns.starts_with(&prefix)).collect();
    let folder = format!("/run/weft/labs/{name}");
    if fs::exists(&folder).unwrap() {
        found.push(folder.clone());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&folder)).map(|line| format!("mount {line}")));
    let is_cgroup = |line: &&str| line.contains(" - cgroup2 ");
    if let Some(mount) = mounts.lines().find(is_cgroup).and_then(|line| line.split(' ').nth(4)) {
        let cgroup = format!("{mount}/weft-{name}");
        if fs::exists(&cgroup).unwrap() {
            found.push(cgroup);
        }
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if command.contains(&format!("{folder}/")) {
            found.push(format!("process {:?}: {}", process.file_name(), command.replace('\0', " ")));
        }
    }
    found
}

/// Panics with what is left of a lab.
#[track_caller]
pub fn assert_nothing_left(name: &str) {
    let found = leftovers(name);
    assert!(found.is_empty(), "left of lab {name}: {found:#?}");
}

/// Interfaces, addresses and routes of the machine's own network namespace.
pub fn machine_state() -> Vec<String> {
    let mut netlink = Netlink::open().unwrap();
    let links =
        netlink.links().unwrap().into_iter().map(|link| format!("{} {} {}", link.index, link.name, link.up));
    let links: Vec<String> = links.collect();
    let addresses = netlink.addresses(None).unwrap();
    let addresses: Vec<String> =
        addresses.iter().map(|a| format!("{} {}/{}", a.index, a.address, a.prefix_len)).collect();
    let routes: Vec<String> = netlink.routes().unwrap().iter().map(|route| format!("{route:?}")).collect();
    [links, addresses, routes].concat()
}
