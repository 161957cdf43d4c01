//! What the zone has, as records: the Kubernetes DNS specification 1.1.0, a test a statement.

use hickory_proto::{op::ResponseCode, rr::RecordType};
use weft_dns::server::Settings;
use weft_model::{
    Protocol,
    dns::Zone,
    services::{Endpoint, EndpointSlice, Event, Service, ServiceKey, SlicePort},
};

use crate::support::{
    Place, endpoint, external, headless, hear_service, hear_slice, ip, namespace, port, question, records,
    service, slice, text,
};

const WEB: &str = "web.default.svc.cluster.local.";

fn with_web(zone: &mut Zone) {
    zone.hear_namespace(&namespace("default"));
    hear_service(zone, service("web"));
}

fn with_db(zone: &mut Zone) {
    zone.hear_namespace(&namespace("default"));
    hear_service(zone, headless("db"));
    let endpoints = [
        endpoint("10.244.0.5", Some("db-0")),
        endpoint("10.244.1.5", Some("db-1")),
        endpoint("10.244.2.5", None),
    ];
    hear_slice(zone, slice("db-x", "db", &endpoints));
}

#[test]
fn a_services_name_is_its_cluster_ip() {
    let place = Place::new(with_web);
    assert_eq!(place.ask(WEB, "A"), ["web.default.svc.cluster.local. 5 A 10.96.0.1"]);
}

#[test]
fn a_dual_stack_service_has_an_address_of_each_family() {
    let place = Place::new(|zone| {
        hear_service(
            zone,
            Service { cluster_ips: [ip("10.96.0.1"), ip("fd00:10:96::1")].into(), ..service("web") },
        );
    });
    assert_eq!(place.ask(WEB, "A"), ["web.default.svc.cluster.local. 5 A 10.96.0.1"]);
    assert_eq!(place.ask(WEB, "AAAA"), ["web.default.svc.cluster.local. 5 AAAA fd00:10:96::1"]);
}

#[test]
fn a_cluster_ip_needs_no_endpoints() {
    let place = Place::new(|zone| {
        with_web(zone);
        hear_slice(zone, slice("web-x", "web", &[]));
    });
    assert_eq!(place.ask(WEB, "A"), ["web.default.svc.cluster.local. 5 A 10.96.0.1"]);
}

#[test]
fn a_headless_services_name_is_all_its_ready_endpoints() {
    let place = Place::new(|zone| {
        with_db(zone);
        let away = Endpoint { ready: false, ..endpoint("10.244.3.5", Some("db-3")) };
        hear_slice(zone, slice("db-y", "db", &[away, endpoint("fd00:10:244::7", None)]));
    });
    let name = "db.default.svc.cluster.local.";
    assert_eq!(
        place.ask(name, "A"),
        ["10.244.0.5", "10.244.1.5", "10.244.2.5"].map(|ip| format!("{name} 5 A {ip}"))
    );
    assert_eq!(place.ask(name, "AAAA"), [format!("{name} 5 AAAA fd00:10:244::7")]);
    assert_eq!(place.ask("db-3.db.default.svc.cluster.local.", "A"), ["Non-Existent Domain"]);
}

#[test]
fn an_endpoint_in_two_slices_is_one_address() {
    let place = Place::new(|zone| {
        with_db(zone);
        hear_slice(zone, slice("db-y", "db", &[endpoint("10.244.0.5", Some("db-0"))]));
    });
    assert_eq!(place.ask("db.default.svc.cluster.local.", "A").len(), 3);
    assert_eq!(place.ask("db-0.db.default.svc.cluster.local.", "A").len(), 1);
    assert_eq!(place.ask("_http._tcp.db.default.svc.cluster.local.", "SRV").len(), 3);
}

#[test]
fn every_endpoint_of_a_headless_service_has_a_name() {
    let place = Place::new(with_db);
    for (label, address) in [("db-0", "10.244.0.5"), ("db-1", "10.244.1.5"), ("10-244-2-5", "10.244.2.5")] {
        let name = format!("{label}.db.default.svc.cluster.local.");
        assert_eq!(place.ask(&name, "A"), [format!("{name} 5 A {address}")]);
    }
    // One that has a host name has no other.
    assert_eq!(place.ask("10-244-0-5.db.default.svc.cluster.local.", "A"), ["Non-Existent Domain"]);
}

#[test]
fn several_endpoints_share_a_host_name() {
    let place = Place::new(|zone| {
        hear_service(zone, headless("db"));
        let endpoints = [endpoint("10.244.0.5", Some("node")), endpoint("10.244.1.5", Some("node"))];
        hear_slice(zone, slice("db-x", "db", &endpoints));
    });
    let name = "node.db.default.svc.cluster.local.";
    assert_eq!(place.ask(name, "A"), [format!("{name} 5 A 10.244.0.5"), format!("{name} 5 A 10.244.1.5")]);
    let ports = place.client().exchange(&question("_http._tcp.db.default.svc.cluster.local.", "SRV"));
    assert_eq!(
        records(&ports),
        [format!("_http._tcp.db.default.svc.cluster.local. 5 SRV 0 100 8080 {name}")]
    );
    assert_eq!(ports.additionals.len(), 2);
}

#[test]
fn endpoints_of_a_service_with_a_cluster_ip_are_found_by_their_host_name() {
    let place = Place::new(|zone| {
        with_web(zone);
        hear_slice(
            zone,
            slice("web-x", "web", &[endpoint("10.244.0.5", Some("web-0")), endpoint("10.244.0.6", None)]),
        );
    });
    assert_eq!(
        place.ask("web-0.web.default.svc.cluster.local.", "A"),
        ["web-0.web.default.svc.cluster.local. 5 A 10.244.0.5"]
    );
    assert_eq!(place.ask("10-244-0-5.web.default.svc.cluster.local.", "A"), ["Non-Existent Domain"]);
    assert_eq!(place.ask(WEB, "A"), ["web.default.svc.cluster.local. 5 A 10.96.0.1"]);
}

/// C2: not in the specification, but CoreDNS answers it.
#[test]
fn endpoints_of_a_service_with_a_cluster_ip_are_found_by_their_address() {
    let place = Place::new(|zone| {
        with_web(zone);
        let away = Endpoint { ready: false, ..endpoint("10.244.0.7", None) };
        hear_slice(zone, slice("web-x", "web", &[endpoint("10.244.0.6", None), away]));
    });
    let name = "10-244-0-6.web.default.svc.cluster.local.";
    assert_eq!(place.ask(name, "A"), [format!("{name} 5 A 10.244.0.6")]);
    assert_eq!(place.ask(name, "AAAA"), ["No Error"]);
    for missing in ["10-244-0-7", "10-244-0-8"] {
        let name = format!("{missing}.web.default.svc.cluster.local.");
        assert_eq!(place.ask(&name, "A"), ["Non-Existent Domain"]);
    }
}

/// C2: finders of peers ask for the bare name; CoreDNS answers a record for each port and endpoint, named or not.
#[test]
fn the_bare_name_of_a_service_has_an_srv_record_for_each_port() {
    let place = Place::new(|zone| {
        let ports = [
            port("http", Protocol::Tcp, 80),
            port("", Protocol::Tcp, 81),
            // The same number again is the same record.
            port("quic", Protocol::Udp, 80),
        ];
        hear_service(zone, Service { ports: ports.into(), ..service("web") });
        with_db(zone);
    });
    let answer = place.client().exchange(&question(WEB, "SRV"));
    assert_eq!(
        records(&answer),
        ["80", "81"].map(|port| format!("{WEB} 5 SRV 0 50 {port} web.default.svc.cluster.local."))
    );
    assert_eq!(answer.additionals.iter().map(text).collect::<Vec<_>>(), [format!("{WEB} 5 A 10.96.0.1")]);
    let name = "db.default.svc.cluster.local.";
    let answer = place.client().exchange(&question(name, "SRV"));
    assert_eq!(
        records(&answer),
        ["10-244-2-5", "db-0", "db-1"].map(|label| format!("{name} 5 SRV 0 33 8080 {label}.{name}"))
    );
    assert_eq!(answer.additionals.len(), 3);
}

/// C2: as CoreDNS answers it.
#[test]
fn the_name_of_a_port_has_the_addresses_that_serve_it() {
    let place = Place::new(|zone| {
        with_web(zone);
        with_db(zone);
        let other = slice("db-y", "db", &[endpoint("10.244.9.9", None)]);
        hear_slice(zone, EndpointSlice { ports: [].into(), ..other });
    });
    let name = "_http._tcp.web.default.svc.cluster.local.";
    assert_eq!(place.ask(name, "A"), [format!("{name} 5 A 10.96.0.1")]);
    assert_eq!(place.ask(name, "AAAA"), ["No Error"]);
    let name = "_http._tcp.db.default.svc.cluster.local.";
    assert_eq!(
        place.ask(name, "A"),
        ["10.244.0.5", "10.244.1.5", "10.244.2.5"].map(|ip| format!("{name} 5 A {ip}"))
    );
}

/// C3: neither label of a host name begins or ends with a dash.
#[test]
fn an_ipv6_address_that_ends_in_zeros_makes_a_host_name() {
    let place = Place::new(|zone| {
        hear_service(zone, headless("db"));
        hear_slice(zone, slice("db-x", "db", &[endpoint("fd00:10:244::", None)]));
    });
    let target = "fd00-10-244--0.db.default.svc.cluster.local.";
    assert_eq!(
        place.ask("_http._tcp.db.default.svc.cluster.local.", "SRV"),
        [format!("_http._tcp.db.default.svc.cluster.local. 5 SRV 0 100 8080 {target}")]
    );
    assert_eq!(place.ask(target, "AAAA"), [format!("{target} 5 AAAA fd00:10:244::")]);
}

#[test]
fn a_named_port_is_an_srv_record_with_the_address_beside_it() {
    let place = Place::new(with_web);
    let answer = place.client().exchange(&question("_http._tcp.web.default.svc.cluster.local.", "SRV"));
    assert_eq!(
        records(&answer),
        ["_http._tcp.web.default.svc.cluster.local. 5 SRV 0 100 80 web.default.svc.cluster.local."]
    );
    assert_eq!(
        answer.additionals.iter().map(text).collect::<Vec<_>>(),
        ["web.default.svc.cluster.local. 5 A 10.96.0.1"]
    );
    // An empty non-terminal, and what is not there.
    assert_eq!(place.ask("_tcp.web.default.svc.cluster.local.", "SRV"), ["No Error"]);
    for missing in [
        "_udp.web",
        "_http._udp.web",
        "_https._tcp.web",
        "http._tcp.web",
        "_http.tcp.web",
        "x._http._tcp.web",
    ] {
        assert_eq!(
            place.ask(&format!("{missing}.default.svc.cluster.local."), "SRV"),
            ["Non-Existent Domain"],
            "{missing}"
        );
    }
}

#[test]
fn only_named_ports_have_srv_records() {
    let place = Place::new(|zone| {
        hear_service(zone, Service { ports: [port("", Protocol::Tcp, 80)].into(), ..service("web") });
    });
    assert_eq!(place.ask("_._tcp.web.default.svc.cluster.local.", "SRV"), ["Non-Existent Domain"]);
    assert_eq!(place.ask("_tcp.web.default.svc.cluster.local.", "SRV"), ["Non-Existent Domain"]);
}

#[test]
fn a_headless_service_has_an_srv_record_for_each_endpoint_and_port() {
    let place = Place::new(|zone| {
        hear_service(zone, headless("db"));
        let ports = |ports: &[(&str, u16)]| {
            ports
                .iter()
                .map(|(name, port)| SlicePort { name: (*name).into(), protocol: Protocol::Udp, port: *port })
                .collect()
        };
        let v4 = slice("db-x", "db", &[endpoint("10.244.0.5", Some("db-0")), endpoint("10.244.1.5", None)]);
        hear_slice(zone, EndpointSlice { ports: ports(&[("dns", 5353), ("other", 1)]), ..v4 });
        // The named target port has another number there.
        let v6 = slice("db-y", "db", &[endpoint("fd00::5", None)]);
        hear_slice(zone, EndpointSlice { ports: ports(&[("dns", 5454)]), ..v6 });
    });
    let name = "_dns._udp.db.default.svc.cluster.local.";
    let answer = place.client().exchange(&question(name, "SRV"));
    let target = |weight_and_port: &str, label: &str| {
        format!("{name} 5 SRV 0 {weight_and_port} {label}.db.default.svc.cluster.local.")
    };
    assert_eq!(
        records(&answer),
        [target("33 5353", "10-244-1-5"), target("33 5353", "db-0"), target("33 5454", "fd00--5")]
    );
    let mut beside: Vec<String> = answer.additionals.iter().map(text).collect();
    beside.sort();
    assert_eq!(
        beside,
        [
            "10-244-1-5.db.default.svc.cluster.local. 5 A 10.244.1.5",
            "db-0.db.default.svc.cluster.local. 5 A 10.244.0.5",
            "fd00--5.db.default.svc.cluster.local. 5 AAAA fd00::5",
        ]
    );
}

#[test]
fn a_cluster_ip_leads_back_to_its_service() {
    let place = Place::new(|zone| {
        hear_service(
            zone,
            Service { cluster_ips: [ip("10.96.0.1"), ip("fd00:10:96::1")].into(), ..service("web") },
        );
    });
    assert_eq!(place.ask("1.0.96.10.in-addr.arpa.", "PTR"), [format!("1.0.96.10.in-addr.arpa. 5 PTR {WEB}")]);
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.";
    assert_eq!(place.ask(v6, "PTR"), [format!("{v6} 5 PTR {WEB}")]);
}

/// C1: an endpoint of a headless Service leads back to its name, whether that is a host name or made of the address
/// (specification 2.4.3 with 2.1).
#[test]
fn an_endpoint_of_a_headless_service_leads_back_to_its_name() {
    let place = Place::new(with_db);
    assert_eq!(
        place.ask("5.0.244.10.in-addr.arpa.", "PTR"),
        ["5.0.244.10.in-addr.arpa. 5 PTR db-0.db.default.svc.cluster.local."]
    );
    assert_eq!(
        place.ask("5.2.244.10.in-addr.arpa.", "PTR"),
        ["5.2.244.10.in-addr.arpa. 5 PTR 10-244-2-5.db.default.svc.cluster.local."]
    );
    assert_eq!(place.ask("5.3.244.10.in-addr.arpa.", "PTR"), ["Non-Existent Domain"]);
    assert_eq!(place.ask("5.0.244.10.in-addr.arpa.", "A"), ["No Error"]);
    assert!(place.outside.asked().is_empty());
}

#[test]
fn an_address_that_leads_to_a_service_and_an_endpoint_is_the_services() {
    let place = Place::new(|zone| {
        with_db(zone);
        hear_service(zone, Service { cluster_ips: [ip("10.244.0.5")].into(), ..service("web") });
    });
    assert_eq!(
        place.ask("5.0.244.10.in-addr.arpa.", "PTR"),
        [format!("5.0.244.10.in-addr.arpa. 5 PTR {WEB}")]
    );
}

#[test]
fn addresses_of_others_are_for_others_to_name() {
    let place = Place::new(with_web);
    assert_eq!(place.ask("1.2.0.192.in-addr.arpa.", "PTR"), ["Non-Existent Domain"]);
    assert_eq!(place.outside.asked(), ["1.2.0.192.in-addr.arpa. PTR"]);
    // In a range of ours there is nobody else to ask.
    let answer = place.client().exchange(&question("99.0.96.10.in-addr.arpa.", "PTR"));
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].name.to_string(), "96.10.in-addr.arpa.");
    assert_eq!(place.ask("0.96.10.in-addr.arpa.", "PTR"), ["No Error"]);
    assert!(place.outside.asked().is_empty());
}

#[test]
fn an_external_name_is_an_alias_and_its_target_is_resolved() {
    let place = Place::new(|zone| hear_service(zone, external("db", "DB.example.com")));
    place.outside.says("db.example.com.", RecordType::A, &["192.0.2.1"]);
    let name = "db.default.svc.cluster.local.";
    let alias = format!("{name} 5 CNAME db.example.com.");
    assert_eq!(place.ask(name, "CNAME"), [alias.as_str()]);
    assert!(place.outside.asked().is_empty());
    assert_eq!(place.ask(name, "A"), [alias.as_str(), "db.example.com. 300 A 192.0.2.1"]);
    // Whatever becomes of the target, the alias is said (RFC 6604).
    let missing = place.client().exchange(&question(name, "AAAA"));
    assert_eq!((records(&missing), missing.metadata.response_code), (vec![alias], ResponseCode::NXDomain));
}

#[test]
fn an_external_name_may_name_another_service() {
    let place = Place::new(|zone| {
        with_web(zone);
        hear_service(zone, external("front", WEB));
    });
    assert_eq!(
        place.ask("front.default.svc.cluster.local.", "A"),
        [
            "front.default.svc.cluster.local. 5 CNAME web.default.svc.cluster.local.",
            "web.default.svc.cluster.local. 5 A 10.96.0.1",
        ]
    );
}

#[test]
fn external_names_that_name_each_other_are_a_failure_not_a_loop() {
    let place = Place::new(|zone| {
        hear_service(zone, external("a", "b.default.svc.cluster.local"));
        hear_service(zone, external("b", "a.default.svc.cluster.local"));
    });
    assert_eq!(place.ask("a.default.svc.cluster.local.", "A"), ["Server Failure"]);
}

#[test]
fn an_external_name_that_is_an_address_is_no_name() {
    let place = Place::new(|zone| hear_service(zone, external("db", "192.0.2.1")));
    assert_eq!(place.ask("db.default.svc.cluster.local.", "A"), ["Non-Existent Domain"]);
}

#[test]
fn pods_have_names_made_of_their_addresses() {
    let place = Place::new(with_web);
    assert_eq!(
        place.ask("10-244-0-9.default.pod.cluster.local.", "A"),
        ["10-244-0-9.default.pod.cluster.local. 5 A 10.244.0.9"]
    );
    assert_eq!(
        place.ask("fd00--9.default.pod.cluster.local.", "AAAA"),
        ["fd00--9.default.pod.cluster.local. 5 AAAA fd00::9"]
    );
    assert_eq!(place.ask("10-244-0-9.default.pod.cluster.local.", "AAAA"), ["No Error"]);
    assert_eq!(place.ask("10-244-0-9.nowhere.pod.cluster.local.", "A"), ["Non-Existent Domain"]);
    assert_eq!(place.ask("web.default.pod.cluster.local.", "A"), ["Non-Existent Domain"]);
    assert_eq!(place.ask("default.pod.cluster.local.", "A"), ["No Error"]);
    let mut settings = crate::support::zone_settings();
    settings.pod_records = false;
    place.change(|zone| zone.set_settings(settings));
    assert_eq!(place.ask("10-244-0-9.default.pod.cluster.local.", "A"), ["Non-Existent Domain"]);
}

#[test]
fn the_version_of_the_specification_is_said() {
    let place = Place::new(|_| {});
    assert_eq!(place.ask("dns-version.cluster.local.", "TXT"), ["dns-version.cluster.local. 5 TXT 1.1.0"]);
}

#[test]
fn an_existing_name_without_the_type_is_no_data_with_the_zones_soa() {
    let place = Place::new(with_web);
    for name in [
        WEB,
        "svc.cluster.local.",
        "default.svc.cluster.local.",
        "pod.cluster.local.",
        "dns.cluster.local.",
        "cluster.local.",
    ] {
        let answer = place.client().exchange(&question(name, "MX"));
        assert_eq!(
            (answer.metadata.response_code, answer.answers.len()),
            (ResponseCode::NoError, 0),
            "{name}"
        );
        let soa = text(&answer.authorities[0]);
        assert!(
            soa.starts_with("cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. "),
            "{soa}"
        );
        assert!(soa.ends_with(" 7200 1800 86400 5"), "{soa}");
        assert!(answer.metadata.authoritative);
    }
}

#[test]
fn what_does_not_exist_is_nxdomain_with_the_zones_soa() {
    let place = Place::new(with_web);
    for name in [
        "none.default.svc.cluster.local.",
        "web.none.svc.cluster.local.",
        "none.svc.cluster.local.",
        "none.cluster.local.",
        "a.b.c.web.default.svc.cluster.local.",
    ] {
        let answer = place.client().exchange(&question(name, "A"));
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!(answer.authorities[0].name.to_string(), "cluster.local.");
    }
    assert!(place.outside.asked().is_empty());
}

#[test]
fn a_headless_service_without_ready_endpoints_does_not_exist() {
    let place = Place::new(|zone| {
        hear_service(zone, headless("db"));
        hear_slice(zone, slice("db-x", "db", &[Endpoint { ready: false, ..endpoint("10.244.0.5", None) }]));
    });
    assert_eq!(place.ask("db.default.svc.cluster.local.", "A"), ["Non-Existent Domain"]);
}

#[test]
fn the_zone_itself_has_an_soa_and_a_name_server() {
    let place = Place::new(|_| {});
    assert_eq!(place.ask("cluster.local.", "NS"), ["cluster.local. 5 NS ns.dns.cluster.local."]);
    assert_eq!(place.ask("ns.dns.cluster.local.", "A"), ["ns.dns.cluster.local. 5 A 10.96.0.10"]);
    assert_eq!(place.ask("ns.dns.cluster.local.", "AAAA"), ["ns.dns.cluster.local. 5 AAAA fd00:10:96::a"]);
    assert_eq!(place.ask("cluster.local.", "SOA").len(), 1);
}

#[test]
fn ttls_are_as_set() {
    let place = Place::with(Settings { ttl: 60, negative_ttl: 30, ..Settings::default() }, with_web);
    assert_eq!(place.ask(WEB, "A"), ["web.default.svc.cluster.local. 60 A 10.96.0.1"]);
    let answer = place.client().exchange(&question("none.default.svc.cluster.local.", "A"));
    let soa = text(&answer.authorities[0]);
    assert!(soa.starts_with("cluster.local. 30 SOA") && soa.ends_with(" 30"), "{soa}");
}

#[test]
fn a_change_is_answered_at_once() {
    let place = Place::new(with_web);
    place.change(|zone| {
        hear_service(zone, Service { cluster_ips: [ip("10.96.0.2")].into(), ..service("web") })
    });
    assert_eq!(place.ask(WEB, "A"), ["web.default.svc.cluster.local. 5 A 10.96.0.2"]);
    place.change(|zone| zone.hear(&Event::ServiceGone(ServiceKey::new("default", "web"))));
    assert_eq!(place.ask(WEB, "A"), ["Non-Existent Domain"]);
}

#[test]
fn nothing_is_said_before_everything_was_heard() {
    let place = Place::unsynced(Default::default(), |zone| {
        crate::support::begin(zone);
        with_web(zone);
    });
    for name in [WEB, "none.default.svc.cluster.local.", "99.0.96.10.in-addr.arpa."] {
        assert_eq!(place.ask(name, "A"), ["Server Failure"], "{name}");
    }
    assert!(place.outside.asked().is_empty());
    // Others can be asked all the same.
    place.outside.says("example.com.", RecordType::A, &["192.0.2.1"]);
    assert_eq!(place.ask("example.com.", "A"), ["example.com. 300 A 192.0.2.1"]);
    place.change(crate::support::end);
    assert_eq!(place.ask(WEB, "A"), ["web.default.svc.cluster.local. 5 A 10.96.0.1"]);
    // A list that begins anew takes nothing away before its end.
    place.change(crate::support::begin);
    assert_eq!(place.ask(WEB, "A"), ["web.default.svc.cluster.local. 5 A 10.96.0.1"]);
    place.change(crate::support::end);
    assert_eq!(place.ask(WEB, "A"), ["Non-Existent Domain"]);
}
