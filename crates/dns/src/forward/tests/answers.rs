//! What is answered, and what is remembered of it.

use std::{path::Path, sync::Arc, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType, rdata::NULL},
};

use super::{
    Forwarder, a,
    fake::{Fake, address, alias, one},
    forwarder, is_fine, question, said, until,
};
use crate::question::{Origin, Question};

#[tokio::test]
async fn an_answer_is_remembered_and_counts_down() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "");
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(said(&reply), ["www.example.com. 192.0.2.1"]);
    assert_eq!(reply.origin, Origin::Upstream(server.address));
    forwarder.pass(Duration::from_secs(20));
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert!(matches!(reply.origin, Origin::Cache(age) if age.as_secs() == 20));
    assert!((39..=40).contains(&reply.answers[0].ttl));
    assert_eq!(server.asked(), 1);
    forwarder.pass(Duration::from_secs(40));
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    assert_eq!(server.asked(), 2);
    let counts = forwarder.counts();
    assert_eq!((counts.misses, counts.positive_hits, counts.cache.positive), (2, 1, 1));
}

#[tokio::test]
async fn that_there_is_none_is_remembered_as_long_as_the_soa_says() {
    let server = Fake::doing(|query| one(query.none(ResponseCode::NXDomain, "example.com.", 30))).await;
    let forwarder = forwarder(&[&server], "");
    for kind in [RecordType::A, RecordType::AAAA, RecordType::MX] {
        let reply = forwarder.ask(&question("no.example.com.", kind)).await;
        assert_eq!((reply.code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
        assert_eq!(reply.authorities[0].ttl, 30, "the lesser of the SOA's TTL and its minimum");
    }
    assert_eq!(server.asked(), 1, "no such name: whatever the type");
    forwarder.pass(Duration::from_secs(30));
    forwarder.ask(&a("no.example.com.")).await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn no_records_of_a_type_are_remembered_for_that_type() {
    let server = Fake::doing(|query| one(query.none(ResponseCode::NoError, "example.com.", 30))).await;
    let forwarder = forwarder(&[&server], "");
    for kind in [RecordType::A, RecordType::AAAA, RecordType::A, RecordType::AAAA] {
        let reply = forwarder.ask(&question("v.example.com.", kind)).await;
        assert_eq!((reply.code, reply.answers.len()), (ResponseCode::NoError, 0));
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_negative_answer_without_soa_is_passed_on_and_not_remembered() {
    let server = Fake::doing(|query| one(query.answer(ResponseCode::NXDomain))).await;
    let forwarder = forwarder(&[&server], "");
    for _ in 0..2 {
        assert_eq!(forwarder.ask(&a("no.example.com.")).await.code, ResponseCode::NXDomain);
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn who_asks_the_same_at_once_shares_one_question() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "");
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let forwarder = Arc::clone(&forwarder);
            tokio::spawn(async move { forwarder.ask(&a("www.example.com.")).await })
        })
        .collect();
    for one in asking {
        assert!(is_fine(&one.await.unwrap()));
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn who_gives_up_does_not_take_the_answer_away_from_others() {
    let server = Fake::doing(|_| Vec::new()).await;
    let forwarder = forwarder(&[&server], "timeout: 10s");
    let (impatient, asked) = (Arc::clone(&forwarder), a("www.example.com."));
    let gone = tokio::spawn(async move { impatient.ask(&a("www.example.com.")).await });
    until("the question is on its way", || match server.asked_for(&asked) {
        0 => Err("not asked".to_owned()),
        _ => Ok(()),
    })
    .await;
    gone.abort();
    server.now_says(1);
    assert!(is_fine(&forwarder.ask(&asked).await), "the datagram is sent again");
}

#[tokio::test]
async fn what_is_asked_often_is_fetched_before_its_time_is_over() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "");
    for _ in 0..3 {
        forwarder.ask(&a("www.example.com.")).await;
    }
    server.now_says(2);
    forwarder.pass(Duration::from_secs(57));
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(said(&reply), ["www.example.com. 192.0.2.1"], "from memory, at once");
    until("it was fetched", || match server.asked() {
        2 => Ok(()),
        other => Err(format!("asked {other} times")),
    })
    .await;
    assert_eq!(forwarder.counts().prefetches, 1);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while said(&forwarder.ask(&a("www.example.com.")).await) != ["www.example.com. 192.0.2.2"] {
        assert!(tokio::time::Instant::now() < deadline, "what was fetched is not remembered");
        tokio::task::yield_now().await;
    }
    forwarder.pass(Duration::from_secs(30));
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert!(matches!(reply.origin, Origin::Cache(_)) && said(&reply) == ["www.example.com. 192.0.2.2"]);
}

#[tokio::test]
async fn what_does_not_fit_is_asked_over_tcp() {
    let server = Fake::doing(|query| {
        let name = query.question().name.to_string();
        if query.tcp {
            return one(query.with((0..250).map(|last| address(&name, 60, last)).collect()));
        }
        let mut truncated = query.answer(ResponseCode::NoError);
        truncated.metadata.truncation = true;
        one(truncated)
    })
    .await;
    let forwarder = forwarder(&[&server], "");
    assert_eq!(forwarder.ask(&a("many.example.com.")).await.answers.len(), 250);
    assert_eq!((server.asked(), server.asked_over_tcp()), (2, 1));
}

#[tokio::test]
async fn a_server_may_be_asked_over_tcp_only() {
    let server = Fake::start().await;
    let yaml = format!("upstreams: ['tcp://{}']", server.address);
    let forwarder = Forwarder::new(&yaml.parse().unwrap(), Path::new("/nonexistent"), Vec::new());
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    assert_eq!((server.asked(), server.asked_over_tcp()), (1, 1));
}

#[tokio::test]
async fn a_server_that_does_not_know_edns_is_asked_without() {
    let server = Fake::doing(|query| match query.message.edns {
        Some(_) => {
            let mut answer = query.answer(ResponseCode::FormErr);
            answer.edns = None;
            one(answer)
        }
        None => one(query.with(vec![address(&query.question().name.to_string(), 60, 1)])),
    })
    .await;
    let forwarder = forwarder(&[&server], "");
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    assert!(is_fine(&forwarder.ask(&a("mail.example.com.")).await));
    assert_eq!(server.asked(), 3, "it is learned once");
}

#[tokio::test]
async fn the_servers_of_a_domain_are_asked_for_it_and_the_longest_domain_counts() {
    let (rest, corp, lab) = (Fake::start().await, Fake::start().await, Fake::start().await);
    corp.now_says(2);
    lab.now_says(3);
    let stubs =
        format!("stubDomains: {{corp.example: ['{}'], lab.corp.example: ['{}']}}", corp.address, lab.address);
    let forwarder = forwarder(&[&rest], &stubs);
    let mut last = Vec::new();
    for name in ["example.", "corp.example.", "a.corp.example.", "b.lab.corp.example.", "xcorp.example."] {
        last.push(said(&forwarder.ask(&a(name)).await)[0].rsplit('.').next().unwrap().to_owned());
    }
    assert_eq!(last, ["1", "2", "2", "3", "1"]);
}

#[tokio::test]
async fn an_alias_is_followed_to_the_servers_of_its_target() {
    let rest = Fake::start().await;
    let corp = Fake::doing(|query| {
        one(query.with(vec![alias(&query.question().name.to_string(), 20, "www.example.com.")]))
    })
    .await;
    let forwarder = forwarder(&[&rest], &format!("stubDomains: {{corp.example: ['{}']}}", corp.address));
    let reply = forwarder.ask(&a("www.corp.example.")).await;
    assert_eq!(said(&reply), ["www.corp.example. www.example.com.", "www.example.com. 192.0.2.1"]);
    forwarder.pass(Duration::from_secs(21));
    forwarder.ask(&a("www.corp.example.")).await;
    assert_eq!(corp.asked(), 2, "the whole is as good as its shortest part");
    assert_eq!(rest.asked(), 1, "and the target is remembered for itself");
}

#[tokio::test]
async fn an_alias_into_the_cluster_is_left_to_the_zone() {
    let server = Fake::doing(|query| {
        one(query.with(vec![
            alias(&query.question().name.to_string(), 20, "web.shop.svc.cluster.local."),
            address("web.shop.svc.cluster.local.", 20, 66),
        ]))
    })
    .await;
    let forwarder = forwarder(&[&server], "rewrites: [{name: old.example, to: a.b.svc.cluster.local}]");
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(said(&reply), ["www.example.com. web.shop.svc.cluster.local."]);
    let reply = forwarder.ask(&a("old.example.")).await;
    assert_eq!(said(&reply), ["old.example. a.b.svc.cluster.local."]);
    assert_eq!(reply.origin, Origin::Rewrite);
}

#[tokio::test]
async fn aliases_in_a_circle_end() {
    let server = Fake::doing(|query| {
        let name = query.question().name.to_string();
        let target = if name.starts_with('a') { "b.example." } else { "a.example." };
        one(query.with(vec![alias(&name, 20, target)]))
    })
    .await;
    let forwarder = forwarder(&[&server], "");
    assert_eq!(forwarder.ask(&a("a.example.")).await.code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_rewritten_name_is_an_alias_of_what_it_stands_for() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "rewrites: [{suffix: old.example, to: new.example}]");
    let reply = forwarder.ask(&a("www.old.example.")).await;
    assert_eq!(said(&reply), ["www.old.example. www.new.example.", "www.new.example. 192.0.2.1"]);
    assert_eq!(server.asked_for(&a("www.new.example.")), 1);
}

#[tokio::test]
async fn who_wants_signatures_gets_them_and_nobody_else() {
    let server = Fake::doing(|query| {
        let name = query.question().name;
        // Given unasked, as some do.
        let signature = |name| {
            let (code, rdata) = (RecordType::RRSIG, NULL::with(vec![7; 30]));
            Record::from_rdata(name, 60, RData::Unknown { code, rdata })
        };
        if query.question().kind == RecordType::A {
            let records = vec![address(&name.to_string(), 60, 1), signature(name)];
            return one(query.with(records));
        }
        let mut none = query.none(ResponseCode::NoError, "example.com.", 30);
        none.authorities.push(signature("example.com.".parse().unwrap()));
        one(none)
    })
    .await;
    let forwarder = forwarder(&[&server], "");
    let signed = |kind| Question { signed: true, ..question("www.example.com.", kind) };
    for _ in 0..2 {
        assert_eq!(forwarder.ask(&signed(RecordType::A)).await.answers.len(), 2);
        assert_eq!(forwarder.ask(&a("www.example.com.")).await.answers.len(), 1);
        assert_eq!(forwarder.ask(&signed(RecordType::MX)).await.authorities.len(), 2);
        assert_eq!(forwarder.ask(&question("www.example.com.", RecordType::MX)).await.authorities.len(), 1);
    }
    assert_eq!(server.asked(), 4, "each is remembered for itself");
    assert_eq!(server.asked_signed(), 2);
}

#[tokio::test]
async fn a_configured_host_asks_nobody() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "hosts: {db.example.com: [192.0.2.7]}");
    let reply = forwarder.ask(&a("db.example.com.")).await;
    assert_eq!((said(&reply), reply.origin), (vec!["db.example.com. 192.0.2.7".to_owned()], Origin::Hosts));
    assert_eq!(forwarder.ask(&a("localhost.")).await.origin, Origin::Special);
    assert_eq!(server.asked(), 0);
}
