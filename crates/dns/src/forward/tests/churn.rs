//! Everything at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::op::ResponseCode;
use tokio::task::JoinSet;

use super::{
    a,
    fake::{Fake, Query, address, one},
    forwarder, said,
};

/// Room for about half of the names.
const MORE: &str = "timeout: 5s\ncache: {bytes: 60000}";

/// The one right answer for a name.
fn right(name: &str) -> u8 {
    name.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte))
}

fn answer(query: &Query) -> Vec<Vec<u8>> {
    let name = query.question().name.to_string();
    one(query.with(vec![address(&name, 1, right(&name))]))
}

/// Silent, lying, too large for a datagram, failing and right, in turn.
fn misbehaves() -> impl Fn(&Query) -> Vec<Vec<u8>> + Send + Sync {
    let turn = AtomicUsize::new(0);
    move |query| {
        if query.tcp {
            return answer(query);
        }
        match turn.fetch_add(1, Ordering::Relaxed) % 7 {
            0 => Vec::new(),
            1 => {
                let mut lie = query.with(vec![address(&query.question().name.to_string(), 60, 0)]);
                lie.metadata.id ^= 0x55;
                one(lie)
            }
            2 => {
                let mut truncated = query.answer(ResponseCode::NoError);
                truncated.metadata.truncation = true;
                one(truncated)
            }
            3 => one(query.answer(ResponseCode::ServFail)),
            _ => answer(query),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_an_answer_is_the_right_one_or_none() {
    let (first, second) = (Fake::doing(misbehaves()).await, Fake::doing(misbehaves()).await);
    let forwarder = forwarder(&[&first, &second], MORE);
    let mut asking = JoinSet::new();
    for asker in 0..40_u32 {
        let forwarder = Arc::clone(&forwarder);
        asking.spawn(async move {
            let mut answered = 0;
            for number in 0..20 {
                let name = format!("n{}.example.com.", (asker * 17 + number * 13) % 120);
                let reply = forwarder.ask(&a(&name)).await;
                if reply.code == ResponseCode::NoError {
                    assert_eq!(said(&reply), [format!("{name} 192.0.2.{}", right(&name))]);
                    answered += 1;
                } else {
                    assert_eq!(reply.code, ResponseCode::ServFail);
                }
                if number % 10 == 0 {
                    forwarder.pass(Duration::from_millis(700));
                }
            }
            answered
        });
    }
    // Meanwhile the settings change, in a way that makes what was known of some names forgotten.
    let stub = format!("stubDomains: {{n7.example.com: ['{}']}}", second.address);
    for number in 0..40 {
        let upstreams = format!("upstreams: ['{}', '{}']\n{MORE}\n", first.address, second.address);
        let more = if number % 2 == 0 { stub.as_str() } else { "" };
        forwarder.replace_settings(&format!("{upstreams}{more}").parse().unwrap());
        tokio::task::yield_now().await;
    }
    let answered: u32 = asking.join_all().await.into_iter().sum();
    assert!(answered > 600, "{answered} of 800 were answered");
    assert!(forwarder.counts().cache.bytes <= 60_000);
}
