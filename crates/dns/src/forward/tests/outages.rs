//! Servers that are slow, dead, flapping, or lead back here.

use std::{path::Path, sync::Arc, time::Duration};

use hickory_proto::op::ResponseCode;

use super::{
    Forwarder, a,
    fake::{Fake, address, one},
    forwarder, is_fine, said, until,
};
use crate::question::Origin;

/// Asks for names that nobody knows yet until a server counts as down.
async fn is_found_out(forwarder: &Forwarder, server: &Fake) {
    for number in 0.. {
        if forwarder.down(server).is_some() {
            return;
        }
        assert!(number < 100, "it does not count as down");
        forwarder.ask(&a(&format!("probe{number}.example.com."))).await;
    }
}

#[tokio::test]
async fn a_silent_server_is_stepped_over_and_then_not_asked_first() {
    let (dead, fine) = (Fake::start().await, Fake::start().await);
    dead.falls_silent();
    let forwarder = forwarder(&[&dead, &fine], "timeout: 300ms");
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await), "the next one is asked in time");
    forwarder.ask(&a("mail.example.com.")).await;
    until("it counts as down", || forwarder.down(&dead).map(drop).ok_or("up".to_owned())).await;
    let before = dead.asked();
    for number in 0..10 {
        assert!(is_fine(&forwarder.ask(&a(&format!("{number}.example.com."))).await));
    }
    assert_eq!(dead.asked(), before);
}

#[tokio::test]
async fn a_slow_server_is_helped_out_and_then_not_asked_first() {
    let (slow, fine) = (Fake::start().await, Fake::start().await);
    slow.now_takes(Duration::from_millis(600));
    fine.now_says(2);
    let forwarder = forwarder(&[&slow, &fine], "timeout: 10s");
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(said(&reply), ["www.example.com. 192.0.2.2"], "who asks does not wait for it");
    until("it is known to be slow", || {
        let trip = forwarder.counts().upstreams[0].trip;
        trip.filter(|trip| trip.as_millis() > 500).map(drop).ok_or(format!("{trip:?}"))
    })
    .await;
    let before = slow.asked();
    for number in 0..10 {
        assert!(is_fine(&forwarder.ask(&a(&format!("{number}.example.com."))).await));
    }
    assert_eq!((slow.asked(), forwarder.down(&slow)), (before, None), "it is not down either");
}

#[tokio::test]
async fn who_is_waited_for_too_long_is_answered_from_before() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "timeout: 10s");
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    server.now_says(2);
    server.now_takes(Duration::from_millis(1500));
    forwarder.pass(Duration::from_secs(3600));
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert!(matches!(reply.origin, Origin::Stale(_)), "{:?}", reply.origin);
    // What it says in the end is there for the next.
    until("it has answered", || match forwarder.counts().upstreams[0].answers[0].1.count() {
        2.. => Ok(()),
        few => Err(format!("{few} answers")),
    })
    .await;
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!((said(&reply), forwarder.counts().stale), (vec!["www.example.com. 192.0.2.2".to_owned()], 1));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_stepped_over_at_once() {
    let (gone, fine) = (Fake::start().await.address, Fake::start().await);
    let yaml = format!("upstreams: ['{gone}', '{}']", fine.address);
    let forwarder = Forwarder::new(&yaml.parse().unwrap(), Path::new("/nonexistent"), Vec::new());
    for name in ["a.example.", "b.example.", "c.example."] {
        assert!(is_fine(&forwarder.ask(&a(name)).await));
    }
    until("it counts as down", || match &forwarder.counts().upstreams[0].down {
        Some(why) if why.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// E12: a server is down when it answers nothing, not when one domain's own servers do not answer it.
#[tokio::test]
async fn a_domain_that_is_dead_takes_nothing_from_the_rest() {
    let server = Fake::doing(|query| {
        let name = query.question().name;
        if name.to_string().ends_with("dead.example.") {
            return Vec::new();
        }
        one(query.with(vec![address(&name.to_string(), 60, 1)]))
    })
    .await;
    let forwarder = forwarder(&[&server], "timeout: 500ms");
    // Nobody asks for anything else meanwhile: the server is not to be judged by these names alone.
    for round in 0..4 {
        let dead = (0..10).map(|number| {
            let forwarder = Arc::clone(&forwarder);
            tokio::spawn(async move { forwarder.ask(&a(&format!("{round}-{number}.dead.example."))).await })
        });
        for reply in dead.collect::<Vec<_>>() {
            assert_eq!(reply.await.unwrap().code, ResponseCode::ServFail);
        }
        assert_eq!(forwarder.down(&server), None);
        assert!(is_fine(&forwarder.ask(&a(&format!("{round}.example.com."))).await));
    }
}

/// E13: what is kept for an hour at most is not handed on for longer the first time.
#[tokio::test]
async fn an_answer_is_good_for_no_longer_the_first_time_than_later() {
    let server = Fake::doing(|query| one(query.with(vec![address("www.example.com.", 86_400, 1)]))).await;
    let forwarder = forwarder(&[&server], "cache: {maxTtl: 60s}");
    for _ in 0..2 {
        let reply = forwarder.ask(&a("www.example.com.")).await;
        assert!((59..=60).contains(&reply.answers[0].ttl), "{}", reply.answers[0].ttl);
    }
    // "There is none" as well: its SOA says for how long.
    server.now_does(|query| one(query.none(ResponseCode::NXDomain, "example.com.", 86_400)));
    let reply = forwarder.ask(&a("none.example.com.")).await;
    assert!(reply.authorities[0].ttl <= 1800, "{}", reply.authorities[0].ttl);
}

#[tokio::test]
async fn three_datagrams_without_an_answer_are_enough() {
    let server = Fake::start().await;
    server.falls_silent();
    // Sent again after a quarter, three quarters, and one and three quarters of a second.
    let forwarder = forwarder(&[&server], "timeout: 3s");
    assert_eq!(forwarder.ask(&a("www.example.com.")).await.code, ResponseCode::ServFail);
    until("it counts as down", || forwarder.down(&server).map(drop).ok_or("up".to_owned())).await;
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_by_itself() {
    let server = Fake::start().await;
    server.falls_silent();
    let forwarder = forwarder(&[&server], "timeout: 100ms");
    is_found_out(&forwarder, &server).await;
    server.now_says(1);
    until("it answers again", || forwarder.down(&server).map_or(Ok(()), Err)).await;
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
}

#[tokio::test]
async fn what_was_known_is_answered_while_nobody_can_be_asked() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "timeout: 100ms");
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    server.falls_silent();
    forwarder.pass(Duration::from_secs(3600));
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert!(matches!(reply.origin, Origin::Stale(age) if age.as_secs() >= 3600), "{:?}", reply.origin);
    assert_eq!((said(&reply), reply.answers[0].ttl), (vec!["www.example.com. 192.0.2.1".to_owned()], 30));
    let reply = forwarder.ask(&a("other.example.com.")).await;
    assert_eq!(reply.code, ResponseCode::ServFail);
    // And the new answer as soon as there is one.
    server.now_says(2);
    until("it answers again", || forwarder.down(&server).map_or(Ok(()), Err)).await;
    forwarder.pass(Duration::from_secs(1));
    assert_eq!(said(&forwarder.ask(&a("www.example.com.")).await), ["www.example.com. 192.0.2.2"]);
    assert_eq!(forwarder.counts().stale, 1);
}

#[tokio::test]
async fn what_was_known_is_answered_when_servers_fail() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "");
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    server.now_does(|query| one(query.answer(ResponseCode::ServFail)));
    forwarder.pass(Duration::from_secs(3600));
    assert!(matches!(forwarder.ask(&a("www.example.com.")).await.origin, Origin::Stale(_)));
}

#[tokio::test]
async fn nothing_is_known_for_ever() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "timeout: 100ms\ncache: {staleFor: 1h}");
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    server.falls_silent();
    forwarder.pass(Duration::from_secs(3661));
    assert_eq!(forwarder.ask(&a("www.example.com.")).await.code, ResponseCode::ServFail);
}

#[tokio::test]
async fn a_server_that_fails_gives_way_to_the_next() {
    let (failing, fine) = (Fake::start().await, Fake::start().await);
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        failing.now_does(move |query| one(query.answer(code)));
        let forwarder = forwarder(&[&failing, &fine], "");
        assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await), "{code}");
        assert_eq!(forwarder.down(&failing), None, "it is there");
    }
}

#[tokio::test]
async fn a_failure_is_not_asked_for_again_within_a_second() {
    let server = Fake::doing(|query| one(query.answer(ResponseCode::ServFail))).await;
    let forwarder = forwarder(&[&server], "");
    for _ in 0..10 {
        let reply = forwarder.ask(&a("www.example.com.")).await;
        assert_eq!(reply.code, ResponseCode::ServFail);
        let Origin::Nobody(why) = reply.origin else { panic!("{:?}", reply.origin) };
        assert!(why.contains("SERVFAIL") && why.contains(&server.address.to_string()), "{why}");
    }
    assert_eq!(server.asked(), 1);
    forwarder.pass(Duration::from_secs(1));
    forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again() {
    let server = Fake::start().await;
    let lost = std::sync::atomic::AtomicBool::new(false);
    server.now_does(move |query| {
        if !lost.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return Vec::new();
        }
        one(query.with(vec![super::fake::address(&query.question().name.to_string(), 60, 1)]))
    });
    let forwarder = forwarder(&[&server], "timeout: 10s");
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
}

#[tokio::test]
async fn a_flapping_server_costs_no_answer_where_another_is_there() {
    let (flapping, fine) = (Fake::start().await, Fake::start().await);
    let forwarder = forwarder(&[&flapping, &fine], "timeout: 5s");
    for number in 0..40 {
        if number % 2 == 0 {
            flapping.falls_silent();
        } else {
            flapping.now_says(1);
        }
        assert!(is_fine(&forwarder.ask(&a(&format!("{number}.example.com."))).await), "{number}");
    }
}

#[tokio::test]
async fn a_domain_whose_servers_are_dead_takes_nothing_from_the_rest() {
    let (fine, dead) = (Fake::start().await, Fake::start().await);
    dead.falls_silent();
    let stubs = format!("timeout: 5s\nstubDomains: {{corp.example: ['{}']}}", dead.address);
    let forwarder = forwarder(&[&fine], &stubs);
    let asking: Vec<_> = (0..5000)
        .map(|number| {
            let forwarder = Arc::clone(&forwarder);
            tokio::spawn(async move { forwarder.ask(&a(&format!("{number}.corp.example."))).await })
        })
        .collect();
    let failed = || {
        let counts = forwarder.counts();
        counts.refused + counts.upstreams.iter().map(|one| one.failures).sum::<u64>()
    };
    until("most have failed at once", || match failed() {
        4000.. => Ok(()),
        few => Err(format!("{few} of 5000")),
    })
    .await;
    for number in 0..100 {
        assert!(is_fine(&forwarder.ask(&a(&format!("{number}.example.com."))).await));
    }
    for one in asking {
        assert_eq!(one.await.unwrap().code, ResponseCode::ServFail);
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_the_timeout() {
    let silent = [Fake::start().await, Fake::start().await, Fake::start().await];
    silent.iter().for_each(Fake::falls_silent);
    let forwarder = forwarder(&silent.each_ref(), "timeout: 100ms");
    for number in 0..5 {
        let reply = forwarder.ask(&a(&format!("{number}.example.com."))).await;
        assert!(matches!(reply.origin, Origin::Nobody(_)));
        assert_eq!(reply.code, ResponseCode::ServFail);
    }
}

#[tokio::test]
async fn without_servers_it_says_what_to_do() {
    let forwarder = Forwarder::new(&"".parse().unwrap(), Path::new("/nonexistent/resolv.conf"), Vec::new());
    let reply = forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(reply.code, ResponseCode::ServFail);
    let Origin::Nobody(why) = reply.origin else { panic!("{:?}", reply.origin) };
    assert!(why.contains("/nonexistent/resolv.conf") && why.contains("dns.upstreams"), "{why}");
    assert_eq!(forwarder.counts().no_upstreams, Some(why));
}

#[tokio::test]
async fn a_server_that_leads_back_here_is_found_out_and_not_asked() {
    let (looping, fine) = (Fake::start().await, Fake::start().await);
    let slot = Arc::new(std::sync::Mutex::new(None::<Arc<Forwarder>>));
    let behind = Arc::clone(&slot);
    let runtime = tokio::runtime::Handle::current();
    looping.now_does(move |query| {
        if let Some(forwarder) = behind.lock().unwrap().clone() {
            let question = query.question();
            runtime.spawn(async move { forwarder.ask(&question).await });
        }
        one(query.answer(ResponseCode::ServFail))
    });
    let forwarder = forwarder(&[&looping, &fine], "");
    // Before the first question goes out: nothing has been awaited since.
    *slot.lock().unwrap() = Some(Arc::clone(&forwarder));
    until("the loop is found", || forwarder.down(&looping).map(drop).ok_or("not yet".to_owned())).await;
    assert!(forwarder.down(&looping).unwrap().contains("leads back here"));
    let before = looping.asked();
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    assert_eq!(looping.asked(), before);
    *slot.lock().unwrap() = None;
    until("a mended loop is seen", || forwarder.down(&looping).map_or(Ok(()), Err)).await;
}
