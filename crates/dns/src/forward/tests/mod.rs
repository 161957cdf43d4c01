//! The forwarder against servers that answer, lie, are slow or dead.

mod answers;
mod changes;
mod churn;
mod fake;
mod lies;
mod outages;
mod shared;

use std::{path::Path, sync::Arc, time::Duration};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use super::Forwarder;
use crate::question::{Question, Reply};
use fake::Fake;

/// No condition takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

fn question(name: &str, kind: RecordType) -> Question {
    Question { name: Name::from_ascii(name).unwrap(), kind, signed: false }
}

fn a(name: &str) -> Question {
    question(name, RecordType::A)
}

/// A forwarder to these servers, with more settings.
fn forwarder(servers: &[&Fake], more: &str) -> Arc<Forwarder> {
    let upstreams: Vec<String> = servers.iter().map(|server| format!("'{}'", server.address)).collect();
    let yaml = format!("upstreams: [{}]\n{more}", upstreams.join(", "));
    let own = vec!["cluster.local".parse().unwrap()];
    Arc::new(Forwarder::new(&yaml.parse().unwrap(), Path::new("/nonexistent"), own))
}

/// The records, as `name TTL type data`.
fn said(reply: &Reply) -> Vec<String> {
    reply.answers.iter().map(|record| format!("{} {}", record.name, record.data)).collect()
}

fn is_fine(reply: &Reply) -> bool {
    reply.code == ResponseCode::NoError && !reply.answers.is_empty()
}

/// Waits until `holds`, which says what it sees.
async fn until(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while let Err(seen) = holds() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: {seen}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Forwarder {
    /// As if so much time had passed.
    fn pass(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.shared.ahead.fetch_add(millis, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether a server counts as down.
    fn down(&self, server: &Fake) -> Option<String> {
        let counts = self.counts();
        let address = server.address.to_string();
        counts.upstreams.into_iter().find(|upstream| upstream.server == address).unwrap().down
    }
}
