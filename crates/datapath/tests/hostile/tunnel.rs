//! What the programs wrap and unwrap themselves, beside what they leave to the overlay's device.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use socket2::SockRef;
use weft_datapath::Path;
use weft_netns::{Netlink, Netns};

use crate::{
    cluster::{BOTH, Cluster},
    packet::{Ip, resum},
    raw::{Frames, MARK, has_mark},
    support::tunnelled,
};

/// Ethernet, IPv4, UDP, VXLAN and Ethernet: what lies before the inner IP packet.
const OUTER: usize = 14 + 20 + 8 + 8 + 14;

/// What a frame's IP header at this offset says of congestion.
fn congestion(frame: &[u8], at: usize) -> u8 {
    if frame[at] >> 4 == 4 { frame[at + 1] & 3 } else { frame[at + 1] >> 4 & 3 }
}

fn hardware(netns: &Netns, interface: &str) -> Vec<u8> {
    Netlink::open_in(netns).unwrap().link(interface).unwrap().mac
}

/// RFC 6040: the outer header says of congestion what the inner one says, and what it is told on its way reaches the Pod.
#[test]
fn congestion_is_told_through_the_tunnel() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (receiver, sender) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    let at_pod = Frames::open(&receiver.netns.0, "eth0");
    let at_node = Frames::open(&cluster.nodes[0].netns.0, "eth0");
    for family in BOTH {
        let to = SocketAddr::new(receiver.addresses[family], 9);
        let socket = sender.netns.0.run(|| UdpSocket::bind((sender.addresses[family], 0)).unwrap()).unwrap();
        for said in 0..3_u8 {
            if to.is_ipv4() {
                SockRef::from(&socket).set_tos_v4(said.into()).unwrap();
            } else {
                SockRef::from(&socket).set_tclass_v6(said.into()).unwrap();
            }
            socket.send_to(MARK, to).unwrap();
            let outer = at_node.next(has_mark).unwrap();
            assert_eq!((congestion(&outer, 14), congestion(&outer, OUTER)), (said, said), "{to}");
            assert_eq!(congestion(&at_pod.next(has_mark).unwrap(), 14), said, "{to}");
        }
    }
    // Marked on its way: nobody drops it, and the receiver is to slow the sender down.
    let [own, other] = [0, 1].map(|number| cluster.nodes[number].addresses[0]);
    let from = SocketAddr::new(sender.v4(), 1000);
    let mut inner = tunnelled(1, from, SocketAddr::new(receiver.v4(), 9), MARK);
    let ip = OUTER - 14 - 20 - 8;
    inner[ip + 1] = 2;
    resum(&mut inner[ip..]);
    let mut outer = Ip::udp(SocketAddr::new(other, 50_000), SocketAddr::new(own, 8472), &inner).bytes();
    // Without a checksum, as tunnel packets are.
    outer[26..28].fill(0);
    outer[1] = 3;
    resum(&mut outer);
    let node = &cluster.nodes[1].netns.0;
    let mut frame = hardware(&cluster.nodes[0].netns.0, "eth0");
    frame.extend(hardware(node, "eth0"));
    frame.extend([8, 0]);
    frame.extend(outer);
    Frames::open(node, "eth0").send(&frame);
    assert_eq!(congestion(&at_pod.next(has_mark).unwrap(), 14), 3);
}

/// What is joined of several packets goes by the device, and a single one past it: from the same port, so that nothing between brings
/// them out of order.
#[test]
fn all_packets_of_a_flow_leave_from_one_port() {
    let mut cluster = Cluster::new(Path::Overlay);
    let (server, client) = (cluster.nodes[0].pod(), cluster.nodes[1].pod());
    for family in BOTH {
        let address = server.addresses[family];
        let listener = server.netns.0.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
        let to = listener.local_addr().unwrap();
        let reads = thread::spawn(move || {
            listener.accept().unwrap().0.read_to_end(&mut Vec::new()).unwrap();
        });
        let frames = Frames::open(&cluster.nodes[0].netns.0, "eth0");
        let mut stream = client.netns.0.run(|| TcpStream::connect(to).unwrap()).unwrap();
        let transport = OUTER + if to.is_ipv4() { 20 } else { 40 };
        let mut ports = BTreeSet::new();
        let (mut single, mut joined) = (false, false);
        while !(single && joined) {
            stream.write_all(&[7; 60_000]).unwrap();
            let mut of_flow =
                |frame: &[u8]| frame.get(transport + 2..transport + 4) == Some(&to.port().to_be_bytes()[..]);
            while let Some(frame) = frames.soon(&mut of_flow) {
                ports.insert([frame[34], frame[35]].map(u16::from));
                if frame.len() > 1514 { joined = true } else { single = true }
            }
        }
        drop(stream);
        reads.join().unwrap();
        assert_eq!(ports.len(), 1, "{ports:?}");
        let port = ports.iter().map(|[high, low]| high << 8 | low).next().unwrap();
        assert!(port >= 49_152, "{port}");
    }
}
