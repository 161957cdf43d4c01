//! Frames and headers of a root process in a Pod.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use weft_datapath::{Counter, Path};
use weft_netns::Netlink;

use crate::{
    cluster::{BOTH, Cluster, DNS_IP},
    neighbour::Neighbours,
    packet::{ICMPV6, IPV4, IPV6, Ip, frame, octets, resum},
    raw::{Frames, MARK, has_mark},
    support::{Pod, until},
};

/// A hostile Pod, and the places where what it sends must not arrive.
struct Attack {
    cluster: Cluster,
    from: Frames,
    places: Vec<(&'static str, Frames)>,
}

impl Attack {
    fn try_this(&mut self, what: &str, frame: &[u8], reason: Counter) {
        let before = self.cluster.nodes[0].drops(reason);
        self.from.send(frame);
        until(&format!("{what} to be counted as {}", reason.name()), || {
            self.cluster.nodes[0].drops(reason) > before
        });
        for (place, frames) in &self.places {
            assert!(!frames.saw_mark(), "{what} arrived at {place}");
        }
    }
}

#[test]
fn what_a_pod_may_not_send_arrives_nowhere_and_its_neighbours_do_not_notice() {
    let mut cluster = Cluster::new(Path::Native);
    let (a, b) = (cluster.nodes[0].pod(), cluster.nodes[0].pod());
    let c = cluster.nodes[1].pod();
    let node = cluster.nodes[0].addresses.clone();
    let neighbours = BOTH.map(|family| Neighbours::of(&cluster, family, &b, &c));
    let places = vec![
        ("a Pod of the same node", Frames::open(&b.netns.0, "eth0")),
        ("a Pod of another node", Frames::open(&c.netns.0, "eth0")),
        ("the uplink", Frames::open(cluster.outside(), "n2")),
    ];
    let mut attack = Attack { from: Frames::open(&a.netns.0, "eth0"), places, cluster };
    let others = |family: usize| {
        let outside = attack_outside(family);
        [b.addresses[family], c.addresses[family], node[family], DNS_IP[family].parse().unwrap(), outside]
    };
    for family in BOTH {
        let others = others(family);
        vlan_tags(&mut attack, &a, family, &others);
        sources(&mut attack, &a, family, &others);
        lengths(&mut attack, &a, family, &others);
    }
    discovery(&mut attack, &a, &[b.v6(), c.v6()]);
    invented_neighbours(&mut attack);
    // What the Pod may send still arrives.
    for family in BOTH {
        let [from, to] = [a.addresses[family], c.addresses[family]];
        attack.from.send(&datagram(from, to).frame());
        assert!(attack.places[1].1.next(has_mark).is_some());
    }
    neighbours.into_iter().for_each(Neighbours::lost_nothing);
}

fn attack_outside(family: usize) -> IpAddr {
    ["192.168.1.1", "fd00:192:168:1::1"][family].parse().unwrap()
}

fn datagram(from: IpAddr, to: IpAddr) -> Ip {
    Ip::udp(SocketAddr::new(from, 4000), SocketAddr::new(to, 4001), MARK)
}

/// E5: frames with a VLAN tag, also one that says that there is no VLAN.
fn vlan_tags(attack: &mut Attack, a: &Pod, family: usize, others: &[IpAddr]) {
    for to in others {
        for vlan in [0_u16, 5, 4094] {
            let mut tagged = vlan.to_be_bytes().to_vec();
            tagged.extend([IPV4, IPV6][family].to_be_bytes());
            tagged.extend(datagram(a.addresses[family], *to).bytes());
            let what = format!("VLAN {vlan} to {to}");
            attack.try_this(&what, &frame(0x8100, &tagged), Counter::Vlan);
        }
    }
}

/// E6: a Pod sends from its own addresses, and from nothing else.
fn sources(attack: &mut Attack, a: &Pod, family: usize, others: &[IpAddr]) {
    let strange: [&[&str]; 2] = [
        &["240.0.0.1", "255.255.255.255", "224.0.0.1", "0.0.0.0", "127.0.0.1", "169.254.1.1", "10.96.0.53"],
        &["::", "::1", "ff02::1", "fe80::1", "fe80::7", "fd00:10:96::53"],
    ];
    let multicast: IpAddr = ["224.0.0.251", "ff02::fb"][family].parse().unwrap();
    for source in strange[family].iter().map(|text| text.parse::<IpAddr>().unwrap()) {
        for to in others.iter().copied().chain([multicast]) {
            let is_of_link = ["fe80::1", "fe80::7", "::"].contains(&&*source.to_string()) && to == multicast;
            let reason = if is_of_link { Counter::LinkOnly } else { Counter::SourceAddress };
            attack.try_this(&format!("{source} to {to}"), &datagram(source, to).frame(), reason);
        }
    }
    for stolen in others {
        for to in others {
            let what = format!("{stolen} to {to}");
            attack.try_this(&what, &datagram(*stolen, *to).frame(), Counter::SourceAddress);
        }
    }
    if family == 1 {
        // IPv4's addresses as IPv6's, which would be taken for the Pod's own, and for another Pod's.
        let IpAddr::V4(own) = a.v4() else { panic!("IPv4") };
        let mapped = IpAddr::V6(own.to_ipv6_mapped());
        for (from, to) in [(mapped, others[0]), (a.v6(), mapped)] {
            let what = format!("{from} to {to}");
            attack.try_this(&what, &datagram(from, to).frame(), Counter::Malformed);
        }
    }
}

/// E19: no hop left, and lengths that are not true.
fn lengths(attack: &mut Attack, a: &Pod, family: usize, others: &[IpAddr]) {
    type Change = fn(&mut [u8]);
    let v4: &[(&str, Change)] = &[
        ("longer than it is", |ip| ip[2..4].copy_from_slice(&1000_u16.to_be_bytes())),
        ("shorter than it is", |ip| ip[2..4].copy_from_slice(&29_u16.to_be_bytes())),
        ("shorter than its header", |ip| ip[2..4].copy_from_slice(&19_u16.to_be_bytes())),
        ("of no length", |ip| ip[2..4].fill(0)),
        ("with a header of four words", |ip| ip[0] = 0x44),
        ("with a header longer than it is", |ip| {
            ip[0] = 0x4f;
            ip[2..4].copy_from_slice(&40_u16.to_be_bytes());
        }),
        ("of version 5", |ip| ip[0] = 0x55),
    ];
    let v6: &[(&str, Change)] = &[
        ("longer than it is", |ip| ip[4..6].copy_from_slice(&1000_u16.to_be_bytes())),
        ("shorter than it is", |ip| ip[4..6].copy_from_slice(&9_u16.to_be_bytes())),
        ("of no length", |ip| ip[4..6].fill(0)),
        ("of version 5", |ip| ip[0] = 0x50),
    ];
    for to in others {
        // Longer than what is padded.
        let [from, to] = [a.addresses[family], *to].map(|address| SocketAddr::new(address, 4000));
        let packet = Ip::udp(from, to, &MARK.repeat(4));
        attack.try_this(&format!("no hop to {to}"), &packet.clone().hops(0).frame(), Counter::Malformed);
        for (what, change) in [v4, v6][family] {
            let mut ip = packet.bytes();
            change(&mut ip);
            if family == 0 {
                resum(&mut ip);
            }
            let what = format!("a packet {what} to {to}");
            attack.try_this(&what, &frame([IPV4, IPV6][family], &ip), Counter::Malformed);
        }
    }
}

/// E4: neighbour discovery stays on the Pod's link, also behind extension headers; and nothing hides behind many of them.
fn discovery(attack: &mut Attack, a: &Pod, others: &[IpAddr]) {
    for to in others {
        for kind in 133..=137 {
            let mut target = octets(*to);
            target.extend(MARK);
            let message = Ip::icmp(a.v6(), *to, kind, 0, [0x20, 0, 0, 0], &target).hops(255);
            let what = format!("ICMPv6 {kind} to {to}");
            attack.try_this(&what, &message.frame(), Counter::BeyondLink);
            for (headers, reason) in [(1, Counter::BeyondLink), (7, Counter::Malformed)] {
                let what = format!("ICMPv6 {kind} behind {headers} headers to {to}");
                attack.try_this(&what, &behind_options(&message, headers).frame(), reason);
            }
        }
    }
}

/// A node remembers nobody whom a Pod invents on its link, because its table of neighbours is for all of its Pods.
fn invented_neighbours(attack: &mut Attack) {
    let before = attack.cluster.nodes[0].drops(Counter::LinkOnly);
    let invented: Vec<IpAddr> =
        (1..=100).map(|host| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host).into()).collect();
    for &from in &invented {
        // A router solicitation with a hardware address.
        let hardware = [1, 1, 2, 0, 0, 0, 0, 1];
        let message = Ip::icmp(from, "ff02::2".parse().unwrap(), 133, 0, [0; 4], &hardware).hops(255);
        attack.from.send(&message.frame());
    }
    until("all of it to be counted", || attack.cluster.nodes[0].drops(Counter::LinkOnly) >= before + 100);
    let node = &attack.cluster.nodes[0].netns.0;
    let neighbours = Netlink::open_in(node).unwrap().neighbours().unwrap();
    assert!(!neighbours.iter().any(|one| invented.contains(&one.address)), "{neighbours:?}");
}

/// The same packet behind so many headers with destination options.
pub fn behind_options(packet: &Ip, headers: usize) -> Ip {
    const DESTINATION_OPTIONS: u8 = 60;
    let mut payload = Vec::new();
    for header in 1..=headers {
        let next = if header == headers { ICMPV6 } else { DESTINATION_OPTIONS };
        // Six bytes of padding.
        payload.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(&packet.payload);
    Ip { protocol: DESTINATION_OPTIONS, payload, ..packet.clone() }
}
