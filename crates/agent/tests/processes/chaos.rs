//! Agent and plugin killed at random points, for a thousand operations.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use weft_netns::Netlink;

use crate::{
    node::{Answer, Node},
    support::{Scratch, addresses},
};

const RANGES: &[&str] = &["10.244.1.0/27", "fd00:10:244:1::/64"];
const OPERATIONS: u32 = 1000;
const WORKERS: usize = 4;

pub fn killed_at_random_nothing_leaks() {
    let mut node = Node::new(RANGES);
    node.start();
    node.ready();
    let config = node.config(json!({}));
    let (done, finished, given) = (AtomicU32::new(0), AtomicBool::new(false), Mutex::new(HashSet::new()));
    let (plugin_kills, attached) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut agent_kills = 0;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (done, given, config, kills, attached) =
                    (&done, &given, &config, &plugin_kills, &attached);
                scope.spawn(move || work(worker, config, done, given, kills, attached))
            })
            .collect();
        let finished = &finished;
        scope.spawn(move || {
            for worker in workers {
                // A panic there is seen when the scope ends.
                let _ = worker.join();
            }
            finished.store(true, Ordering::Relaxed);
        });
        while !finished.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(random(100, 500)));
            node.signal(Signal::SIGKILL);
            agent_kills += 1;
            thread::sleep(Duration::from_millis(random(0, 60)));
            node.start();
        }
    });
    assert!(done.load(Ordering::Relaxed) >= OPERATIONS);
    println!(
        "{} containers got addresses; killed: agent {agent_kills} times, plugin {} times",
        attached.load(Ordering::Relaxed),
        plugin_kills.load(Ordering::Relaxed)
    );
    assert!(attached.load(Ordering::Relaxed) > 50);
    assert!(agent_kills > 3 && plugin_kills.load(Ordering::Relaxed) > 20, "{agent_kills} {plugin_kills:?}");
    settled(&node);
}

/// Once the dust has settled nothing is left.
fn settled(node: &Node) {
    node.ready();
    node.wait_for("the queue to be empty", || {
        let waiting = weft_cni::plugin::queue::list(&node.path("state/cni-queue")).unwrap();
        waiting.is_empty().then_some(())
    });
    node.machine.has_pods(0);
    let status = node.status().unwrap();
    assert!(status.pods.is_empty());
    assert_eq!(status.pod_ranges[0].free, status.pod_ranges[0].capacity);
    assert_eq!(std::fs::read_dir(node.path("state/attachments")).unwrap().count(), 0);
    let links: Vec<_> = std::fs::read_dir(node.machine.pins().join("links"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("pod_"))
        .collect();
    assert!(links.is_empty(), "{links:?}");
    let mut netlink = Netlink::open_in(&node.machine.netns.0).unwrap();
    let to_pods: Vec<_> = (netlink.routes().unwrap().into_iter())
        .filter(|route| route.destination.to_string().starts_with("10.244.1.") && route.prefix_len == 32)
        .filter(|route| !["10.244.1.0", "10.244.1.1"].contains(&route.destination.to_string().as_str()))
        .collect();
    assert!(to_pods.is_empty(), "{to_pods:?}");
    let log = std::fs::read_to_string(node.path("agent.log")).unwrap();
    assert!(!log.contains("panicked") && !log.contains("two attachments have one address"), "{log}");
}

/// A runtime: adds, looks, deletes; after a failed or killed ADD it calls DEL, and DEL until it succeeds.
fn work(
    worker: usize,
    config: &str,
    done: &AtomicU32,
    given: &Mutex<HashSet<IpAddr>>,
    kills: &AtomicU32,
    attached: &AtomicU32,
) {
    let mut turn = 0;
    while done.load(Ordering::Relaxed) < OPERATIONS {
        turn += 1;
        let pod = Scratch::new("t-pod-");
        let (container, netns) = (format!("w{worker}t{turn}"), pod.path().to_str().unwrap().to_owned());
        let added = plugin("ADD", &container, &netns, config, kills);
        done.fetch_add(1, Ordering::Relaxed);
        let mut mine = Vec::new();
        if let Some(answer) = added.filter(|answer| answer.success) {
            let result: serde_json::Value = serde_json::from_str(&answer.output).unwrap();
            mine = addresses(&result);
            attached.fetch_add(1, Ordering::Relaxed);
            let mut given = given.lock().unwrap();
            for address in &mine {
                assert!(given.insert(*address), "{address} was given twice");
            }
            drop(given);
            assert_eq!(pod.addresses("eth0"), mine);
        }
        given.lock().unwrap().retain(|address| !mine.contains(address));
        // Some namespaces go before DEL, as runtimes do it.
        let netns = if random(0, 3) == 0 { String::new() } else { netns };
        let pod = Some(pod).filter(|_| !netns.is_empty());
        while plugin("DEL", &container, &netns, config, kills).is_none_or(|answer| !answer.success) {}
        done.fetch_add(1, Ordering::Relaxed);
        drop(pod);
    }
}

/// A call of the plugin; `None` when it was killed.
fn plugin(verb: &str, container: &str, netns: &str, config: &str, kills: &AtomicU32) -> Option<Answer> {
    let mut child = crate::node::plugin(verb, container, netns, config);
    if random(0, 8) > 0 {
        return Some(Answer::of(child));
    }
    thread::sleep(Duration::from_micros(random(0, 12_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    kills.fetch_add(1, Ordering::Relaxed);
    None
}

fn random(from: u64, to: u64) -> u64 {
    from + RandomState::new().hash_one(0) % (to - from)
}
