//! Servers that lie, and others who speak in their name.

use std::time::Duration;

use hickory_proto::{op::ResponseCode, rr::RecordType};

use super::{
    a,
    fake::{Fake, Query, address, alias, delegation, one},
    forwarder, is_fine, question, said,
};

fn truth(query: &Query) -> Vec<Vec<u8>> {
    one(query.with(vec![address(&query.question().name.to_string(), 60, 1)]))
}

fn lie(query: &Query) -> hickory_proto::op::Message {
    query.with(vec![address(&query.question().name.to_string(), 60, 66)])
}

/// The lie comes first, then the truth: the truth is heard.
async fn is_not_believed(lie: impl Fn(&Query) -> Vec<u8> + Send + Sync + 'static) {
    let server = Fake::doing(move |query| [vec![lie(query)], truth(query)].concat()).await;
    let forwarder = forwarder(&[&server], "");
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(said(&reply), ["www.example.com. 192.0.2.1"]);
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn an_answer_with_another_number_is_not_believed() {
    is_not_believed(|query| {
        let mut lie = lie(query);
        lie.metadata.id ^= 1;
        lie.to_vec().unwrap()
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_another_question_is_not_believed() {
    is_not_believed(|query| {
        let mut lie = lie(query);
        lie.queries[0].set_name("mail.example.com.".parse().unwrap());
        lie.to_vec().unwrap()
    })
    .await;
    is_not_believed(|query| {
        let mut lie = lie(query);
        lie.queries[0].set_query_type(RecordType::AAAA);
        lie.to_vec().unwrap()
    })
    .await;
    is_not_believed(|query| {
        let mut lie = lie(query);
        lie.queries.clear();
        lie.to_vec().unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_query_is_no_answer_and_neither_is_noise() {
    is_not_believed(|query| query.message.to_vec().unwrap()).await;
    is_not_believed(|_| b"noise".to_vec()).await;
    is_not_believed(|_| Vec::new()).await;
    is_not_believed(|query| query.message.metadata.id.to_be_bytes().to_vec()).await;
}

#[tokio::test]
async fn who_guesses_does_not_get_through_tcp() {
    let server = Fake::doing(|query| {
        if query.tcp {
            return truth(query);
        }
        let guess = |id: u16| {
            let mut guess = lie(query);
            guess.metadata.id = query.message.metadata.id.wrapping_add(id);
            guess.to_vec().unwrap()
        };
        (1..100).chain([0]).map(guess).collect()
    })
    .await;
    let forwarder = forwarder(&[&server], "");
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(said(&reply), ["www.example.com. 192.0.2.1"]);
    assert_eq!(server.asked_over_tcp(), 1);
}

#[tokio::test]
async fn records_that_were_not_asked_for_are_left_out_and_not_remembered() {
    let server = Fake::doing(|query| {
        if query.question().name.to_string() != "www.example.com." {
            return truth(query);
        }
        let mut answer = lie(query);
        answer.answers.push(address("bank.example.", 3600, 66));
        answer.answers.push(alias("mail.example.com.", 3600, "bank.example."));
        answer.authorities = vec![delegation("bank.example.", "evil.example.")];
        answer.additionals = vec![address("bank.example.", 3600, 66)];
        one(answer)
    })
    .await;
    let forwarder = forwarder(&[&server], "");
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(said(&reply), ["www.example.com. 192.0.2.66"]);
    assert!(reply.authorities.is_empty());
    assert_eq!(said(&forwarder.ask(&a("bank.example.")).await), ["bank.example. 192.0.2.1"]);
}

#[tokio::test]
async fn a_domains_server_is_not_believed_what_is_beyond_its_domain() {
    let rest = Fake::start().await;
    let corp = Fake::doing(|query| {
        one(query.with(vec![
            alias(&query.question().name.to_string(), 60, "bank.example."),
            address("bank.example.", 3600, 66),
        ]))
    })
    .await;
    let forwarder = forwarder(&[&rest], &format!("stubDomains: {{corp.example: ['{}']}}", corp.address));
    let reply = forwarder.ask(&a("www.corp.example.")).await;
    assert_eq!(said(&reply), ["www.corp.example. bank.example.", "bank.example. 192.0.2.1"]);
}

#[tokio::test]
async fn nobody_else_is_believed_what_is_in_a_domain_with_servers_of_its_own() {
    let corp = Fake::start().await;
    let rest = Fake::doing(|query| {
        one(query.with(vec![
            alias(&query.question().name.to_string(), 60, "db.corp.example."),
            address("db.corp.example.", 3600, 66),
        ]))
    })
    .await;
    let forwarder = forwarder(&[&rest], &format!("stubDomains: {{corp.example: ['{}']}}", corp.address));
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(said(&reply), ["www.example.com. db.corp.example.", "db.corp.example. 192.0.2.1"]);
}

#[tokio::test]
async fn an_soa_of_another_domain_says_nothing() {
    let server = Fake::doing(|query| one(query.none(ResponseCode::NXDomain, "bank.example.", 3600))).await;
    let forwarder = forwarder(&[&server], "");
    for _ in 0..2 {
        let reply = forwarder.ask(&a("www.example.com.")).await;
        assert_eq!((reply.code, reply.authorities.len()), (ResponseCode::NXDomain, 0));
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_server_that_names_others_instead_of_answering_is_passed_over() {
    let (lame, fine) = (Fake::start().await, Fake::start().await);
    lame.now_does(|query| {
        let mut answer = query.answer(ResponseCode::NoError);
        answer.authorities = vec![delegation("example.com.", "ns.example.com.")];
        one(answer)
    });
    let both = forwarder(&[&lame, &fine], "");
    assert!(is_fine(&both.ask(&a("www.example.com.")).await));
    let alone = forwarder(&[&lame], "");
    assert_eq!(alone.ask(&a("www.example.com.")).await.code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_ttl_beyond_all_bounds_is_none() {
    let server =
        Fake::doing(|query| one(query.with(vec![address(&query.question().name.to_string(), u32::MAX, 1)])))
            .await;
    let forwarder = forwarder(&[&server], "");
    for _ in 0..2 {
        assert_eq!(forwarder.ask(&a("www.example.com.")).await.answers[0].ttl, 0);
    }
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_long_ttl_is_cut() {
    let server =
        Fake::doing(|query| one(query.with(vec![address(&query.question().name.to_string(), 2_000_000, 1)])))
            .await;
    let forwarder = forwarder(&[&server], "");
    forwarder.ask(&a("www.example.com.")).await;
    forwarder.pass(Duration::from_secs(3600));
    forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_type_that_is_no_data_is_not_forwarded() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "");
    for kind in [RecordType::AXFR, RecordType::IXFR, RecordType::OPT] {
        assert_eq!(forwarder.ask(&question("example.com.", kind)).await.code, ResponseCode::NotImp);
    }
    assert_eq!(server.asked(), 0);
}
