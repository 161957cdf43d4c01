//! Every type of Service, by every address that it has, from everywhere, over both families.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_tests::{Lab, Outcome, wait_for, weft};

use super::{lab, reaches, reaches_by_datagram, socket, until};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: inside}
spec:
  selector: {app: web}
  ports: [{name: http, port: 8080, targetPort: http}, {name: dns, port: 53, targetPort: dns, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: port}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: dns, port: 53, targetPort: dns, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: v1
kind: Service
metadata: {name: fixed}
spec: {selector: {app: web}, externalIPs: [192.168.1.240], ports: [{port: 80, targetPort: http}]}
";

#[test]
fn a_cluster_ip_is_reached_from_pods_and_nodes() {
    let lab = lab(2, SERVICES).up();
    let address = lab.cluster_ip("inside");
    for from in [lab.pod("client"), lab.node("node-1"), lab.node("node-2")] {
        reaches(&from, socket(address, 8080));
        reaches_by_datagram(&from, socket(address, 53));
    }
    // A Pod that asks its own Service may be given itself.
    let web =
        lab.get(&["pods", "-l", "app=web"])["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    let web = lab.pod(&web);
    let answered: BTreeSet<String> =
        (0..30).map(|_| web.asks(socket(address, 8080)).answer().pod()).collect();
    assert_eq!(answered.len(), 2, "itself among them: {answered:?}");
}

#[test]
fn a_node_port_is_reached_on_every_node_and_the_clients_address_is_kept() {
    let lab = lab(3, SERVICES).up();
    let outside = lab.outside();
    let (http, dns) = (lab.node_port("port"), node_port_of(&lab, "port", 1));
    for node in ["node-1", "node-2", "node-3"] {
        let node = lab.node(node);
        reaches(&outside, socket(node.address(), http));
        reaches_by_datagram(&outside, socket(node.address(), dns));
        // From the node itself, another node, and a Pod.
        reaches(&node, socket(node.address(), http));
        reaches(&lab.pod("client"), socket(node.address(), http));
    }
    reaches(&lab.node("node-1"), socket(lab.node("node-2").address(), http));
    // Whichever node a client comes in by, all backends take part.
    let to = socket(lab.node("node-1").address(), http);
    let answered: BTreeSet<String> = (0..60).map(|_| outside.asks(to).answer().node()).collect();
    assert_eq!(answered.len(), 3, "{answered:?}");
}

fn node_port_of(lab: &Lab, service: &str, port: usize) -> u16 {
    let port = lab.get(&["service", service])["spec"]["ports"][port]["nodePort"].as_u64().unwrap();
    u16::try_from(port).unwrap()
}

#[test]
fn a_load_balancer_and_an_external_address_are_reached() {
    let lab = lab(2, SERVICES).up();
    let address = lab.load_balancer("balanced")[0];
    for from in [lab.outside(), lab.pod("client"), lab.node("node-1"), lab.node("node-2")] {
        reaches(&from, socket(address, 80));
    }
    // Nobody announces an external address: it is somebody's business to route it to a node.
    let external = socket("192.168.1.240".parse().unwrap(), 80);
    for from in [lab.pod("client"), lab.node("node-1")] {
        reaches(&from, external);
    }
}

#[test]
fn both_families_are_served() {
    let dual = SERVICES
        .replace("spec: {type: LoadBalancer,", "spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack,")
        .replace("  type: NodePort\n", "  type: NodePort\n  ipFamilyPolicy: PreferDualStack\n");
    let lab = lab(2, &dual).option("--ip-family", "dual").up();
    let outside = lab.outside();
    let port = lab.node_port("port");
    let addresses = wait_for("an address of each family", || {
        let addresses = lab.load_balancer("balanced");
        if addresses.len() == 2 { Ok(addresses) } else { Err(addresses) }
    });
    for address in addresses {
        reaches(&outside, socket(address, 80));
        reaches(&lab.pod("client"), socket(address, 80));
    }
    let ips = lab.get(&["service", "port"])["spec"]["clusterIPs"].clone();
    for ip in ips.as_array().unwrap() {
        let ip = ip.as_str().unwrap().parse().unwrap();
        reaches(&lab.pod("client"), socket(ip, 80));
        reaches_by_datagram(&lab.pod("client"), socket(ip, 53));
        reaches(&lab.node("node-1"), socket(ip, 80));
    }
    for address in lab.node("node-2").addresses() {
        reaches(&outside, socket(*address, port));
    }
}

#[test]
fn headless_and_external_names_have_no_frontends() {
    let lab = lab(1, SERVICES).up();
    wait_for("the other Services", || {
        let held = lab.services();
        let names: BTreeSet<String> = held[0]["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|service| service["name"].as_str().unwrap().to_owned())
            .collect();
        let expected = ["balanced", "fixed", "inside", "kube-dns", "kubernetes", "port"].map(str::to_owned);
        if names == BTreeSet::from(expected) { Ok(()) } else { Err(names) }
    });
    let said = weft(&["service", "show", "headless", "--name", lab.name()]).fails_with(2);
    assert!(said.contains("headless"), "{said}");
}

#[test]
fn weft_service_tells_frontends_backends_and_counts() {
    let lab = lab(2, SERVICES).up();
    let address = lab.cluster_ip("inside");
    until("an answer", || lab.pod("client").asks(socket(address, 8080)), Outcome::is_answer);
    let table = weft(&["service", "list", "-o", "wide", "--name", lab.name()]).succeeds();
    assert!(table.contains(&format!("{address}:8080")) && table.contains("2/2 ready"), "{table}");
    // B11: what every node answers itself has no endpoints that could be missing.
    let dns = weft(&["service", "list", "-n", "kube-system", "--name", lab.name()]).succeeds();
    assert!(dns.contains("every node") && !dns.contains("0/"), "{dns}");
    let shown =
        weft(&["service", "show", "default/inside", "--node", "node-1", "--name", lab.name()]).succeeds();
    assert!(shown.contains("node-1") && !shown.contains("node-2"), "{shown}");
    assert!(shown.contains("ClusterIP") && shown.contains("ready"), "{shown}");
    let held = lab.services();
    let count = |service: &&Value| service["name"] == "inside" && service["port"] == "http";
    let http = held[0]["services"].as_array().unwrap().iter().find(count).unwrap();
    assert!(http["connections"].as_u64().unwrap() >= 1, "{http:#}");
    assert_eq!(http["backends"].as_array().unwrap().len(), 2);
}

#[test]
fn verify_proves_services_from_everywhere() {
    let lab = lab(3, SERVICES).up();
    lab.load_balancer("balanced");
    let report = wait_for("verify to hold", || {
        let output = weft(&["verify", "-o", "json", "--name", lab.name()]);
        if output.code == Some(0) { Ok(output.stdout) } else { Err(output.stdout) }
    });
    let report: Value = serde_json::from_str(&report).unwrap();
    let services = &report["services"];
    assert!(services["visits"].as_u64().unwrap() > 50, "{services:#}");
    let row = services["matrix"].as_array().unwrap();
    let balanced = row.iter().find(|row| row["service"].as_str().unwrap().starts_with("default/balanced"));
    assert!(balanced.unwrap()["outside"]["good"].as_u64().unwrap() > 0, "{services:#}");
    assert_eq!(services["uneven"].as_array().unwrap().len(), 0);
}

#[test]
fn named_ports_may_be_other_numbers_on_other_pods_and_the_host_network_is_served() {
    let lab = Lab::with_nodes(2)
        .running(
            "
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: mixed}}
spec: {nodeName: node-1, containers: [{name: a, image: nginx, ports: [{name: http, containerPort: 8001}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: mixed}}
spec: {nodeName: node-2, containers: [{name: a, image: nginx, ports: [{name: http, containerPort: 8002}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: mixed}}
spec: {nodeName: node-2, hostNetwork: true, containers: [{name: a, image: nginx, ports: [{name: http, containerPort: 8003}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node-1, containers: [{name: client, image: nginx, ports: [{containerPort: 81}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: mixed}
spec: {type: NodePort, selector: {app: mixed}, ports: [{port: 80, targetPort: http}]}
",
        )
        .up();
    let (inside, outside) = (socket(lab.cluster_ip("mixed"), 80), lab.outside());
    let port = socket(lab.node("node-1").address(), lab.node_port("mixed"));
    for (from, to) in [(&lab.pod("client"), inside), (&lab.node("node-1"), inside), (&outside, port)] {
        until("an answer", || from.asks(to), Outcome::is_answer);
        let mut answered = BTreeSet::new();
        wait_for("every Pod to answer", || {
            let answer = from.asks(to).answer();
            answered.insert(answer.pod());
            answer.saw_source(from.address());
            if answered.len() == 3 { Ok(()) } else { Err(answered.clone()) }
        });
    }
}
