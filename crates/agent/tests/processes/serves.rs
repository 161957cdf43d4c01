//! What an agent does for its node, and what is left when it is gone.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use weft_agent::admin::{Place, Reply, Request, Response};
use weft_model::PodKey;

use crate::{
    node::Node,
    support::{NODE, Scratch, addresses},
};

const DUAL: &[&str] = &["10.244.1.0/24", "fd00:10:244:1::/64"];

pub fn a_node_becomes_ready_and_serves() {
    let mut node = Node::new(DUAL);
    assert!(!node.conflist().exists());
    node.start();
    node.ready();
    let list: Value = serde_json::from_slice(&std::fs::read(node.conflist()).unwrap()).unwrap();
    assert_eq!(list["cniVersion"], "1.0.0", "older runtimes know no newer one");
    assert_eq!(list["plugins"][0]["type"], "weft-cni");
    let pod = Scratch::new("t-pod-");
    let result = node.add("c1", &pod);
    assert_eq!(pod.addresses("eth0"), addresses(&result));
    assert!(node.get("/readyz").starts_with("HTTP/1.1 200"));
    assert!(node.get("/livez").starts_with("HTTP/1.1 200"));
    assert!(node.get("/nothing").starts_with("HTTP/1.1 404"));
    let metrics = node.get("/metrics");
    for line in [
        "weft_ready 1",
        "weft_pods 1",
        "weft_addresses_free{range=\"10.244.1.0/24\"} 252",
        "weft_drops_total{reason=\"source-address\"} 0",
        "weft_cni_duration_seconds_count{verb=\"ADD\",result=\"success\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    let condition =
        format!("node {NODE} -o jsonpath={{.status.conditions[?(@.type=='NetworkUnavailable')].status}}");
    let condition: Vec<&str> = ["get"].into_iter().chain(condition.split(' ')).collect();
    node.wait_for("the condition", || (node.kubectl(&condition, "") == "False").then_some(()));
    let status = node.status().unwrap();
    assert_eq!(status.pods[0].pod, Some(PodKey::new("test", "c1")));
    assert!(status.api.unwrap().synced);
    assert!(node.call("STATUS", "", "").success);
    assert!(node.call("DEL", "c1", "").success);
    node.machine.has_pods(0);
}

pub fn the_configuration_is_written_last() {
    let mut node = Node::new(&[]);
    node.start();
    let why = node.wait_for("what the node lacks", || {
        let why = node.status()?.why_not?;
        why.contains("spec.podCIDRs").then_some(why)
    });
    assert!(node.get("/readyz").contains(&why));
    assert!(!node.conflist().exists());
    let ranges = r#"{"spec":{"podCIDR":"10.244.1.0/24","podCIDRs":["10.244.1.0/24"]}}"#;
    node.kubectl(&["patch", "node", NODE, "-p", ranges], "");
    node.ready();
    // Somebody else's hand in it is put right, and it stays when the node is not ready any more.
    std::fs::remove_file(node.conflist()).unwrap();
    node.wait_for("the configuration again", || node.conflist().exists().then_some(()));
    node.kubectl(&["delete", "node", NODE], "");
    node.wait_for("the node to be unready", || node.status().filter(|status| !status.ready));
    assert!(node.conflist().exists());
}

pub fn a_terminated_agent_leaves_everything_in_place() {
    let mut node = Node::new(DUAL);
    node.start();
    node.ready();
    let (one, two) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    let first = node.add("c1", &one);
    node.add("c2", &two);
    assert!(node.signal(Signal::SIGTERM).success());
    assert!(node.conflist().exists());
    assert_eq!(one.addresses("eth0"), addresses(&first));
    assert_eq!(node.call("ADD", "c3", one.path().to_str().unwrap()).code(), Some(11));
    assert_eq!(node.call("STATUS", "", "").code(), Some(50));
    assert!(node.call("DEL", "c2", two.path().to_str().unwrap()).success, "it waits in the queue");
    node.start();
    let status = node.ready();
    node.machine.has_pods(1);
    assert_eq!(node.wait_for("one Pod", || node.status()).pods.len(), 1);
    assert_eq!(status.repairs, 0);
    assert_eq!(node.add("c1", &one), first);
}

pub fn a_killed_agent_fails_no_request() {
    let mut node = Node::new(DUAL);
    node.start();
    node.ready();
    let (client, server) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    node.add("client", &client);
    let address = addresses(&node.add("server", &server))[0];
    let (stop, requests, lost) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let listener = server.0.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        scope.spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                if stream.write_all(b"y").is_err() {
                    continue;
                }
                let mut byte = [0];
                if stream.read(&mut byte).is_ok_and(|read| read == 1 && byte == *b"q") {
                    return;
                }
            }
        });
        let (stop, requests, lost, client) = (&stop, &requests, &lost, &client);
        scope.spawn(move || {
            client.0.run(|| {
                while !stop.load(Ordering::Relaxed) {
                    let served = request(at, b"n");
                    requests.fetch_add(1, Ordering::Relaxed);
                    lost.fetch_add(u64::from(!served), Ordering::Relaxed);
                }
                request(at, b"q");
            })
        });
        for _ in 0..3 {
            node.signal(Signal::SIGKILL);
            node.start();
            node.ready();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(requests.load(Ordering::Relaxed) > 100);
    assert_eq!(lost.load(Ordering::Relaxed), 0);
    let log = std::fs::read_to_string(node.path("agent.log")).unwrap();
    assert_eq!(log.matches("origin=Adopted changes=[]").count(), 3, "a restart writes nothing: {log}");
}

fn request(at: SocketAddr, last: &[u8]) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&at, Duration::from_secs(2)) else { return false };
    let mut byte = [0];
    stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && stream.read_exact(&mut byte).is_ok()
        && stream.write_all(last).is_ok()
}

pub fn an_api_server_that_is_away_or_refuses() {
    let mut node = Node::new(DUAL);
    node.start();
    node.ready();
    let (one, two) = (Scratch::new("t-pod-"), Scratch::new("t-pod-"));
    node.add("c1", &one);
    for fault in [Some(429), Some(410), Some(503), None] {
        node.signal(Signal::SIGKILL);
        match fault {
            Some(status) => node.api.faults().set_answer(Some(status)),
            None => node.api.faults().set_refuse_connections(true),
        }
        node.start();
        node.wait_for("the agent to answer", || node.status());
        assert_eq!(node.call("ADD", "c2", two.path().to_str().unwrap()).code(), Some(11));
        assert!(node.call("DEL", "c1", one.path().to_str().unwrap()).success);
        assert!(node.get("/readyz").starts_with("HTTP/1.1 503"));
        assert!(node.get("/livez").starts_with("HTTP/1.1 200"), "restarting it would help nobody");
        node.api.faults().set_answer(None);
        node.api.faults().set_refuse_connections(false);
        node.ready();
        node.add("c1", &one);
    }
}

/// B9: an API server that is away is told of once, with its address, however many watches there are and however it is away.
pub fn an_api_server_that_is_away_is_told_of_once() {
    let mut node = Node::new(DUAL);
    node.start();
    node.ready();
    for closes in [true, false] {
        let before = node.log().len();
        if closes {
            node.api.faults().set_refuse_connections(true);
        } else {
            // As a load balancer in front of API servers does that are all away.
            node.api.faults().set_answer(Some(503));
            node.api.faults().close_watches();
        }
        let failed = failures(&node);
        assert!(failed.len() > 5, "{failed:?}");
        node.wait_for("every watch to fail three times", || {
            let now = failures(&node);
            // One more begins when this agent comes to lead, and goes when it does no longer.
            now.iter().zip(&failed).all(|(now, before)| *now >= before + 3).then_some(())
        });
        let log = node.log().split_off(before);
        let told: Vec<&str> = log.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert!(told.len() == 1 && told[0].contains("API server") && told[0].contains("127.0.0.1:"), "{log}");
        node.api.faults().set_refuse_connections(false);
        node.api.faults().set_answer(None);
        let again = |line: &str| line.contains("API server") && line.contains("answers again");
        node.wait_for("the agent to say that it is back", || {
            node.log().split_off(before).lines().any(again).then_some(())
        });
        node.wait_for("every watch to follow", || {
            node.status()?.api?.watches.iter().all(|watch| watch.error.is_none()).then_some(())
        });
        let log = node.log().split_off(before);
        assert_eq!(log.lines().filter(|line| again(line)).count(), 1, "{log}");
    }
}

/// How often each watch has failed. Several may have one name.
fn failures(node: &Node) -> Vec<u64> {
    node.status().unwrap().api.unwrap().watches.iter().map(|watch| watch.failures).collect()
}

pub fn probes_between_a_pod_and_the_node() {
    let mut node = Node::new(DUAL);
    node.start();
    node.ready();
    let pod = Scratch::new("t-pod-");
    let own: Vec<IpAddr> = addresses(&node.add("c1", &pod));
    let mut client = node.client();
    let mtu = node.status().unwrap().pods[0].mtu;
    let place = Place::Pod(PodKey::new("test", "c1"));
    let Response::Listening { id, listeners } =
        client.ask(&Request::ProbeListen { at: place.clone() }).unwrap()
    else {
        panic!("no listeners")
    };
    assert_eq!(listeners.len(), 2);
    let Response::Probed { outcomes } =
        client.ask(&Request::Probe { from: Place::Host, to: listeners.clone() }).unwrap()
    else {
        panic!("no outcome")
    };
    for outcome in &outcomes {
        let seen: IpAddr = if outcome.target.address.is_ipv4() { "192.168.1.2" } else { "fd00:192:168:1::2" }
            .parse()
            .unwrap();
        assert_eq!(outcome.tcp, Reply::Seen(seen), "{outcome:?}");
        assert_eq!(outcome.udp, Reply::Seen(seen), "{outcome:?}");
        assert_eq!(outcome.full_size, Reply::Seen(seen), "{outcome:?}");
        assert_eq!(outcome.mtu, Some(mtu), "{outcome:?}");
    }
    let Response::Listening { listeners: host, .. } =
        client.ask(&Request::ProbeListen { at: Place::Host }).unwrap()
    else {
        panic!("no listeners")
    };
    let Response::Probed { outcomes } = client.ask(&Request::Probe { from: place, to: host }).unwrap() else {
        panic!("no outcome")
    };
    for outcome in &outcomes {
        let Reply::Seen(seen) = outcome.full_size else { panic!("{outcome:?}") };
        assert!(own.contains(&seen), "{outcome:?}");
    }
    assert_eq!(client.ask(&Request::ProbeClose { id }).unwrap(), Response::Done);
    let Response::Probed { outcomes } =
        client.ask(&Request::Probe { from: Place::Host, to: listeners }).unwrap()
    else {
        panic!("no outcome")
    };
    assert!(outcomes.iter().all(|outcome| matches!(outcome.tcp, Reply::Failed(_))), "{outcomes:?}");
    let nobody = Place::Pod(PodKey::new("test", "nobody"));
    let error = client.ask(&Request::ProbeListen { at: nobody }).unwrap_err().to_string();
    assert!(error.contains("test/nobody") && error.contains(NODE), "{error}");
}

pub fn a_second_agent_is_refused() {
    let mut node = Node::new(DUAL);
    node.start();
    node.ready();
    let mut second = node.spawn().spawn().unwrap();
    assert!(!second.wait().unwrap().success());
    let log = std::fs::read_to_string(node.path("agent.log")).unwrap();
    assert!(log.contains("another agent uses the state directory"), "{log}");
    assert!(node.status().is_some(), "the first still answers");
}
