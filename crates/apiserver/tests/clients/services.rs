//! Cluster IPs and node ports.

use serde_json::{Value, json};
use weft_apiserver::Config;

use crate::support::Cluster;

fn service(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}).to_string()
}

#[test]
fn addresses_are_given_kept_and_freed() {
    let ranges = vec!["10.9.0.0/29".parse().expect("a range")];
    let cluster = Cluster::with(Config { service_ranges: ranges, ..Config::default() });
    let ports = json!([{"port": 80}]);
    // Six usable addresses, one of them the kubernetes Service's.
    for at in 0..5 {
        cluster.apply(&service(&format!("s{at}"), &json!({"ports": ports})));
    }
    let full = cluster.refused(&["create", "-f", "-"], &service("more", &json!({"ports": ports})));
    assert!(full.contains("range is full"), "{full}");
    let freed = cluster.get(&["service", "s2"])["spec"]["clusterIP"].clone();
    cluster.kubectl(&["delete", "service", "s2"]);
    cluster.apply(&service("again", &json!({"ports": ports})));
    let spec = cluster.get(&["service", "again"])["spec"].clone();
    assert_eq!((&spec["clusterIP"], &spec["clusterIPs"][0]), (&freed, &freed));
    assert_eq!(
        (spec["ipFamilies"][0].as_str(), spec["ipFamilyPolicy"].as_str()),
        (Some("IPv4"), Some("SingleStack"))
    );
    // Applied again without an address, it keeps the one that it has.
    cluster.apply(&service("again", &json!({"ports": [{"port": 81}]})));
    assert_eq!(cluster.get(&["service", "again"])["spec"]["clusterIP"], freed);
}

#[test]
fn an_address_of_ones_own_choice() {
    let cluster = Cluster::start();
    let ports = json!([{"port": 53, "protocol": "UDP"}]);
    cluster.apply(&service("dns", &json!({"clusterIP": "10.96.0.10", "ports": ports})));
    assert_eq!(cluster.get(&["service", "dns"])["spec"]["clusterIP"], "10.96.0.10");
    let refuse = |spec: Value| cluster.refused(&["create", "-f", "-"], &service("other", &spec));
    assert!(
        refuse(json!({"clusterIP": "10.96.0.10", "ports": ports}))
            .contains("provided IP is already allocated")
    );
    assert!(
        refuse(json!({"clusterIP": "10.1.0.1", "ports": ports})).contains("does not match the current range")
    );
    assert!(refuse(json!({"clusterIP": "nonsense", "ports": ports})).contains("must be a valid IP address"));
    let moved = cluster.refused(
        &[
            "patch",
            "service",
            "dns",
            "-p",
            r#"{"spec": {"clusterIP": "10.96.0.11", "clusterIPs": ["10.96.0.11"]}}"#,
        ],
        "",
    );
    assert!(moved.contains("may not change once set"), "{moved}");
    cluster.apply(&service("headless", &json!({"clusterIP": "None", "ports": ports})));
    assert_eq!(cluster.get(&["service", "headless"])["spec"]["clusterIPs"], json!(["None"]));
    cluster.apply(&service("away", &json!({"type": "ExternalName", "externalName": "example.com"})));
    assert!(cluster.get(&["service", "away"])["spec"].get("clusterIP").is_none());
}

#[test]
fn node_ports_are_given_kept_and_refused_twice() {
    let cluster = Cluster::start();
    let spec = |ports: Value| json!({"type": "NodePort", "ports": ports});
    cluster.apply(&service("a", &spec(json!([{"port": 80, "nodePort": 30080}]))));
    cluster.apply(&service("b", &spec(json!([{"name": "x", "port": 80}, {"name": "y", "port": 81}]))));
    let given = cluster.get(&["service", "b"])["spec"]["ports"].clone();
    assert_ne!(given[0]["nodePort"], given[1]["nodePort"]);
    cluster.kubectl(&["label", "service", "b", "changed=yes"]);
    cluster.apply(&service("b", &spec(json!([{"name": "y", "port": 81}, {"name": "x", "port": 80}]))));
    let kept = cluster.get(&["service", "b"])["spec"]["ports"].clone();
    for port in kept.as_array().expect("ports") {
        let before = given.as_array().expect("ports").iter().find(|old| old["port"] == port["port"]);
        assert_eq!(before.expect("the port")["nodePort"], port["nodePort"]);
    }
    let twice = cluster
        .refused(&["create", "-f", "-"], &service("c", &spec(json!([{"port": 80, "nodePort": 30080}]))));
    assert!(twice.contains("provided port is already allocated"), "{twice}");
    // D15: of whatever protocol.
    let udp = spec(json!([{"port": 80, "nodePort": 30080, "protocol": "UDP"}]));
    let twice = cluster.refused(&["create", "-f", "-"], &service("udp", &udp));
    assert!(twice.contains("provided port is already allocated"), "{twice}");
    let outside =
        cluster.refused(&["create", "-f", "-"], &service("c", &spec(json!([{"port": 80, "nodePort": 80}]))));
    assert!(outside.contains("The range of valid ports is 30000-32767"), "{outside}");
    // Also of one that has a port already.
    for number in [80, 99_999, -5] {
        let other = spec(json!([{"port": 80, "nodePort": number}])).to_string();
        let beyond = cluster.refused(
            &["patch", "service", "a", "--type=merge", "-p", &format!(r#"{{"spec": {other}}}"#)],
            "",
        );
        assert!(beyond.contains("The range of valid ports is 30000-32767"), "{number}: {beyond}");
    }
    cluster.kubectl(&["patch", "service", "a", "-p", r#"{"spec": {"type": "ClusterIP"}}"#]);
    assert!(cluster.get(&["service", "a"])["spec"]["ports"][0].get("nodePort").is_none());
    cluster.apply(&service("c", &spec(json!([{"port": 80, "nodePort": 30080}]))));
}

#[test]
fn dual_stack_services_get_an_address_of_each_family() {
    let ranges = ["10.9.0.0/24", "fd00::/112"].map(|range| range.parse().expect("a range")).to_vec();
    let cluster = Cluster::with(Config { service_ranges: ranges, ..Config::default() });
    let ports = json!([{"port": 80}]);
    cluster.apply(&service("one", &json!({"ports": ports})));
    assert_eq!(cluster.get(&["service", "one"])["spec"]["ipFamilies"], json!(["IPv4"]));
    cluster.apply(&service("both", &json!({"ipFamilyPolicy": "PreferDualStack", "ports": ports})));
    let spec = cluster.get(&["service", "both"])["spec"].clone();
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert!(spec["clusterIPs"][1].as_str().expect("an address").starts_with("fd00::"));
    cluster.apply(&service("six", &json!({"ipFamilies": ["IPv6"], "ports": ports})));
    assert!(
        cluster.get(&["service", "six"])["spec"]["clusterIP"].as_str().expect("an address").contains(':')
    );
}

#[test]
fn load_balancers_have_node_ports_and_a_health_port_when_local() {
    let cluster = Cluster::start();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]});
    cluster.apply(&service("lb", &spec));
    let found = cluster.get(&["service", "lb"])["spec"].clone();
    assert!(found["ports"][0]["nodePort"].as_u64().is_some_and(|port| port >= 30000), "{found}");
    assert!(found["healthCheckNodePort"].as_u64().is_some_and(|port| port >= 30000), "{found}");
    let spec =
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]});
    cluster.apply(&service("bare", &spec));
    assert!(cluster.get(&["service", "bare"])["spec"]["ports"][0].get("nodePort").is_none());
}

#[test]
fn a_change_of_type_gives_back_what_only_the_old_type_had() {
    let cluster = Cluster::start();
    let spec = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100,
        "loadBalancerClass": "weft.network/announce", "ports": [{"port": 80, "nodePort": 30080}],
    });
    cluster.apply(&service("a", &spec));
    cluster.kubectl(&["patch", "service", "a", "-p", r#"{"spec": {"type": "ClusterIP"}}"#]);
    let left = cluster.get(&["service", "a"])["spec"].clone();
    for gone in
        ["healthCheckNodePort", "loadBalancerClass", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"]
    {
        assert!(left.get(gone).is_none(), "{gone} in {left}");
    }
    assert!(left["ports"][0].get("nodePort").is_none(), "{left}");
    // Both ports are free again.
    cluster.apply(&service("b", &spec));
}

#[test]
fn fields_of_other_types_are_refused() {
    let cluster = Cluster::start();
    let refuse = |spec: Value| cluster.refused(&["create", "-f", "-"], &service("a", &spec));
    let ports = json!([{"port": 80}]);
    for (more, why) in [
        (json!({"ports": [{"port": 80, "nodePort": 30080}]}), "may not be used when `type` is 'ClusterIP'"),
        (json!({"externalTrafficPolicy": "Local"}), "may only be set for externally-accessible services"),
        (json!({"type": "NodePort", "healthCheckNodePort": 30080}), "may only be set when `type`"),
        (json!({"loadBalancerClass": "a.b/c"}), "may only be used when `type` is 'LoadBalancer'"),
        (
            json!({"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            "may only be used when `type` is 'LoadBalancer'",
        ),
        (json!({"externalIPs": ["127.0.0.1"]}), "loopback range"),
        (json!({"trafficDistribution": "Near"}), "Unsupported value"),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            "must be greater than 0",
        ),
    ] {
        let mut spec = json!({"ports": ports});
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        let said = refuse(spec);
        assert!(said.contains(why), "{more}: {said}");
    }
    cluster.apply(&service("lb", &json!({"type": "LoadBalancer", "ports": ports})));
    let class = r#"{"spec": {"loadBalancerClass": "a.b/c"}}"#;
    let changed = cluster.refused(&["patch", "service", "lb", "-p", class], "");
    assert!(changed.contains("may not change once set"), "{changed}");
}
