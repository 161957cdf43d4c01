//! The data plane outlives the process, and what others break is put back.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use aya::maps::{Array, Map, MapData};
use support::{DEADLINE, Fabric, Node, Pod, tcp};
use weft_datapath::{Datapath, LoadError, OpenError, Origin, Path};
use weft_netns::Netlink;

/// Changes what the pins say they were made from.
fn write_meta(node: &Node, index: u32, value: u64) {
    let data = MapData::from_pin(node.bpffs.path().join("weft/maps/META")).unwrap();
    let mut meta: Array<_, u64> = Array::try_from(Map::Array(data)).unwrap();
    meta.set(index, value, 0).unwrap();
}

struct Stream {
    client: TcpStream,
    server: TcpStream,
}

impl Stream {
    fn between(from: &Pod, to: &Pod) -> Stream {
        let listener = to.netns.0.run(|| TcpListener::bind((to.v4(), 0)).unwrap()).unwrap();
        let target = listener.local_addr().unwrap();
        let client = from.netns.0.run(|| TcpStream::connect_timeout(&target, DEADLINE).unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        Stream { client, server }
    }

    fn goes_on(&mut self) {
        self.client.write_all(b"on").unwrap();
        let mut buffer = [0; 2];
        self.server.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"on");
    }
}

#[test]
fn a_restart_adopts_what_it_finds_and_writes_nothing() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    one.join(&[&two], Path::Overlay);
    two.join(&[&one], Path::Overlay);
    let (a, b) = (one.pod(), two.pod());
    let mut stream = Stream::between(&a, &b);
    one.stop();
    stream.goes_on();
    assert!(tcp(&a.netns.0, &b.netns.0, b.v4()).is_ok(), "new connections while no process is there");
    one.start();
    stream.goes_on();
    assert_eq!(one.with(|datapath| datapath.origin()), Origin::Adopted);
    let applied = one.join(&[&two], Path::Overlay);
    assert!(applied.is_nothing(), "{applied:?}");
    assert_eq!(one.with(|datapath| datapath.repair().unwrap()), Vec::<String>::new());
    let installed = one.with(|datapath| datapath.pods().unwrap());
    assert_eq!(installed.len(), 1);
    assert_eq!(installed[0].host_interface, a.spec.host_interface);
}

#[test]
fn a_changed_program_takes_over_running_links() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let (a, b) = (node.pod(), node.pod());
    let mut stream = Stream::between(&a, &b);
    node.stop();
    // As if the pins were made by another build.
    write_meta(&node, 1, 12345);
    node.start();
    assert_eq!(node.with(|datapath| datapath.origin()), Origin::Replaced);
    stream.goes_on();
    assert!(tcp(&a.netns.0, &b.netns.0, b.v4()).is_ok());
    assert_eq!(
        node.with(|datapath| datapath.repair().unwrap()),
        Vec::<String>::new(),
        "every hook runs the new ones"
    );
    node.stop();
    node.start();
    assert_eq!(node.with(|datapath| datapath.origin()), Origin::Adopted);
}

#[test]
fn pins_of_another_abi_are_refused_with_what_to_do_and_stay_as_they_are() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let (a, b) = (node.pod(), node.pod());
    node.stop();
    write_meta(&node, 0, 999);
    let settings = node.settings();
    let error = node.netns.0.run(|| Datapath::open(&settings).err()).unwrap().unwrap();
    assert!(matches!(error, OpenError::Load(LoadError::Abi { found: 999, .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains("999") && text.contains("drain this node"), "{text}");
    assert!(tcp(&a.netns.0, &b.netns.0, b.v4()).is_ok(), "what runs goes on running");
}

#[test]
fn a_folder_that_is_not_on_a_bpffs_is_refused() {
    let fabric = Fabric::new();
    let node = fabric.node(2);
    let mut settings = node.settings();
    settings.bpffs = std::env::temp_dir().join("weft-not-a-bpffs");
    let error = node.netns.0.run(|| Datapath::open(&settings).err()).unwrap().unwrap();
    assert!(matches!(error, OpenError::Load(LoadError::NotBpffs(_))), "{error}");
    assert!(!settings.bpffs.exists());
}

#[test]
fn what_somebody_removed_is_put_back_and_reported() {
    let fabric = Fabric::new();
    let (mut one, mut two) = (fabric.node(2), fabric.node(3));
    one.join(&[&two], Path::Overlay);
    two.join(&[&one], Path::Overlay);
    let (a, b) = (one.pod(), two.pod());
    let mut netlink = Netlink::open_in(&one.netns.0).unwrap();
    let ours = |netlink: &mut Netlink| -> Vec<_> {
        netlink.routes().unwrap().into_iter().filter(|route| route.protocol == 119).collect()
    };
    let before = ours(&mut netlink);
    before.iter().for_each(|route| netlink.delete_route(route).unwrap());
    let overlay = netlink.link("weft0").unwrap().index;
    netlink.delete_link(overlay).unwrap();
    assert!(tcp(&one.netns.0, &b.netns.0, b.v4()).is_err());
    let done = one.with(|datapath| datapath.repair().unwrap());
    assert!(done.iter().any(|line| line.contains("weft0 made")), "{done:?}");
    assert!(done.iter().any(|line| line.contains("routes of the host put back")), "{done:?}");
    assert_eq!(ours(&mut netlink).len(), before.len());
    for (from, to) in [(&a.netns.0, &b), (&one.netns.0, &b)] {
        assert!(tcp(from, &to.netns.0, to.v4()).is_ok());
        assert!(tcp(from, &to.netns.0, to.v6()).is_ok());
    }
    assert_eq!(one.with(|datapath| datapath.repair().unwrap()), Vec::<String>::new());
}

#[test]
fn programs_that_somebody_took_from_a_pods_interface_are_put_back() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let (a, b) = (node.pod(), node.pod());
    let mut netlink = Netlink::open_in(&node.netns.0).unwrap();
    let index = netlink.link(&a.spec.host_interface).unwrap().index;
    netlink.unbind_blocks(index).unwrap();
    let done = node.with(|datapath| datapath.repair().unwrap());
    assert!(done.iter().any(|line| line.contains("put back on 1 Pods")), "{done:?}");
    assert!(tcp(&a.netns.0, &b.netns.0, b.v4()).is_ok());
    assert_eq!(node.with(|datapath| datapath.repair().unwrap()), Vec::<String>::new());
}

#[test]
fn an_interface_can_be_made_again_at_once_after_its_removal() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let (a, b) = (node.pod(), node.pod());
    for _ in 0..5 {
        node.with(|datapath| {
            datapath.remove_pod(&a.spec.host_interface).unwrap();
            datapath.add_pod(&a.spec).unwrap();
        });
    }
    assert!(tcp(&a.netns.0, &b.netns.0, b.v4()).is_ok());
    assert_eq!(node.with(|datapath| datapath.pods().unwrap()).len(), 2);
}

#[test]
fn a_removed_pod_leaves_nothing_and_removal_needs_no_namespace() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let (a, b) = (node.pod(), node.pod());
    let host = a.spec.host_interface.clone();
    drop(a.netns);
    node.with(|datapath| {
        datapath.remove_pod(&host).unwrap();
        datapath.remove_pod(&host).unwrap();
    });
    let mut netlink = Netlink::open_in(&node.netns.0).unwrap();
    let there = |netlink: &mut Netlink| netlink.links().unwrap().iter().any(|link| link.name == host);
    support::until("the interface is gone", || !there(&mut netlink));
    assert_eq!(node.with(|datapath| datapath.pods().unwrap()).len(), 1);
    assert!(node.with(|datapath| datapath.check_pod(&b.spec)).is_ok());
    let routes = Netlink::open_in(&node.netns.0).unwrap().routes().unwrap();
    assert!(a.spec.addresses.iter().all(|gone| routes.iter().all(|route| route.destination != *gone)));
}

#[test]
fn check_notices_a_missing_link_address_or_route() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let pod = node.pod();
    let mut inside = Netlink::open_in(&pod.netns.0).unwrap();
    let link = inside.link("eth0").unwrap().index;
    let said = |node: &mut Node| {
        node.with(|datapath| datapath.check_pod(&pod.spec))
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    assert_eq!(said(&mut node), "");
    let default = inside.routes().unwrap().into_iter().find(|route| route.prefix_len == 0).unwrap();
    inside.delete_route(&default).unwrap();
    assert!(said(&mut node).contains("default route"), "{}", said(&mut node));
    inside.delete_address(link, pod.v4(), 32).unwrap();
    assert!(said(&mut node).contains("address"), "{}", said(&mut node));
    inside.delete_link(link).unwrap();
    assert!(said(&mut node).contains("interface"), "{}", said(&mut node));
}

#[test]
fn an_interface_name_that_is_taken_in_the_pod_is_refused_and_leaves_nothing() {
    let fabric = Fabric::new();
    let mut node = fabric.node(2);
    let pod = node.pod();
    let mut spec = pod.spec.clone();
    spec.host_interface = weft_datapath::host_interface("another", "eth0");
    let error = node.with(|datapath| datapath.add_pod(&spec)).unwrap_err();
    assert!(error.to_string().contains("already has an interface eth0"), "{error}");
    assert_eq!(node.with(|datapath| datapath.pods().unwrap()).len(), 1);
    assert!(node.with(|datapath| datapath.check_pod(&pod.spec)).is_ok());
}
