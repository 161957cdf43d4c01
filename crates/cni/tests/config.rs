//! Configurations and results as the specification has them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde_json::{Value, json};
use weft_cni::{
    NetConf, SpecVersion, Success,
    config::{Args, Bandwidth, MAX_PORT_MAPPINGS, PortMapping, Protocol, RuntimeConfig, burst},
    result::Interface,
};

fn success() -> Success {
    Success {
        host: Interface { name: "weft1234".into(), mac: "0a:58:00:00:00:01".into(), mtu: 1450 },
        container: Interface { name: "eth0".into(), mac: "0a:58:0a:f4:00:02".into(), mtu: 1450 },
        sandbox: "/run/netns/x".into(),
        addresses: vec![
            ("10.244.0.2/32".parse().unwrap(), "169.254.1.1".parse().unwrap()),
            ("fd00::3/128".parse().unwrap(), "fe80::1".parse().unwrap()),
        ],
        routes: vec![("0.0.0.0/0".parse().unwrap(), "169.254.1.1".parse().unwrap())],
    }
}

#[test]
fn result_of_1_1_0() {
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            { "name": "weft1234", "mac": "0a:58:00:00:00:01", "mtu": 1450 },
            { "name": "eth0", "mac": "0a:58:0a:f4:00:02", "mtu": 1450, "sandbox": "/run/netns/x" },
        ],
        "ips": [
            { "address": "10.244.0.2/32", "gateway": "169.254.1.1", "interface": 1 },
            { "address": "fd00::3/128", "gateway": "fe80::1", "interface": 1 },
        ],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "169.254.1.1" }],
        "dns": {},
    });
    assert_eq!(success().to_json(SpecVersion::V1_1_0, None), expected);
}

#[test]
fn older_results_have_no_mtu_and_the_oldest_say_the_family() {
    for version in SpecVersion::ALL {
        let result = success().to_json(version, None);
        assert_eq!(result["cniVersion"], version.as_str());
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), version >= SpecVersion::V1_1_0);
        let family = (version < SpecVersion::V1_0_0).then(|| Value::from("6"));
        assert_eq!(result["ips"][1].get("version"), family.as_ref());
    }
}

#[test]
fn a_previous_result_is_kept_and_ours_appended() {
    let previous = json!({
        "cniVersion": "1.0.0", "interfaces": [{ "name": "lo", "sandbox": "/x", "vendor": 1 }],
        "ips": [{ "address": "127.0.0.1/8", "interface": 0 }], "dns": { "nameservers": ["10.96.0.10"] },
    });
    let result = success().to_json(SpecVersion::V1_0_0, Some(&previous));
    assert_eq!(result["interfaces"][0], previous["interfaces"][0]);
    assert_eq!(result["interfaces"][1]["name"], "weft1234", "host side first");
    assert_eq!(result["ips"][0], previous["ips"][0]);
    assert_eq!(result["ips"][1]["interface"], 2);
    assert_eq!(result["dns"], previous["dns"]);
}

#[test]
fn capabilities_and_attachments_are_read() {
    let config = json!({
        "cniVersion": "1.1.0", "name": "weft", "type": "weft-cni", "disableGC": true,
        "runtimeConfig": {
            "portMappings": [
                { "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" },
                { "hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "192.168.1.2" },
                { "hostPort": 81, "containerPort": 81, "hostIP": "0.0.0.0" },
            ],
            "bandwidth": { "ingressRate": 1000000, "ingressBurst": 2000 },
        },
        "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }],
    });
    let config = NetConf::parse(&config.to_string()).unwrap();
    let mapping = |host_port, container_port, protocol, host_ip: Option<&str>| PortMapping {
        host_port,
        container_port,
        protocol,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    };
    let expected = [
        mapping(8080, 80, Protocol::Tcp, None),
        mapping(53, 5353, Protocol::Udp, Some("192.168.1.2")),
        mapping(81, 81, Protocol::Tcp, None),
    ];
    let runtime = config.runtime().unwrap();
    assert_eq!(runtime.port_mappings, expected);
    let bandwidth = Bandwidth { ingress_rate: 1_000_000, ingress_burst: 2000, ..Bandwidth::default() };
    assert_eq!(runtime.bandwidth, Some(bandwidth));
    assert!(config.disable_gc);
    assert_eq!(config.valid_attachments.unwrap()[0].container_id, "c1");
}

#[test]
fn null_lists_are_empty() {
    let config =
        NetConf::parse(r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"portMappings":null}}"#).unwrap();
    assert!(config.runtime().unwrap().port_mappings.is_empty());
    let config = NetConf::parse(r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":null}"#).unwrap();
    assert_eq!(config.runtime().unwrap(), RuntimeConfig::default());
}

/// B4: go-cni has no JSON tags, and Go's readers go by no case.
#[test]
fn runtime_config_is_read_as_go_reads_it() {
    let config = json!({
        "cniVersion": "1.1.0", "name": "weft", "runtimeConfig": {
            "portMappings": [
                { "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" },
                { "HOSTPORT": 53, "containerport": 5353, "protocol": "Udp", "hostIp": "192.168.1.2" },
                { "hoſtPort": 54, "containerPort": 54, "protocol": null, "hostIP": null },
            ],
            "Bandwidth": { "IngressRate": 1_000_000, "IngressBurst": 4_294_967_295_u64, "EgressRate": null },
            "dns": { "Servers": ["10.96.0.10"] }, "ipRanges": [[{ "subnet": "10.0.0.0/8" }]],
        },
    });
    let runtime = NetConf::parse(&config.to_string()).unwrap().runtime().unwrap();
    let ports: Vec<_> = runtime
        .port_mappings
        .iter()
        .map(|one| (one.host_port, one.container_port, one.protocol, one.host_ip.is_some()))
        .collect();
    assert_eq!(
        ports,
        [(8080, 80, Protocol::Tcp, false), (53, 5353, Protocol::Udp, true), (54, 54, Protocol::Tcp, false)]
    );
    let limits = runtime.bandwidth.unwrap();
    assert_eq!((limits.ingress_rate, limits.egress_rate), (1_000_000, 0));
}

/// B4: a limit that begins after half a gigabyte is none, and neither is one that lets nothing through.
#[test]
fn a_burst_that_nobody_asked_for_is_chosen_and_a_rate_of_nothing_is_refused() {
    assert_eq!(burst(10_000_000, 0), 500_000);
    assert_eq!(burst(10_000_000, u64::from(u32::MAX)), 500_000);
    assert_eq!(burst(10_000_000, i32::MAX as u64), 500_000);
    assert_eq!(burst(10_000_000, 1_000_000), 1_000_000);
    let limited = r#"{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"bandwidth":{"ingressRate":7}}}"#;
    let failure = NetConf::parse(limited).unwrap().runtime().unwrap_err();
    assert!(failure.code == 7 && failure.details.contains("7 bits"), "{failure}");
}

/// E14: what a container may ask for is bounded.
#[test]
fn port_mappings_are_bounded() {
    let asks = |count: usize| {
        let mappings: Vec<_> =
            (1..=count).map(|port| json!({ "hostPort": port, "containerPort": port })).collect();
        let config =
            json!({ "cniVersion": "1.1.0", "name": "x", "runtimeConfig": { "portMappings": mappings } });
        NetConf::parse(&config.to_string()).unwrap().runtime()
    };
    assert_eq!(asks(MAX_PORT_MAPPINGS).unwrap().port_mappings.len(), MAX_PORT_MAPPINGS);
    let failure = asks(MAX_PORT_MAPPINGS + 1).unwrap_err();
    assert!(failure.code == 7 && failure.details.contains("1025"), "{failure}");
}

#[test]
fn a_bad_configuration_is_code_7() {
    for bad in [
        r#"{"cniVersion":"1.0.0"}"#,
        r#"{"cniVersion":"1.0.0","name":""}"#,
        r#"{"cniVersion":"1.0.0","name":"../x"}"#,
        r#"{"cniVersion":"1.0.0","name":7}"#,
        r#"{"cniVersion":"1.0.0","name":"x","prevResult":[]}"#,
    ] {
        let failure = NetConf::parse(bad).unwrap_err();
        assert_eq!(failure.code, 7, "{bad}: {failure}");
    }
    for bad in [
        r#"{"portMappings":[{"hostPort":70000,"containerPort":1}]}"#,
        r#"{"portMappings":[{"hostPort":0,"containerPort":1}]}"#,
        r#"{"portMappings":[{"containerPort":1}]}"#,
        r#"{"portMappings":[{"hostPort":1,"containerPort":1,"protocol":"icmp"}]}"#,
        r#"{"portMappings":[{"hostPort":1,"containerPort":1,"hostIP":"x"}]}"#,
        r#"{"portMappings":7}"#,
    ] {
        // Whatever it asks for, DEL has to go on.
        let config =
            NetConf::parse(&format!(r#"{{"cniVersion":"1.0.0","name":"x","runtimeConfig":{bad}}}"#)).unwrap();
        let failure = config.runtime().unwrap_err();
        assert_eq!(failure.code, 7, "{bad}: {failure}");
    }
    assert_eq!(NetConf::parse("{").unwrap_err().code, 6);
    assert_eq!(NetConf::parse(r#"{"cniVersion":"3","name":"x"}"#).unwrap_err().code, 1);
}

#[test]
fn arguments_of_kubernetes() {
    let args =
        Args::parse("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID=u=1").unwrap();
    assert_eq!(args.pod_namespace.as_deref(), Some("shop"));
    assert_eq!(args.pod_name.as_deref(), Some("web-1"));
    assert_eq!(args.pod_uid.as_deref(), Some("u=1"));
    assert_eq!(Args::parse("K8S_POD_NAME").unwrap_err().code, 4);
    assert_eq!(Args::parse("").unwrap(), Args::default());
}
