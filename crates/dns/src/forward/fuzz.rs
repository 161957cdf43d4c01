//! What fuzzers call of the forwarder.

use std::{net::Ipv4Addr, time::Instant};

use hickory_proto::{op::Message, rr::Name};

use super::{
    cache::{Cache, Found},
    local::Local,
    resolv_conf,
    routes::Routes,
    upstream::check::{self, Said},
};
use crate::{
    question::{Origin, Question, Reply},
    settings::{Domain, Settings},
};

/// What of a server's answer is believed, as it is remembered and said again; `None` when nothing is.
pub fn believe(datagram: &[u8], id: u16, question: &Question) -> Option<Reply> {
    let message = Message::from_vec(datagram).ok().filter(|message| check::answers(message, id, question))?;
    let theirs: Domain = "example.com".parse().ok()?;
    let is_theirs = |name: &Name| theirs.contains(name);
    let from = (Ipv4Addr::LOCALHOST, 53).into();
    match check::believe(message, question, from, is_theirs) {
        Said::Answer(stored) | Said::Alias(stored, _) => {
            let (mut cache, now) = (Cache::new(Settings::default().cache), Instant::now());
            let ttl = stored.ttl;
            let reply = stored.reply(now, Origin::Upstream(from), 3);
            cache.store(question, stored.into());
            let found = cache.find(question, now);
            assert!(ttl.is_zero() || matches!(found, Found::Fresh(..)), "what is good is remembered");
            Some(reply)
        }
        Said::Refusal(_) | Said::Referral => None,
    }
}

/// What was read can be used.
pub fn make_ready(settings: &Settings) {
    let local = Local::new(settings);
    let routes = Routes::new(settings, &settings.upstreams, &[], &Routes::default());
    for text in ["www.example.com.", ".", "a.b.corp.example."] {
        if let Ok(name) = Name::from_ascii(text) {
            let _ = (local.rewritten(&name), routes.of(&name).by_rank());
        }
    }
}

/// What stands in a resolv.conf.
pub fn read_resolv_conf(text: &str) {
    resolv_conf::fuzz(text);
}
