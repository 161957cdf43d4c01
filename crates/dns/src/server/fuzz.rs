//! What fuzzers call of the server: from a message to its answer, without sockets.

use std::{
    net::IpAddr,
    sync::{Arc, RwLock},
    task::{Context, Poll, Waker},
};

use arc_swap::ArcSwap;
use weft_model::dns::Zone;

use super::{
    Clients, Settings,
    core::{Core, Now, Outcome},
    query::Query,
    rate::Rate,
    shares::Shares,
    writer::udp_limit,
};
use crate::question::Resolver;

/// Answers messages.
pub struct Answerer(Arc<Core>);

impl Answerer {
    /// Answers from this zone, and asks whoever answers at once.
    pub fn new(zone: Zone, resolver: Arc<dyn Resolver>, clients: Arc<dyn Clients>) -> Self {
        Self(Arc::new(Core {
            zone: Arc::new(RwLock::new(zone)),
            resolver,
            clients,
            settings: ArcSwap::from_pointee(Settings::default()),
            rate: Rate::new(),
            waiting: Shares::new(1, 1),
            connections: Shares::new(1, 1),
        }))
    }

    /// The answer, if there is one.
    pub fn answer(&self, message: &[u8], client: IpAddr, tcp: bool) -> Option<Vec<u8>> {
        let limit: fn(&Query<'_>) -> usize = if tcp { |_| usize::from(u16::MAX) } else { udp_limit };
        let mut buffer = vec![0; usize::from(u16::MAX)];
        let settings = self.0.settings.load();
        let outcome = {
            let zone = self.0.zone();
            let now = Now { zone: &zone, settings: &settings, client, turn: 1 };
            self.0.answer(&now, message, limit, &mut buffer)
        };
        match outcome {
            Outcome::Silent => None,
            Outcome::Answer(length, _) => {
                buffer.truncate(length);
                Some(buffer)
            }
            Outcome::Ask(_) => {
                let mut coming = self.0.ask(message.into(), client, limit, 1);
                match coming.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(answer) => Some(answer),
                    Poll::Pending => None,
                }
            }
        }
    }
}
