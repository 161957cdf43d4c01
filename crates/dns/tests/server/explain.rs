//! Why an answer is what it is, and what was counted.

use hickory_proto::rr::RecordType;
use weft_dns::{
    question::record_type,
    server::{Kind, Source, stats},
};

use crate::support::{Place, endpoint, headless, hear_service, hear_slice, ip, namespace, service, slice};

fn place() -> Place {
    let place = Place::new(|zone| {
        zone.hear_namespace(&namespace("default"));
        hear_service(zone, service("web"));
        hear_service(zone, headless("db"));
        hear_slice(zone, slice("db-x", "db", &[endpoint("10.244.0.5", Some("db-0"))]));
    });
    place.outside.says("example.com.", RecordType::A, &["192.0.2.1"]);
    place
}

/// The questions and why they are answered as they are, a line each.
fn explained(place: &Place, name: &str, kind: Kind, client: Option<&str>) -> Vec<String> {
    let explanation = place.runtime.block_on(place.server().explain(name, kind, client.map(ip))).unwrap();
    let mut lines = Vec::new();
    for question in explanation.questions {
        lines.push(format!(
            "{} {} {}: {}",
            question.name,
            question.kind,
            question.code,
            question.answers.join(", ")
        ));
        lines.extend(question.why.iter().map(|why| format!("- {} {}", why.name, why.source)));
    }
    lines
}

#[test]
fn a_service_is_named() {
    assert_eq!(
        explained(&place(), "web.default.svc.cluster.local.", Kind::A, None),
        [
            "web.default.svc.cluster.local. A NOERROR: web.default.svc.cluster.local. 5 A 10.96.0.1",
            "- web.default.svc.cluster.local. Service default/web, its cluster IP",
        ]
    );
    assert_eq!(
        explained(&place(), "db.default.svc.cluster.local.", Kind::A, None)[1],
        "- db.default.svc.cluster.local. headless Service default/db, its 1 ready endpoints"
    );
    assert_eq!(
        explained(&place(), "db-0.db.default.svc.cluster.local.", Kind::A, None)[1],
        "- db-0.db.default.svc.cluster.local. an endpoint of Service default/db"
    );
}

#[test]
fn an_address_is_looked_up_by_its_reverse_name() {
    let place = place();
    assert_eq!(
        explained(&place, "10.96.0.1", Kind::PTR, None)[0],
        "1.0.96.10.in-addr.arpa. PTR NOERROR: 1.0.96.10.in-addr.arpa. 5 PTR web.default.svc.cluster.local."
    );
    // Whatever a Pod searches: it is a whole name.
    place.pod("127.0.0.2", "shop", &[]);
    assert_eq!(explained(&place, "10.96.0.1", Kind::PTR, Some("127.0.0.2")).len(), 2);
    let six = &explained(&place, "fd00::1", Kind::PTR, None)[0];
    assert!(six.starts_with("1.0.0.0.") && six.contains(".0.0.d.f.ip6.arpa. PTR"), "{six}");
}

#[test]
fn types_of_records_are_read_as_clients_write_them() {
    assert_eq!(record_type("aaaa"), Some(RecordType::AAAA));
    assert_eq!(record_type("type65"), Some(RecordType::HTTPS));
    assert_eq!(record_type("TYPE65280"), Some(RecordType::from(65280)));
    for text in ["FOO", "TYPE", "TYPE65536", "TYPE-1", "TYPE+65", ""] {
        assert_eq!(record_type(text), None, "{text}");
    }
}

#[test]
fn a_pods_search_is_followed_step_by_step() {
    let place = place();
    place.pod("127.0.0.2", "shop", &[]);
    assert_eq!(
        explained(&place, "example.com", Kind::A, Some("127.0.0.2")),
        [
            "example.com.shop.svc.cluster.local. A NOERROR: example.com.shop.svc.cluster.local. 5 CNAME example.com., example.com. 300 A 192.0.2.1",
            "- example.com.shop.svc.cluster.local. the first step of the Pod's search, answered with its result example.com.",
            "- example.com. hosts in the ConfigMap kube-system/weft",
        ]
    );
    // What is not found takes every step.
    let steps = explained(&place, "none", Kind::A, Some("127.0.0.2"));
    let questions: Vec<_> = steps.iter().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(
        questions,
        [
            "none.shop.svc.cluster.local. A NXDOMAIN: ",
            "none.svc.cluster.local. A NXDOMAIN: ",
            "none.cluster.local. A NXDOMAIN: ",
            "none. A NXDOMAIN: ",
        ]
    );
    // A dot at its end means the name itself.
    assert_eq!(explained(&place, "example.com.", Kind::A, Some("127.0.0.2")).len(), 2);
}

#[test]
fn an_explanation_can_be_written_and_read_again() {
    let place = place();
    let explanation =
        place.runtime.block_on(place.server().explain("none.cluster.local", Kind::A, None)).unwrap();
    assert_eq!(explanation.questions[0].why[0].source, Source::Missing);
    let written = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<weft_dns::server::Explanation>(&written).unwrap(), explanation);
}

#[test]
fn what_is_no_name_is_said_to_be_none() {
    let place = place();
    assert!(place.runtime.block_on(place.server().explain("a..b", Kind::A, None)).is_err());
}

#[test]
fn questions_and_answers_are_counted() {
    let place = place();
    place.ask("web.default.svc.cluster.local.", "A");
    place.ask("none.default.svc.cluster.local.", "AAAA");
    place.ask("example.com.", "A");
    place.client().send(b"no query");
    let mut connection = place.client().connect();
    connection.exchange(&crate::support::question("web.default.svc.cluster.local.", "SRV"));
    place.until(|| place.server().stats().ignored == 1);
    let stats = place.server().stats();
    assert_eq!((stats.requests[0][0][0], stats.requests[0][0][1], stats.requests[1][0][2]), (2, 1, 1));
    assert_eq!((stats.responses[0], stats.responses[3]), (3, 1));
    assert_eq!(stats.durations[0].counts.iter().sum::<u64>(), 2);
    assert_eq!(stats.request_sizes.map(|one| one.counts.iter().sum::<u64>()), [3, 1]);
    assert_eq!(stats.response_sizes[0].counts.len(), stats::SIZES.len() + 1);
    assert_eq!((stats.shed, stats.refused, stats.unsent), (0, 0, 0));
}
