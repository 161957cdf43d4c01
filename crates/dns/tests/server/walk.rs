//! The search walk, answered at its first step: only where the result is what the client's own walk would have found.

use std::sync::Arc;

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType, rdata::CNAME},
};
use weft_dns::server::{Search, Settings};
use weft_model::dns::Zone;

use crate::support::{
    Client, Place, external, hear_service, ip, namespace, question, records, reply, service,
};

/// The first question of a Pod in the Namespace default.
const FIRST: &str = "api.example.com.default.svc.cluster.local.";
const OUTSIDE: &str = "api.example.com.";

fn fill(zone: &mut Zone) {
    zone.hear_namespace(&namespace("default"));
    hear_service(zone, service("web"));
}

fn place() -> Place {
    let place = Place::new(fill);
    place.outside.says(OUTSIDE, RecordType::A, &["192.0.2.1"]);
    place
}

fn found() -> [String; 2] {
    ["api.example.com. 300 A 192.0.2.1".into(), format!("{FIRST} 5 CNAME {OUTSIDE}")]
}

#[test]
fn an_outside_name_is_found_at_the_first_question() {
    let place = place();
    let pod = place.pod("127.0.0.2", "default", &[]);
    assert_eq!(pod.ask(FIRST, "A"), found());
    assert_eq!(place.outside.asked(), ["api.example.com. A"]);
    // Over TCP as well.
    assert_eq!(records(&pod.connect().exchange(&question(FIRST, "A"))), found());
}

#[test]
fn the_alias_has_the_questions_own_letters() {
    let place = place();
    let pod = place.pod("127.0.0.2", "default", &[]);
    let asked = "aPi.Example.com.DEFAULT.svc.cluster.local.";
    assert_eq!(pod.ask(asked, "A")[0], format!("{asked} 5 CNAME api.example.com."));
}

/// C5: an alias would count as an answer, of which glibc makes "no such name" instead of "no address of this family".
#[test]
fn the_type_that_the_name_does_not_have_is_no_data_so_that_the_walk_ends_for_both() {
    let place = place();
    place.outside.reply(OUTSIDE, RecordType::AAAA, reply(ResponseCode::NoError, Vec::new()));
    let answer = place.pod("127.0.0.2", "default", &[]).exchange(&question(FIRST, "AAAA"));
    assert_eq!(records(&answer), ["No Error"]);
    assert_eq!(answer.authorities[0].name.to_string(), "cluster.local.", "it is kept as other such answers");
    assert!(answer.metadata.authoritative);
}

#[test]
fn a_service_of_another_namespace_is_found_at_the_first_question() {
    let place = place();
    let pod = place.pod("127.0.0.2", "shop", &[]);
    // web.default: the second step has it.
    assert_eq!(
        pod.ask("web.default.shop.svc.cluster.local.", "A"),
        [
            "web.default.shop.svc.cluster.local. 5 CNAME web.default.svc.cluster.local.",
            "web.default.svc.cluster.local. 5 A 10.96.0.1",
        ]
    );
    // web.default.svc: the third; and the whole name: the last.
    for meant in ["web.default.svc", "web.default.svc.cluster.local"] {
        let asked = format!("{meant}.shop.svc.cluster.local.");
        assert_eq!(
            pod.ask(&asked, "A"),
            [
                "web.default.svc.cluster.local. 5 A 10.96.0.1".to_owned(),
                format!("{asked} 5 CNAME web.default.svc.cluster.local."),
            ]
        );
    }
    assert!(place.outside.asked().is_empty());
}

#[test]
fn what_the_first_step_has_is_its_own_answer() {
    let place = Place::new(|zone| {
        fill(zone);
        hear_service(zone, external("out", "api.example.com"));
    });
    place.outside.says("web.", RecordType::A, &["192.0.2.9"]);
    let pod = place.pod("127.0.0.2", "default", &[]);
    assert_eq!(
        pod.ask("web.default.svc.cluster.local.", "A"),
        ["web.default.svc.cluster.local. 5 A 10.96.0.1"]
    );
    // No data is an answer too.
    assert_eq!(pod.ask("web.default.svc.cluster.local.", "AAAA"), ["No Error"]);
    assert!(place.outside.asked().is_empty());
    // And so is an alias to a name that does not exist.
    let answer = pod.exchange(&question("out.default.svc.cluster.local.", "A"));
    assert_eq!(records(&answer), ["out.default.svc.cluster.local. 5 CNAME api.example.com."]);
    assert_eq!(place.outside.asked(), ["api.example.com. A"]);
}

#[test]
fn domains_of_the_node_are_searched_in_their_order() {
    let place = place();
    place.outside.says("api.corp.example.", RecordType::A, &["192.0.2.7"]);
    place.outside.says("api.", RecordType::A, &["192.0.2.8"]);
    let pod = place.pod("127.0.0.2", "default", &["lab.example", "corp.example"]);
    assert_eq!(
        pod.ask("api.default.svc.cluster.local.", "A"),
        ["api.corp.example. 300 A 192.0.2.7", "api.default.svc.cluster.local. 5 CNAME api.corp.example.",]
    );
    assert_eq!(place.outside.asked(), ["api.lab.example. A", "api.corp.example. A"]);
}

#[test]
fn more_than_six_domains_are_searched() {
    let place = place();
    let more: Vec<String> = (0..20).map(|i| format!("d{i}.example")).collect();
    place.outside.says("api.d19.example.", RecordType::A, &["192.0.2.7"]);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let pod = place.pod("127.0.0.2", "default", &more);
    assert_eq!(pod.ask("api.default.svc.cluster.local.", "A")[0], "api.d19.example. 300 A 192.0.2.7");
}

#[test]
fn what_is_found_nowhere_is_the_first_steps_own_nxdomain() {
    let place = place();
    let pod = place.pod("127.0.0.2", "default", &[]);
    let answer = pod.exchange(&question("none.example.com.default.svc.cluster.local.", "A"));
    assert_eq!((records(&answer), answer.metadata.authoritative), (vec!["Non-Existent Domain".into()], true));
    assert_eq!(answer.authorities[0].name.to_string(), "cluster.local.");
}

#[test]
fn where_clients_differ_in_how_they_go_on_nothing_is_guessed() {
    let place = place();
    // `default.svc.cluster.local` exists and has no records: glibc goes on after that, musl does not.
    let pod = place.pod("127.0.0.2", "shop", &[]);
    place.outside.says("default.", RecordType::A, &["192.0.2.9"]);
    assert_eq!(pod.ask("default.shop.svc.cluster.local.", "A"), ["Non-Existent Domain"]);
    assert!(place.outside.asked().is_empty());
    // The same outside.
    let pod = place.pod("127.0.0.3", "default", &["corp.example"]);
    place.outside.reply(
        "api.example.com.corp.example.",
        RecordType::A,
        reply(ResponseCode::NoError, Vec::new()),
    );
    assert_eq!(pod.ask(FIRST, "A"), ["Non-Existent Domain"]);
}

#[test]
fn a_step_that_fails_is_a_failure_not_nxdomain() {
    let place = place();
    place.outside.reply(OUTSIDE, RecordType::A, reply(ResponseCode::ServFail, Vec::new()));
    assert_eq!(place.pod("127.0.0.2", "default", &[]).ask(FIRST, "A"), ["Server Failure"]);
}

#[test]
fn later_steps_and_other_names_are_answered_for_themselves() {
    let place = place();
    let pod = place.pod("127.0.0.2", "default", &["corp.example"]);
    for step in [
        "api.example.com.svc.cluster.local.",
        "api.example.com.cluster.local.",
        "api.example.com.shop.svc.cluster.local.",
    ] {
        assert_eq!(pod.ask(step, "A"), ["Non-Existent Domain"], "{step}");
    }
    assert!(place.outside.asked().is_empty());
    assert_eq!(pod.ask("api.example.com.corp.example.", "A"), ["Non-Existent Domain"]);
    assert_eq!(place.outside.asked(), ["api.example.com.corp.example. A"]);
}

#[test]
fn names_with_many_dots_were_looked_up_as_they_are_before() {
    let place = place();
    let pod = place.pod("127.0.0.2", "default", &[]);
    // Four dots are fewer than ndots, five are not.
    for (meant, is_walked) in [("a.b.c.d.example", true), ("a.b.c.d.e.example", false)] {
        place.outside.says(&format!("{meant}."), RecordType::A, &["192.0.2.1"]);
        let answer = pod.ask(&format!("{meant}.default.svc.cluster.local."), "A");
        assert_eq!(answer.len(), if is_walked { 2 } else { 1 }, "{meant}");
    }
    assert_eq!(place.outside.asked(), ["a.b.c.d.example. A"]);
}

#[test]
fn a_pod_with_its_own_dns_config_is_searched_for_by_that() {
    let place = place();
    // dnsPolicy None with domains of its own, and ndots 2.
    let domains = ["corp.example", "default.svc.cluster.local"].map(|one| one.parse().unwrap());
    let search = Search { domains: domains.into(), ndots: 2 };
    place.pods.0.lock().unwrap().insert(ip("127.0.0.2"), Arc::new(search));
    let pod = Client::new("127.0.0.2", place.address);
    // Not a first step of its search.
    assert_eq!(pod.ask(FIRST, "A"), ["Non-Existent Domain"]);
    assert!(place.outside.asked().is_empty());
    // Its first step is not in the zone: that is asked, and nothing else.
    assert_eq!(pod.ask("web.corp.example.", "A"), ["Non-Existent Domain"]);
    assert_eq!(place.outside.asked(), ["web.corp.example. A"]);
    // Two dots are looked up as they are first.
    let search = Search {
        ndots: 2,
        ..Search::cluster_first("default", &"cluster.local".parse().unwrap(), &[]).unwrap()
    };
    place.pods.0.lock().unwrap().insert(ip("127.0.0.2"), Arc::new(search));
    assert_eq!(pod.ask(FIRST, "A"), ["Non-Existent Domain"]);
    place.outside.says("example.com.", RecordType::A, &["192.0.2.1"]);
    assert_eq!(pod.ask("example.com.default.svc.cluster.local.", "A").len(), 2);
}

#[test]
fn clients_that_are_not_known_are_not_walked_for() {
    let place = place();
    assert_eq!(place.client().ask(FIRST, "A"), ["Non-Existent Domain"]);
    // Nor is a Pod of another Namespace.
    assert_eq!(place.pod("127.0.0.2", "shop", &[]).ask(FIRST, "A"), ["Non-Existent Domain"]);
    assert!(place.outside.asked().is_empty());
}

#[test]
fn the_walk_can_be_switched_off_while_it_runs() {
    let place = place();
    let pod = place.pod("127.0.0.2", "default", &[]);
    assert_eq!(pod.ask(FIRST, "A"), found());
    place.server().replace_settings(Settings { walk: false, ..Settings::default() });
    assert_eq!(pod.ask(FIRST, "A"), ["Non-Existent Domain"]);
}

#[test]
fn nothing_is_walked_before_everything_was_heard() {
    let place = Place::unsynced(Settings::default(), fill);
    place.outside.says(OUTSIDE, RecordType::A, &["192.0.2.1"]);
    assert_eq!(place.pod("127.0.0.2", "default", &[]).ask(FIRST, "A"), ["Server Failure"]);
    assert!(place.outside.asked().is_empty());
}

#[test]
fn other_types_than_addresses_are_walked_for_too() {
    let place = place();
    place.outside.says(OUTSIDE, RecordType::TXT, &["hello"]);
    assert_eq!(
        place.pod("127.0.0.2", "default", &[]).ask(FIRST, "TXT"),
        ["api.example.com. 300 TXT hello".to_owned(), format!("{FIRST} 5 CNAME {OUTSIDE}"),]
    );
}

#[test]
fn who_asks_for_an_alias_is_not_given_the_walks_own() {
    let place = Place::new(|zone| {
        fill(zone);
        hear_service(zone, external("partner", "www.example.com"));
    });
    let pod = place.pod("127.0.0.2", "shop", &[]);
    let first = "partner.default.shop.svc.cluster.local.";
    let answer = pod.exchange(&question(first, "CNAME"));
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NXDomain, 0));
    assert_eq!(
        pod.ask("partner.default.svc.cluster.local.", "CNAME"),
        ["partner.default.svc.cluster.local. 5 CNAME www.example.com."]
    );
}

#[test]
fn an_alias_into_the_cluster_is_followed_by_the_zone() {
    let place = Place::new(|zone| {
        zone.hear_namespace(&namespace("default"));
        hear_service(zone, service("web"));
    });
    let alias = |name: &str, target: &str| {
        let data = RData::CNAME(CNAME(target.parse().unwrap()));
        let records = vec![Record::from_rdata(name.parse().unwrap(), 300, data)];
        place.outside.reply(name, RecordType::A, reply(ResponseCode::NoError, records));
    };
    alias("shop.example.", "web.default.svc.cluster.local.");
    alias("gone.example.", "gone.default.svc.cluster.local.");
    assert_eq!(
        place.ask("shop.example.", "A"),
        [
            "shop.example. 300 CNAME web.default.svc.cluster.local.",
            "web.default.svc.cluster.local. 5 A 10.96.0.1"
        ]
    );
    let gone = place.client().exchange(&question("gone.example.", "A"));
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(gone.answers.len(), 1);
}
