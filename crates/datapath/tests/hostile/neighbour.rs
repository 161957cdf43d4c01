//! Who must not notice.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use weft_netns::Netns;

use crate::{
    cluster::Cluster,
    support::{Pod, answerer::Answerer},
};

const PORT: u16 = 7000;
/// An answer that takes longer is lost. Others use the machine as well.
const PATIENCE: Duration = Duration::from_secs(1);

/// Talks and is answered all the time, and counts what is not.
pub struct Neighbours {
    end: Arc<AtomicBool>,
    talks: Vec<Talk>,
    _servers: Vec<Answerer>,
}

struct Talk {
    name: String,
    asked: Arc<AtomicU32>,
    thread: JoinHandle<u32>,
}

impl Neighbours {
    /// From each of the first namespaces to each server: a namespace and its address.
    fn between(clients: &[(&str, &Netns)], servers: &[(&str, &Netns, IpAddr)]) -> Neighbours {
        let end = Arc::new(AtomicBool::new(false));
        let mut talks = Vec::new();
        let answerers = (servers.iter())
            .map(|(_, netns, address)| Answerer::at(netns, SocketAddr::new(*address, PORT), "there"))
            .collect();
        for (from, netns) in clients {
            for (to, _, address) in servers.iter().filter(|(to, ..)| to != from) {
                let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
                let socket = netns.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
                socket.connect((*address, PORT)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                let asked = Arc::new(AtomicU32::new(0));
                let (until, count) = (Arc::clone(&end), Arc::clone(&asked));
                let thread = thread::spawn(move || talk(&socket, &until, &count));
                talks.push(Talk { name: format!("{from} to {to}"), asked, thread });
            }
        }
        Neighbours { end, talks, _servers: answerers }
    }

    /// In one family of a cluster of two nodes: a Pod of the first, and the other node, ask a Pod of the other node and the first node.
    pub fn of(cluster: &Cluster, family: usize, near: &Pod, far: &Pod) -> Neighbours {
        let [one, two] = [0, 1].map(|node| &cluster.nodes[node]);
        Neighbours::between(
            &[("a Pod of the same node", &near.netns.0), ("another node", &two.netns.0)],
            &[
                ("a Pod of another node", &far.netns.0, far.addresses[family]),
                ("the node", &one.netns.0, one.addresses[family]),
            ],
        )
    }

    /// Waits until everybody has asked often enough for a hundredth to be told, and says who lost more than that.
    pub fn lost_nothing(self) {
        crate::support::until("everybody to have asked a hundred times", || {
            self.talks.iter().all(|talk| talk.asked.load(Ordering::Relaxed) > 100)
        });
        self.end.store(true, Ordering::Relaxed);
        for talk in self.talks {
            let lost = talk.thread.join().unwrap();
            let asked = talk.asked.load(Ordering::Relaxed);
            assert!(lost * 100 <= asked, "{} lost {lost} of {asked}", talk.name);
        }
    }
}

fn talk(socket: &UdpSocket, end: &AtomicBool, asked: &AtomicU32) -> u32 {
    let mut lost = 0;
    let mut buffer = [0; 100];
    while !end.load(Ordering::Relaxed) {
        asked.fetch_add(1, Ordering::Relaxed);
        if socket.send(b"?").is_err() || socket.recv(&mut buffer).is_err() {
            lost += 1;
        }
        // As often as leaves the machine to others.
        thread::sleep(Duration::from_millis(2));
    }
    lost
}
