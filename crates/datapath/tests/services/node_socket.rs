//! The Service that sockets of a node answer: cluster DNS.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use weft_datapath::{Counter, Path};
use weft_model::Protocol;
use weft_netns::Netns;

use crate::{
    cluster::{BOTH, Cluster, DNS_IP, Tcp, Udp, at_backend, client, eventually, service},
    support::{answerer::Answerer, until},
};

fn dns(family: usize) -> SocketAddr {
    SocketAddr::new(DNS_IP[family].parse().unwrap(), 53)
}

/// A cluster whose DNS Service has a Pod of the second node as its only backend.
fn cluster(path: Path, family: usize) -> (Cluster, Answerer) {
    let mut cluster = Cluster::new(path);
    let far = cluster.nodes[1].pod();
    let at = SocketAddr::new(far.addresses[family], 53);
    let answerer = Answerer::at(client(&far), at, "far");
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let wanted = service(protocol, &[at]).at(dns(family), weft_model::services::FrontendKind::ClusterIp);
        cluster.serve(&wanted);
    }
    // Its interface lives as long as the cluster.
    cluster.keep(far);
    (cluster, answerer)
}

/// Who answers a new socket of each protocol; both see the client itself.
fn who(from: &Netns, family: usize) -> String {
    let udp = eventually("an answer over UDP", || {
        let socket = Udp::connect(from, dns(family));
        let answer = socket.ask()?;
        let own = socket.local();
        assert!([own, at_backend(own)].map(|seen| seen.port()).contains(&answer.client.port()), "{answer:?}");
        Ok(answer)
    });
    let tcp = Tcp::connect(from, dns(family)).unwrap();
    let answer = tcp.ask().unwrap();
    assert_eq!((&answer.name, answer.client.ip()), (&udp.name, udp.client.ip()));
    udp.name
}

fn a_socket_of_the_node_answers_while_there_is_one(path: Path) {
    for family in BOTH {
        let (mut cluster, _far) = cluster(path, family);
        let pod = cluster.nodes[0].pod();
        assert_eq!(who(client(&pod), family), "far");
        // One client keeps its socket all along.
        let patient = Udp::connect(client(&pod), dns(family));
        let translated = cluster.nodes[0].drops(Counter::PacketService);
        {
            let node = &cluster.nodes[0].netns.0;
            let _here = Answerer::at(node, dns(family), "here");
            assert_eq!(who(client(&pod), family), "here");
            let answer = eventually("an answer from here", || patient.ask());
            assert_eq!((answer.name.as_str(), answer.client), ("here", patient.local()));
        }
        assert_eq!(cluster.nodes[0].drops(Counter::PacketService), translated, "nothing was translated");
        let answer = eventually("an answer from another node", || patient.ask());
        assert_eq!((answer.name.as_str(), answer.client), ("far", at_backend(patient.local())));
        assert_eq!(who(client(&pod), family), "far");
        let _here = Answerer::at(&cluster.nodes[0].netns.0, dns(family), "here");
        assert_eq!(who(client(&pod), family), "here");
        // A7: and so is who was given another node meanwhile, whose flow would otherwise last as long as it asks.
        until("the patient client to be answered here again", || {
            patient.ask().is_ok_and(|answer| answer.name == "here")
        });
    }
}

#[test]
fn a_socket_of_the_node_answers_while_there_is_one_and_others_over_the_overlay_when_not() {
    a_socket_of_the_node_answers_while_there_is_one(Path::Overlay);
}

#[test]
fn a_socket_of_the_node_answers_while_there_is_one_and_others_over_native_routes_when_not() {
    a_socket_of_the_node_answers_while_there_is_one(Path::Native);
}

#[test]
fn a_socket_that_is_bound_to_every_address_is_somebody_elses() {
    for family in BOTH {
        let (mut cluster, _far) = cluster(Path::Native, family);
        let pod = cluster.nodes[0].pod();
        let node = &cluster.nodes[0].netns.0;
        let _stranger = Answerer::everywhere(node, dns(family).ip(), 53, "stranger");
        assert_eq!(who(client(&pod), family), "far");
    }
}

#[test]
fn what_the_node_answers_itself_is_not_tracked_and_ports_that_the_service_has_not_are_refused() {
    for family in BOTH {
        let (mut cluster, _far) = cluster(Path::Native, family);
        let pod = cluster.nodes[0].pod();
        let node = &cluster.nodes[0].netns.0;
        let tracked = || {
            let file = "/proc/thread-self/net/nf_conntrack";
            node.run(|| std::fs::read_to_string(file).unwrap()).unwrap()
        };
        let _here = Answerer::at(node, dns(family), "here");
        assert_eq!(who(client(&pod), family), "here");
        assert!(!tracked().contains("port=53 "), "{}", tracked());
        // What else listens on the node is not reached by this address.
        let _other = Answerer::everywhere(node, dns(family).ip(), 8053, "other");
        let refused = Tcp::connect(client(&pod), SocketAddr::new(dns(family).ip(), 8053)).map(drop);
        assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

/// Asks as fast as it can until told to end.
struct Flood {
    end: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Flood {
    /// `segments` datagrams at a time, which the kernel tells apart late.
    fn begin(from: &Netns, to: SocketAddr, segments: u16) -> Flood {
        let end = Arc::new(AtomicBool::new(false));
        let (told, socket) = (Arc::clone(&end), Udp::connect(from, to).0);
        const LENGTH: u16 = 20;
        if segments > 1 {
            segment(&socket, LENGTH);
        }
        let thread = thread::spawn(move || {
            let (mut sent, begun) = (0, Instant::now());
            while !told.load(Ordering::Relaxed) {
                sent += u64::from(socket.send(&vec![7; usize::from(LENGTH * segments)]).is_ok());
            }
            (sent, begun.elapsed())
        });
        Flood { end, thread }
    }

    /// How often it asked, in which time.
    fn end(self) -> (u64, Duration) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// From now on what is sent at once are datagrams of so many bytes.
fn segment(socket: &UdpSocket, length: u16) {
    let value = libc::c_int::from(length);
    // SAFETY: the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const value).cast(),
            size_of_val(&value) as u32,
        )
    };
    assert_eq!(result, 0);
}

const LIMIT: u32 = 1000;
/// What may come at once, at this limit.
const BURST: f64 = 64.0;

#[test]
fn a_pod_that_asks_too_often_takes_nothing_from_its_neighbour() {
    for (family, segments) in [(0, 1), (1, 1), (0, 16), (1, 16)] {
        let (mut cluster, _far) = cluster(Path::Overlay, family);
        let (noisy, quiet) = (cluster.nodes[0].pod(), cluster.nodes[0].pod());
        let _here = Answerer::at(&cluster.nodes[0].netns.0, dns(family), "here");
        assert_eq!(who(client(&quiet), family), "here");
        cluster.nodes[0].with(|datapath| datapath.limit_dns(LIMIT).unwrap());
        assert_eq!(cluster.nodes[0].drops(Counter::DnsRate), 0);
        let flood = Flood::begin(client(&noisy), dns(family), segments);
        until("a flood", || cluster.nodes[0].drops(Counter::DnsRate) > 0);
        let asks = Udp::connect(client(&quiet), dns(family));
        for number in 0..40 {
            let answer = asks.ask().unwrap_or_else(|error| panic!("{segments} at a time, {number}: {error}"));
            assert_eq!(answer.name, "here");
        }
        let (sent, took) = flood.end();
        let dropped = cluster.nodes[0].drops(Counter::DnsRate);
        let passed = (sent - dropped) * u64::from(segments);
        // The kernel's clock ticks every few milliseconds, and the last datagrams may be more than one.
        let most = f64::from(LIMIT) * (took.as_secs_f64() + 0.02) + BURST + f64::from(segments);
        assert!(passed >= BURST as u64 && passed as f64 <= most, "{passed} of {sent} passed in {took:?}");
    }
}

#[test]
fn how_often_a_pod_may_ask_is_changed_at_once_and_is_nothing_to_the_node() {
    for family in BOTH {
        let (mut cluster, _far) = cluster(Path::Overlay, family);
        let pod = cluster.nodes[0].pod();
        let _here = Answerer::at(&cluster.nodes[0].netns.0, dns(family), "here");
        assert_eq!(who(client(&pod), family), "here");
        let connected = Tcp::connect(client(&pod), dns(family)).unwrap();
        cluster.nodes[0].with(|datapath| datapath.limit_dns(1).unwrap());
        let asks = Udp::connect(client(&pod), dns(family));
        while cluster.nodes[0].drops(Counter::DnsRate) == 0 {
            asks.0.send(b"?").unwrap();
        }
        // Connections count, and what goes on in them does not.
        let too_much =
            (0..10).find_map(|_| Tcp::connect_within(client(&pod), dns(family), PATIENCE).map(drop).err());
        assert_eq!(too_much.unwrap().kind(), io::ErrorKind::TimedOut);
        assert_eq!(connected.ask().unwrap().name, "here");
        let node = &cluster.nodes[0].netns.0;
        let of_node = Udp::connect(node, dns(family));
        for _ in 0..20 {
            assert_eq!(of_node.ask().unwrap().name, "here");
        }
        cluster.nodes[0].with(|datapath| datapath.limit_dns(0).unwrap());
        let before = cluster.nodes[0].drops(Counter::DnsRate);
        let asks = Udp::connect(client(&pod), dns(family));
        for _ in 0..20 {
            assert_eq!(asks.ask().unwrap().name, "here");
        }
        assert_eq!(cluster.nodes[0].drops(Counter::DnsRate), before);
    }
}

const PATIENCE: Duration = Duration::from_millis(200);
