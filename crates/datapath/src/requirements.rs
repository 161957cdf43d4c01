//! What Weft needs of a kernel, found out by using it in a namespace that is thrown away: features, not versions.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd as _, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

use ipnet::IpNet;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use weft_model::{Masquerade, NodeName, NodePlan};
use weft_netns::{
    Netlink, Netns,
    netlink::{Blocks, VethSpec, VxlanSpec},
};

use crate::{Datapath, Settings, load::bpf_call, nft};

/// One thing that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// What.
    pub name: &'static str,
    /// What for.
    pub purpose: &'static str,
    /// What was found, or what is wrong and what to do.
    pub state: Result<String, String>,
}

/// The first feature that is missing, if any: name, and what is wrong. All but the data plane as a whole, whose programs the
/// kernel takes half a second to verify.
pub fn missing() -> Option<(&'static str, String)> {
    features(false).into_iter().find_map(|requirement| Some((requirement.name, requirement.state.err()?)))
}

/// Tries everything. Leaves nothing behind, also when it is killed: nothing that it makes has a name that others see.
pub fn check() -> Vec<Requirement> {
    features(true)
}

fn features(whole: bool) -> Vec<Requirement> {
    let mut found = vec![root()];
    if found.iter().any(|requirement| requirement.state.is_err()) {
        return found;
    }
    found.push(btf());
    found.push(bpffs());
    match Scratch::new() {
        Ok(scratch) => {
            found.extend(scratch.links());
            found.extend(scratch.programs());
            found.push(scratch.nftables());
            if whole {
                found.push(scratch.data_plane());
            }
        }
        Err(error) => found.push(Requirement {
            name: "network namespaces",
            purpose: "Pods",
            state: Err(format!("{error}: a kernel with CONFIG_NET_NS is needed")),
        }),
    }
    found
}

fn root() -> Requirement {
    let state = if geteuid().is_root() {
        Ok("yes".to_owned())
    } else {
        Err("run this as root: namespaces and kernel programs need it".to_owned())
    };
    Requirement { name: "root", purpose: "everything", state }
}

fn btf() -> Requirement {
    let there = Path::new("/sys/kernel/btf/vmlinux").exists();
    let state = if there {
        Ok("yes".to_owned())
    } else {
        Err("use a kernel built with CONFIG_DEBUG_INFO_BTF".to_owned())
    };
    Requirement { name: "BPF type format", purpose: "loading kernel programs", state }
}

fn bpffs() -> Requirement {
    let state = match apart(mount_bpffs) {
        Ok(_) => Ok("can be mounted".to_owned()),
        Err(error) => {
            Err(format!("a bpffs cannot be mounted ({error}): a kernel with CONFIG_BPF_SYSCALL is needed"))
        }
    };
    Requirement { name: "BPF file system", purpose: "a data plane that outlives the agent", state }
}

/// Runs in a thread of its own, for what changes where a thread stands.
fn apart<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    let ran = thread::scope(|scope| scope.spawn(task).join());
    ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A namespace with an uplink that leads nowhere.
struct Scratch {
    netns: Netns,
}

const UPLINK: &str = "uplink";
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
/// TEST-NET-2 (RFC 5737).
const DOCUMENTATION: IpNet = IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24));

impl Scratch {
    fn new() -> Result<Scratch, weft_netns::NetnsError> {
        Ok(Scratch { netns: Netns::anonymous()? })
    }

    fn links(&self) -> Vec<Requirement> {
        let mut netlink = match Netlink::open_in(&self.netns) {
            Ok(netlink) => netlink,
            Err(error) => {
                let state = Err(format!("{error}"));
                return vec![Requirement { name: "netlink", purpose: "links and routes", state }];
            }
        };
        let mut found = Vec::new();
        let mut try_it = |name, purpose, result: Result<(), weft_netns::NetlinkError>, option: &str| {
            let state = result.map(|()| "yes".to_owned());
            let state = state.map_err(|error| format!("{error}: a kernel with {option} is needed"));
            found.push(Requirement { name, purpose, state });
        };
        let pair = VethSpec {
            name: UPLINK,
            peer_name: "other",
            peer_netns: None,
            mac: None,
            peer_mac: None,
            mtu: None,
        };
        try_it("veth", "Pods' interfaces", netlink.add_veth(&pair), "CONFIG_VETH");
        let vxlan = VxlanSpec {
            name: "vxlan",
            port: 8472,
            source_ports: weft_abi::TUNNEL_SOURCE_PORTS,
            mac: weft_abi::NODE_MAC,
            mtu: 1450,
        };
        let made = netlink.add_vxlan(&vxlan);
        try_it("VXLAN in metadata mode", "the overlay", made, "CONFIG_VXLAN");
        let bound = netlink
            .link("other")
            .and_then(|link| netlink.bind_blocks(link.index, Blocks { ingress: 1, egress: 2 }));
        try_it("clsact with shared blocks", "programs on Pods' interfaces", bound, "CONFIG_NET_SCH_INGRESS");
        // Only one device of a namespace can listen on the port, and the data plane wants it next.
        if let Ok(link) = netlink.link("vxlan") {
            let _ = netlink.delete_link(link.index);
        }
        found
    }

    fn programs(&self) -> [Requirement; 2] {
        let loaded = bpf_call::load_trivial();
        let attached = match &loaded {
            Ok(program) => self.attach(program.as_fd()),
            Err(_) => Err("there is no eBPF to try it with".to_owned()),
        };
        let loaded = loaded.map(|_| "yes".to_owned());
        [
            Requirement {
                name: "eBPF",
                purpose: "everything that happens to packets",
                state: loaded.map_err(|error| {
                    format!(
                        "a program cannot be loaded ({error}): a kernel with CONFIG_BPF_SYSCALL is needed"
                    )
                }),
            },
            Requirement { name: "tcx", purpose: "programs on the node's own interfaces", state: attached },
        ]
    }

    fn attach(&self, program: BorrowedFd<'_>) -> Result<String, String> {
        let attached = self.netns.run(|| {
            let index = Netlink::open().and_then(|mut netlink| netlink.link(UPLINK)).map(|link| link.index);
            let index = index.map_err(|error| error.to_string())?;
            bpf_call::link_tcx(program, index).map(drop).map_err(|error| {
                format!("a program cannot be attached ({error}): Linux 6.6 or later is needed")
            })
        });
        attached.map_err(|error| error.to_string())?.map(|()| "yes".to_owned())
    }

    fn nftables(&self) -> Requirement {
        let plan = Masquerade { sources: vec![DOCUMENTATION], exempt: Vec::new() };
        let masqueraded = self.netns.run(|| nft::Masquerade::open(8472, &[])?.apply(&plan));
        let state = match masqueraded {
            Ok(Ok(_)) => Ok("yes".to_owned()),
            Ok(Err(error)) => {
                Err(format!("{error}: a kernel with CONFIG_NF_TABLES and CONFIG_NFT_MASQ is needed"))
            }
            Err(error) => Err(error.to_string()),
        };
        Requirement { name: "nftables", purpose: "Pods' way out of the cluster", state }
    }

    /// The data plane itself, whole.
    fn data_plane(&self) -> Requirement {
        let state = apart(|| self.open()).map(|()| "loads, attaches, routes and masquerades".to_owned());
        Requirement {
            name: "the data plane",
            purpose: "all of it",
            state: state.map_err(|error| {
                format!("{error}: Linux 6.6 or later with eBPF, tcx and nftables is needed")
            }),
        }
    }

    fn open(&self) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| whole(error);
        let bpffs = mount_bpffs().map_err(|error| text(&error))?;
        let mut netlink = Netlink::open_in(&self.netns).map_err(|error| text(&error))?;
        let uplink = netlink.link(UPLINK).map_err(|error| text(&error))?;
        netlink.set_up(uplink.index).map_err(|error| text(&error))?;
        netlink.add_address(uplink.index, ADDRESS, 24).map_err(|error| text(&error))?;
        let range: IpNet = "198.18.0.0/24".parse().map_err(|error| text(&error))?;
        let node = NodeName::new("doctor");
        let settings = Settings {
            node: node.clone(),
            bpffs: bpffs.join("weft"),
            uplink: Some(UPLINK.to_owned()),
            vxlan_port: 8472,
            service_ranges: Vec::new(),
            dns_addresses: Vec::new(),
            dns_questions_of_pod: 0,
            cgroup: None,
            direct_return: false,
            open_cluster_ips: false,
            any_hardware: false,
            pod_ranges: vec![range],
            node_addresses: vec![ADDRESS],
        };
        let plan = NodePlan {
            node,
            pod_ranges: vec![range],
            peers: Vec::new(),
            refused: Vec::new(),
            masquerade: Masquerade { sources: vec![range], exempt: Vec::new() },
        };
        let opened = self.netns.run(|| {
            let mut datapath = Datapath::open(&settings)?;
            datapath.apply(&plan, &std::collections::BTreeMap::new())
        });
        opened.map_err(|error| text(&error))?.map_err(|error| text(&error))?;
        Ok(())
    }
}

/// An error with its causes, each once: some say their cause themselves.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// Mounts a bpffs where only the caller's thread and those that it starts see it, and returns where. It goes with them.
fn mount_bpffs() -> nix::Result<PathBuf> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)?;
    let folder = std::env::temp_dir();
    mount(Some("bpf"), &folder, Some("bpf"), MsFlags::empty(), None::<&str>)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_everything_and_nothing_is_left() {
        let found = check();
        assert!(found.iter().all(|requirement| requirement.state.is_ok()), "{found:#?}");
        assert!(found.iter().any(|requirement| requirement.name == "the data plane"));
    }

    #[test]
    fn nothing_that_others_see_is_made() {
        assert!(!Scratch::new().unwrap().netns.path().exists());
        let own =
            || std::fs::read_to_string(format!("/proc/self/task/{}/mounts", nix::unistd::gettid())).unwrap();
        let in_temp_dir = |mounts: &str| {
            let point = format!("bpf {} bpf ", std::env::temp_dir().display());
            mounts.lines().any(|line| line.starts_with(&point))
        };
        let inside = apart(|| mount_bpffs().map(|_| own()).unwrap());
        assert!(in_temp_dir(&inside) && !in_temp_dir(&own()));
    }
}
