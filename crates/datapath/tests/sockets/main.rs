//! Services at the socket: real processes in a cgroup of their own, in Pods and on the node.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod datagrams;
mod process;
mod service;

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
};

use process::Process;
use service::{DNS, DNS6, Server, Services, plan};
use support::{Fabric, answerer::Answerer, until};
use weft_model::{
    PortMapping, Protocol,
    services::{FrontendKind, WhenEmpty},
};

const VIP: &str = "10.96.0.10";
const VIP6: &str = "fd00:10:96::10";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn a_tcp_connection_to_a_cluster_ip_reaches_a_backend_from_pods_and_from_the_node_in_both_families() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    for (vip, ip) in [(VIP, backend.v4()), (VIP6, backend.v6())] {
        let server = Server::tcp(&backend, ip);
        let mut wanted = plan(Protocol::Tcp, &[server.address]);
        wanted.frontend(at(vip, 80), FrontendKind::ClusterIp);
        services.serve(wanted);
        let mut in_pod = Process::in_pod(&services, &client);
        assert_eq!(in_pod.tcp(at(vip, 80)), Ok(at(vip, 80)), "getpeername says what was asked");
        assert_eq!(in_pod.ask(), server.greeting(if ip.is_ipv4() { client.v4() } else { client.v6() }));
        let mut on_node = Process::on_node(&services);
        assert_eq!(on_node.tcp(at(vip, 80)), Ok(at(vip, 80)));
        assert!(on_node.ask().starts_with(&server.name));
    }
}

/// What a process is told by who answers port 53 of the DNS Service, over TCP and UDP.
fn who_answers(process: &mut Process, dns: SocketAddr) -> String {
    assert_eq!(process.tcp(dns), Ok(dns));
    let by_tcp = process.ask();
    if dns.is_ipv4() {
        process.udp()
    } else {
        process.udp6()
    };
    process.send(dns).unwrap();
    let (from, by_udp) = process.receive();
    assert_eq!(from, dns);
    let name = |answer: &str| answer.split(' ').next().unwrap().to_owned();
    assert_eq!(name(&by_tcp), name(&by_udp));
    name(&by_tcp)
}

#[test]
fn a_socket_of_the_node_answers_processes_of_the_node_and_of_pods_while_there_is_one() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    for (dns, ip) in [(at(DNS, 53), backend.v4()), (at(DNS6, 53), backend.v6())] {
        let other = SocketAddr::new(ip, 53);
        let _other = Answerer::at(&backend.netns.0, other, "other");
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut wanted = plan(protocol, &[other]);
            wanted.frontend(dns, FrontendKind::ClusterIp);
            services.serve(wanted);
        }
        let (mut on_node, mut in_pod) = (Process::on_node(&services), Process::in_pod(&services, &client));
        for process in [&mut on_node, &mut in_pod] {
            assert_eq!(who_answers(process, dns), "other");
            {
                let _here = Answerer::at(&services.node.netns.0, dns, "here");
                assert_eq!(who_answers(process, dns), "here");
            }
            assert_eq!(who_answers(process, dns), "other");
        }
    }
}

#[test]
fn connections_spread_evenly_over_the_backends() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let servers: Vec<Server> = (0..4).map(|_| Server::tcp(&backend, backend.v4())).collect();
    let mut wanted = plan(Protocol::Tcp, &servers.iter().map(|server| server.address).collect::<Vec<_>>());
    wanted.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    services.serve(wanted);
    let mut client = Process::in_pod(&services, &client);
    for _ in 0..2000 {
        client.tcp(at(VIP, 80)).unwrap();
    }
    let installed = services.installed();
    assert_eq!(installed.connections, 2000);
    for backend in &installed.internal {
        // 500 expected, standard deviation 19.4: five of them.
        assert!(backend.connections.abs_diff(500) < 97, "{backend:?}");
    }
}

#[test]
fn without_a_backend_a_connection_is_refused_at_once_and_a_port_that_the_service_lacks_too() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let client = services.node.pod();
    let mut wanted = plan(Protocol::Tcp, &[]);
    wanted.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    services.serve(wanted);
    for mut process in [Process::in_pod(&services, &client), Process::on_node(&services)] {
        assert_eq!(process.tcp(at(VIP, 80)), Err(ErrorKind::ConnectionRefused));
        assert_eq!(process.tcp(at(VIP, 81)), Err(ErrorKind::ConnectionRefused));
        process.udp();
        assert_eq!(process.send(at(VIP, 80)), Err(ErrorKind::ConnectionRefused));
    }
    assert_eq!(services.installed().without_backend, 2);
}

/// A1: Java and .NET open such sockets for everything.
#[test]
fn an_ipv6_socket_with_an_ipv4_mapped_address_is_an_ipv4_client() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let (tcp, udp) = (Server::tcp(&backend, backend.v4()), Server::udp(&backend, backend.v4()));
    for (protocol, server) in [(Protocol::Tcp, &tcp), (Protocol::Udp, &udp)] {
        let mut wanted = plan(protocol, &[server.address]);
        wanted.frontend(at(VIP, 80), FrontendKind::ClusterIp);
        services.serve(wanted);
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let vip = mapped(at(VIP, 80));
    for mut process in [Process::in_pod(&services, &client), Process::on_node(&services)] {
        assert_eq!(process.tcp(vip), Ok(vip));
        assert!(process.ask().starts_with(&tcp.name));
        // Unconnected.
        process.udp6();
        process.send(vip).unwrap();
        let (from, answer) = process.receive();
        assert_eq!((from, answer.starts_with(&udp.name)), (vip, true), "{answer}");
    }
    // Connected, with send(2) and with sendto(2). Of a node such packets take the overlay device, which this node lacks.
    let mut process = Process::in_pod(&services, &client);
    process.udp6();
    process.connect(vip).unwrap();
    process.send_connected().unwrap();
    let (from, answer) = process.receive();
    assert_eq!((from, answer.starts_with(&udp.name)), (vip, true), "{answer}");
    process.send(vip).unwrap();
    assert_eq!(process.receive().0, vip);
}

/// E7: connect(2) with AF_UNSPEC and then elsewhere leaves nothing behind, or anybody could fill the table for the whole node.
#[test]
fn a_socket_that_is_connected_elsewhere_is_not_remembered() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let (server, other) = (Server::tcp(&backend, backend.v4()), Server::tcp(&backend, backend.v4()));
    let mut wanted = plan(Protocol::Tcp, &[server.address]);
    wanted.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    services.serve(wanted);
    let mut process = Process::in_pod(&services, &client);
    for elsewhere in [other.address, server.address] {
        process.tcp(at(VIP, 80)).unwrap();
        assert_eq!(services.remembered_sockets(), 1);
        assert_eq!(
            process.tcp_again(elsewhere),
            Ok(elsewhere),
            "getpeername says what it is connected to now"
        );
        assert_eq!(services.remembered_sockets(), 0);
        process.close();
    }
    // Back to the Service, it is remembered again, and forgotten when it is closed.
    process.tcp(at(VIP, 80)).unwrap();
    assert_eq!(process.tcp_again(other.address), Ok(other.address));
    assert_eq!(process.tcp_again(at(VIP, 80)), Ok(at(VIP, 80)));
    assert_eq!(services.remembered_sockets(), 1);
    process.close();
    until("the socket to be forgotten", || services.remembered_sockets() == 0);
}

#[test]
fn the_sockets_of_a_backend_that_is_gone_end_and_those_of_a_terminating_one_go_on() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let (one, two) = (Server::tcp(&backend, backend.v4()), Server::tcp(&backend, backend.v4()));
    let mut wanted = plan(Protocol::Tcp, &[one.address]);
    wanted.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    services.serve(wanted);
    let mut in_pod = Process::in_pod(&services, &client);
    let mut on_node = Process::on_node(&services);
    let mut direct = Process::in_pod(&services, &client);
    in_pod.tcp(at(VIP, 80)).unwrap();
    on_node.tcp(at(VIP, 80)).unwrap();
    direct.tcp(one.address).unwrap();
    // Draining: it is known, but new connections go elsewhere.
    let mut draining = plan(Protocol::Tcp, &[two.address]);
    draining.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    draining.draining(one.address);
    services.serve(draining);
    assert!(in_pod.ask().starts_with(&one.name));
    let mut late = Process::in_pod(&services, &client);
    late.tcp(at(VIP, 80)).unwrap();
    assert!(late.ask().starts_with(&two.name));
    // Gone.
    let mut gone = plan(Protocol::Tcp, &[two.address]);
    gone.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    services.serve(gone);
    assert_eq!(in_pod.wait_for_end(), "ConnectionAborted");
    assert_eq!(on_node.wait_for_end(), "ConnectionAborted");
    assert!(late.ask().starts_with(&two.name), "who has another backend is not disturbed");
    assert!(direct.ask().starts_with(&one.name), "who named the address itself is not either");
}

#[test]
fn a_client_with_affinity_comes_back_to_its_backend_as_long_as_that_may_be_chosen() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let servers: Vec<Server> = (0..8).map(|_| Server::tcp(&backend, backend.v4())).collect();
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let mut wanted = plan(Protocol::Tcp, &addresses);
    wanted.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    wanted.plan.affinity_seconds = Some(10_800);
    services.serve(wanted.clone());
    let mut process = Process::in_pod(&services, &client);
    let mut ask = || {
        process.tcp(at(VIP, 80)).unwrap();
        process.ask().split(' ').next().unwrap().to_owned()
    };
    let first = ask();
    assert!((0..20).all(|_| ask() == first));
    // Terminating: connections stay, new ones go elsewhere, and stay there.
    let chosen = servers.iter().find(|server| server.name == first).unwrap().address;
    wanted.draining(chosen);
    services.serve(wanted);
    let second = ask();
    assert_ne!(second, first);
    assert!((0..20).all(|_| ask() == second));
}

#[test]
fn a_port_of_the_node_that_leads_to_a_pod_answers_the_node_s_own_processes_also_on_loopback() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let mapping = |host_port, container_port| PortMapping {
        host_ip: None,
        host_port,
        container_port,
        protocol: Protocol::Tcp,
    };
    let pod = services.node.pod_like(|spec| spec.port_mappings = vec![mapping(81, 8080)]);
    for (ip, loopback) in [(pod.v4(), "127.0.0.1"), (pod.v6(), "::1")] {
        let server = Server::tcp_at(&pod, SocketAddr::new(ip, 8080));
        let node = services.node.addresses[usize::from(ip.is_ipv6())];
        let mut on_node = Process::on_node(&services);
        for address in [SocketAddr::new(node, 81), at(loopback, 81)] {
            assert_eq!(on_node.tcp(address), Ok(address));
            assert_eq!(on_node.ask(), server.greeting(node));
        }
        let mut itself = Process::in_pod(&services, &pod);
        itself.tcp(SocketAddr::new(node, 81)).unwrap();
        assert!(itself.ask().starts_with(&server.name), "the Pod reaches itself by its node");
    }
}

/// A listener of the node's own that says that it is.
fn own_listener(services: &Services, address: SocketAddr) -> std::thread::JoinHandle<()> {
    let listener = services.node.netns.0.run(|| std::net::TcpListener::bind(address).unwrap()).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"the node's own\n").unwrap();
    })
}

/// A5: a host port with `hostIP` answers there and nowhere else.
#[test]
fn a_port_of_one_address_answers_there_only_and_one_of_loopback_nobody_but_the_node() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let node = services.node.addresses[0];
    let mapping = |on: IpAddr, host_port| PortMapping {
        host_ip: Some(on),
        host_port,
        container_port: 8080,
        protocol: Protocol::Tcp,
    };
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let mappings = vec![mapping(node, 81), mapping(loopback, 82)];
    let pod = services.node.pod_like(|spec| spec.port_mappings = mappings);
    let server = Server::tcp_at(&pod, SocketAddr::new(pod.v4(), 8080));
    let mut on_node = Process::on_node(&services);
    for address in [SocketAddr::new(node, 81), SocketAddr::new(loopback, 82)] {
        assert_eq!(on_node.tcp(address), Ok(address));
        assert_eq!(on_node.ask(), server.greeting(node));
    }
    for address in [SocketAddr::new(loopback, 81), SocketAddr::new(node, 82)] {
        assert_eq!(on_node.tcp(address), Err(ErrorKind::ConnectionRefused), "{address}");
    }
    // A daemon that listens there keeps its connections.
    let daemon = own_listener(&services, SocketAddr::new(loopback, 81));
    on_node.tcp(SocketAddr::new(loopback, 81)).unwrap();
    assert_eq!(on_node.ask(), "the node's own");
    daemon.join().unwrap();
    // Every Pod has a loopback of its own.
    let other = services.node.pod();
    let mut in_pod = Process::in_pod(&services, &other);
    assert_eq!(in_pod.tcp(SocketAddr::new(loopback, 82)), Err(ErrorKind::ConnectionRefused));
    // The next process knows it the same way.
    services.start();
    services.replace(Vec::new());
    assert_eq!(on_node.tcp(SocketAddr::new(loopback, 81)), Err(ErrorKind::ConnectionRefused));
    on_node.tcp(SocketAddr::new(node, 81)).unwrap();
    assert_eq!(on_node.ask(), server.greeting(node));
}

/// E2: whatever a Service names, the agent reaches the API server that it dials.
#[test]
fn what_the_agent_connects_to_an_api_server_is_not_translated() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let server = Server::tcp(&backend, backend.v4());
    let api = SocketAddr::new(services.node.addresses[0], 6443);
    let mut wanted = plan(Protocol::Tcp, &[server.address]);
    wanted.frontend(api, FrontendKind::ExternalIp);
    services.serve(wanted);
    let own = own_listener(&services, api);
    let mut on_node = Process::on_node(&services);
    on_node.tcp(api).unwrap();
    assert!(on_node.ask().starts_with(&server.name), "everybody else is translated");
    on_node.agent_tcp(api).unwrap();
    assert_eq!(on_node.ask(), "the node's own");
    own.join().unwrap();
    // A Pod is not the agent, whatever it says.
    let mut in_pod = Process::in_pod(&services, &client);
    in_pod.agent_tcp(api).unwrap();
    assert!(in_pod.ask().starts_with(&server.name));
}

#[test]
fn a_node_port_answers_the_node_s_own_processes_on_its_addresses_and_on_loopback_and_pods_on_its_addresses() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let server = Server::tcp(&backend, backend.v4());
    let mut wanted = plan(Protocol::Tcp, &[server.address]);
    let node: IpAddr = services.node.addresses[0];
    wanted.frontend(SocketAddr::new(node, 30_080), FrontendKind::NodePort);
    services.serve(wanted);
    let mut on_node = Process::on_node(&services);
    for address in [SocketAddr::new(node, 30_080), at("127.0.0.1", 30_080)] {
        on_node.tcp(address).unwrap();
        assert!(on_node.ask().starts_with(&server.name));
    }
    let mut in_pod = Process::in_pod(&services, &client);
    in_pod.tcp(SocketAddr::new(node, 30_080)).unwrap();
    assert!(in_pod.ask().starts_with(&server.name));
    assert_eq!(in_pod.tcp(at("127.0.0.1", 30_080)), Err(ErrorKind::ConnectionRefused));
    assert_eq!(
        on_node.tcp(SocketAddr::new(node, 30_081)),
        Err(ErrorKind::ConnectionRefused),
        "by the node itself"
    );
}

#[test]
fn a_restart_attaches_nothing_anew_and_writes_nothing_and_connections_go_on() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let (client, backend) = (services.node.pod(), services.node.pod());
    let server = Server::tcp(&backend, backend.v4());
    let mut wanted = plan(Protocol::Tcp, &[server.address]);
    wanted.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    services.serve(wanted.clone());
    let mut process = Process::in_pod(&services, &client);
    process.tcp(at(VIP, 80)).unwrap();
    services.node.stop();
    let mut meanwhile = Process::in_pod(&services, &client);
    meanwhile.tcp(at(VIP, 80)).unwrap();
    assert!(meanwhile.ask().starts_with(&server.name), "served without an agent");
    services.start();
    let written = services.replace(vec![wanted.clone()]);
    assert_eq!(written.written.total(), 0);
    assert!(process.ask().starts_with(&server.name));
    services.node.with(|datapath| datapath.know_namespace(client.netns.0.path()).unwrap());
    let mut gone = plan(Protocol::Tcp, &[]);
    gone.frontend(at(VIP, 80), FrontendKind::ClusterIp);
    services.serve(gone);
    assert_eq!(process.wait_for_end(), "ConnectionAborted");
}

#[test]
fn what_the_rules_drop_is_not_refused() {
    let fabric = Fabric::new();
    let mut services = Services::new(&fabric, 2);
    let mut wanted = plan(Protocol::Tcp, &[]);
    let node = services.node.addresses[0];
    wanted.frontend(SocketAddr::new(node, 30_080), FrontendKind::NodePort);
    wanted.plan.cluster.when_empty = WhenEmpty::Drop;
    services.serve(wanted);
    let mut process = Process::on_node(&services);
    assert_eq!(process.tcp(SocketAddr::new(node, 30_080)), Err(ErrorKind::PermissionDenied));
    until("counted", || services.installed().without_backend == 1);
}

/// Not a test: what [`Process`] runs.
#[test]
#[ignore = "is run by the other tests as a process of its own"]
fn client() {
    process::serve();
}
