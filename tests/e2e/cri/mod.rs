//! containerd by its CRI, as a kubelet drives it: port mappings, bandwidth, both families, restarts, failures, many at once.

mod manifest;
mod runtime;

use std::{collections::BTreeSet, fs, net::IpAddr, time::Duration};

use serde_json::Value;
use weft_tests::{Lab, wait_until};

use runtime::{Asked, Runtime};

const FAR: &str = "
apiVersion: v1
kind: Pod
metadata: {name: far}
spec: {nodeName: node-2, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
";

fn lab() -> Lab {
    Lab::with_nodes(2).option("--ip-family", "dual").running(FAR).up()
}

/// What the agent of a node has attached: container and addresses.
fn attached(lab: &Lab, node: &str) -> Vec<(String, Vec<IpAddr>)> {
    let status: Value = serde_json::from_str(&lab.status()).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let of_node = nodes.iter().find(|one| one["node"] == node).unwrap();
    let addresses = |pod: &Value| {
        let all = pod["addresses"].as_array().unwrap();
        all.iter().map(|one| one.as_str().unwrap().parse().unwrap()).collect()
    };
    let pods = of_node["pods"].as_array().unwrap();
    pods.iter().map(|pod| (pod["container_id"].as_str().unwrap().to_owned(), addresses(pod))).collect()
}

/// Free addresses of a node, by range.
fn free(lab: &Lab, node: &str) -> Vec<u64> {
    let status: Value = serde_json::from_str(&lab.status()).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let of_node = nodes.iter().find(|one| one["node"] == node).unwrap();
    of_node["pod_ranges"].as_array().unwrap().iter().map(|range| range["free"].as_u64().unwrap()).collect()
}

/// B2, B4: what a kubelet asks of containerd is what a Pod has.
#[test]
fn a_sandbox_has_what_it_asks_for_and_gives_it_back() {
    let lab = lab();
    let runtime = Runtime::start(&lab, "node-1");
    let before = free(&lab, "node-1");
    let asked = Asked { host_port: Some((8080, 80)), bandwidth: true, ..Asked::named("web") };
    let sandbox = runtime.run(&asked).unwrap();
    let own = runtime.addresses(&sandbox);
    let families: BTreeSet<bool> = own.iter().map(IpAddr::is_ipv6).collect();
    assert_eq!((own.len(), families.len()), (2, 2), "{own:?}");
    assert!(attached(&lab, "node-1").iter().any(|(id, addresses)| *id == sandbox && addresses.len() == 2));

    // Several containers share it.
    let server = runtime.container(&sandbox, &asked, "server", &["/bin/busybox", "httpd", "-f", "-p", "80"]);
    let other = runtime.container(&sandbox, &asked, "other", &["/bin/busybox", "sleep", "1000000"]);
    for container in [&server, &other] {
        let up = runtime.exec(container, &["/bin/busybox", "cat", "/sys/class/net/lo/operstate"]);
        assert!(up.contains("unknown") || up.contains("up"), "loopback is up: {up}");
        let seen = runtime.exec(
            container,
            &["/bin/busybox", "wget", "-qO-", &format!("http://{}/", lab.pod("far").address())],
        );
        assert!(seen.contains(&format!("source: {}\n", own[0])), "no translation: {seen}");
    }
    let node = lab.node("node-1").address();
    let reaches = |from: &weft_tests::Place, to: std::net::SocketAddr| {
        let connect = || std::net::TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok();
        from.netns().run(connect).unwrap()
    };
    for from in [&lab.pod("far"), &lab.node("node-2"), &lab.outside()] {
        wait_until("the host port to answer", || reaches(from, (node, 8080).into()));
    }
    for address in &own {
        wait_until("the Pod to answer", || reaches(&lab.pod("far"), (*address, 80).into()));
    }
    let record = lab.folder().join("nodes/node-1/state/attachments").join(format!("{sandbox}@eth0"));
    let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!(record["bandwidth"]["ingress_rate"], 10_000_000);
    assert_eq!(record["bandwidth"]["ingress_burst"], 500_000, "nobody asked for half a gigabyte");

    runtime.stop(&sandbox).unwrap();
    runtime.stop(&sandbox).unwrap();
    runtime.remove(&sandbox).unwrap();
    assert!(!attached(&lab, "node-1").iter().any(|(id, _)| *id == sandbox));
    assert_eq!(free(&lab, "node-1"), before);
    assert!(!reaches(&lab.outside(), (node, 8080).into()));
}

/// B3: a sandbox that another plugin refuses after this one gets no DEL, ever; its addresses come back all the same.
#[test]
fn a_sandbox_that_fails_after_add_leaves_no_address_behind() {
    let lab = lab();
    let runtime = Runtime::start_with_a_plugin_that_fails(&lab, "node-1");
    let before = free(&lab, "node-1");
    let why = runtime.run(&Asked::named("refused")).unwrap_err();
    assert!(why.contains("not today"), "{why}");
    wait_until("the addresses to be free again", || free(&lab, "node-1") == before);
    assert!(attached(&lab, "node-1").is_empty());
}

/// Sandboxes outlive their runtime, and many come and go at once.
#[test]
fn sandboxes_outlive_containerd_and_two_hundred_come_at_once() {
    const MANY: usize = 200;
    let lab = lab();
    let mut runtime = Runtime::start(&lab, "node-1");
    let before = free(&lab, "node-1");
    let first = runtime.run(&Asked::named("first")).unwrap();
    let own = runtime.addresses(&first);
    runtime.restart();
    assert_eq!(runtime.addresses(&first), own);
    let names: Vec<Asked> = (0..MANY).map(|number| Asked::named(&format!("many-{number}"))).collect();
    let sandboxes = runtime.run_all(&names);
    let all = attached(&lab, "node-1");
    assert_eq!(all.len(), MANY + 1);
    let addresses: BTreeSet<IpAddr> = all.iter().flat_map(|(_, addresses)| addresses.clone()).collect();
    assert_eq!(addresses.len(), 2 * (MANY + 1), "no address twice");
    runtime.end_all(&sandboxes.into_iter().chain([first]).collect::<Vec<_>>());
    assert_eq!(free(&lab, "node-1"), before);
    assert!(attached(&lab, "node-1").is_empty());
}
