//! The peer: the rules that kube-proxy writes for the same Services, in the host's netfilter.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    net::IpAddr,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::plans::{Services, pod_link};
use crate::topology::Scratch;

/// kube-proxy's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Chains of rules, looked through one by one.
    Iptables,
    /// Verdict maps.
    Nftables,
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rules::Iptables => "iptables",
            Rules::Nftables => "nftables",
        })
    }
}

/// A node with two Pods on bare routed veths and kube-proxy's rules.
pub struct Peer {
    /// The client's Pod.
    pub client: Scratch,
    /// The server's Pod.
    pub server: Scratch,
    _node: Scratch,
}

impl Peer {
    /// The server has `address`, which the Service that is measured leads to.
    pub fn new(rules: Rules, address: IpAddr, services: &Services) -> anyhow::Result<Peer> {
        let (node, client, server) = (Scratch::new()?, Scratch::new()?, Scratch::new()?);
        pod_link(&node, &client, IpAddr::from([10, 244, 2, 200]))?;
        pod_link(&node, &server, address)?;
        node.program("sysctl -qw net.ipv4.ip_forward=1")?;
        let (program, arguments, text) = match rules {
            // Whichever the distribution made its iptables: kube-proxy takes the host's too.
            Rules::Iptables => ("iptables-restore", &["--noflush"][..], iptables(services)?),
            Rules::Nftables => ("nft", &["-f", "-"][..], nftables(services)?),
        };
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = node.0.enter_child(&mut command)?.spawn().with_context(|| program.to_owned())?;
        child.stdin.take().context("standard input")?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Peer { client, server, _node: node })
    }
}

/// As kube-proxy's iptables mode writes them.
fn iptables(services: &Services) -> Result<String, fmt::Error> {
    let mut chains = String::new();
    let mut rules = String::new();
    let mut entries = String::new();
    for (number, (frontend, backends)) in services.list.iter().enumerate() {
        let (address, port) = (frontend.address, frontend.port);
        let name = format!("default/service-{number}");
        writeln!(chains, ":KUBE-SVC-{number:016} - [0:0]")?;
        writeln!(
            entries,
            "-A KUBE-SERVICES -d {address}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {port} -j KUBE-SVC-{number:016}"
        )?;
        writeln!(
            rules,
            "-A KUBE-SVC-{number:016} ! -s 10.244.0.0/16 -d {address}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport {port} -j KUBE-MARK-MASQ"
        )?;
        for (place, backend) in backends.iter().enumerate() {
            let endpoint = format!("KUBE-SEP-{number:08}{place:08}");
            let (ip, to) = (backend.address, backend.port);
            writeln!(chains, ":{endpoint} - [0:0]")?;
            let left = backends.len() - place;
            let spread = if left == 1 {
                String::new()
            } else {
                format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64)
            };
            writeln!(
                rules,
                "-A KUBE-SVC-{number:016} -m comment --comment \"{name} -> {ip}:{to}\"{spread} -j {endpoint}"
            )?;
            writeln!(rules, "-A {endpoint} -s {ip}/32 -m comment --comment \"{name}\" -j KUBE-MARK-MASQ")?;
            writeln!(
                rules,
                "-A {endpoint} -p tcp -m comment --comment \"{name}\" -m tcp -j DNAT --to-destination {ip}:{to}"
            )?;
        }
    }
    Ok(format!(
        "*filter
:KUBE-FORWARD - [0:0]
:KUBE-SERVICES - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
{chains}-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
{entries}-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
{rules}COMMIT
"
    ))
}

/// As kube-proxy's nftables mode writes them.
fn nftables(services: &Services) -> Result<String, fmt::Error> {
    let mut chains = String::new();
    let mut elements = String::new();
    for (number, (frontend, backends)) in services.list.iter().enumerate() {
        let (address, port) = (frontend.address, frontend.port);
        let mut choices = String::new();
        for (place, backend) in backends.iter().enumerate() {
            let (ip, to) = (backend.address, backend.port);
            writeln!(
                chains,
                "chain endpoint-{number}-{place} {{ ip saddr {ip} jump mark-for-masquerade; meta l4proto tcp dnat to {ip}:{to}; }}"
            )?;
            write!(
                choices,
                "{}{place} : goto endpoint-{number}-{place}",
                if place == 0 { "" } else { ", " }
            )?;
        }
        writeln!(
            chains,
            "chain service-{number} {{ ip daddr {address} tcp dport {port} ip saddr != 10.244.0.0/16 jump mark-for-masquerade; \
             numgen random mod {} vmap {{ {choices} }}; }}",
            backends.len()
        )?;
        write!(
            elements,
            "{}{address} . tcp . {port} : goto service-{number}",
            if number == 0 { "" } else { ", " }
        )?;
    }
    Ok(format!(
        "table ip kube-proxy {{
map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {elements} }} }}
map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
chain masquerading {{ mark and 0x4000 == 0 return; meta mark set mark xor 0x4000; masquerade fully-random; }}
{chains}chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips; }}
chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
chain filter-forward {{ type filter hook forward priority -110; ct state new jump service-endpoints-check; }}
chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
chain nat-output {{ type nat hook output priority -100; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
"
    ))
}
