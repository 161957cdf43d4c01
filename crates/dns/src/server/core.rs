//! From a message to its answer, whatever it came by.

use std::{
    future::Future,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use arc_swap::ArcSwap;
use weft_model::dns::{Found, Zone};

use super::{
    answer::Answer,
    clients::Clients,
    query::{INTERNET, Query, Refusal, code, kind},
    rate::Rate,
    settings::Settings,
    shares::Shares,
    walk,
    writer::{Writer, write_refusal},
};
use crate::question::Resolver;

/// What all threads and connections share.
pub struct Core {
    /// The cluster's names.
    pub zone: Arc<RwLock<Zone>>,
    /// Who is asked for others.
    pub resolver: Arc<dyn Resolver>,
    /// Who asks.
    pub clients: Arc<dyn Clients>,
    /// How to answer.
    pub settings: ArcSwap<Settings>,
    /// How often clients ask.
    pub rate: Rate,
    /// Questions that others are being asked for.
    pub waiting: Arc<Shares>,
    /// TCP connections.
    pub connections: Arc<Shares>,
}

/// What a message is answered by.
#[derive(Clone, Copy)]
pub struct Now<'a> {
    /// The cluster's names as they are now.
    pub zone: &'a Zone,
    /// How to answer.
    pub settings: &'a Settings,
    /// Who asks.
    pub client: IpAddr,
    /// Grows with each question.
    pub turn: usize,
}

/// What becomes of a message.
pub enum Outcome {
    /// Nothing is answered.
    Silent,
    /// The first so many octets of the buffer are the answer to a question for this type; 0 when it cannot be read.
    Answer(usize, u16),
    /// Others are to be asked first: [`Core::ask`]. For this type.
    Ask(u16),
}

/// An answer that is still to come.
pub type Coming = Pin<Box<dyn Future<Output = Vec<u8>> + Send>>;

// === impl Core ===

impl Core {
    /// The zone as it is now. What a writer that panicked left behind is still what was heard before.
    pub fn zone(&self) -> RwLockReadGuard<'_, Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers at once what can be: everything in the zone. `limit` says how long the answer may be.
    pub fn answer(
        &self,
        now: &Now<'_>,
        message: &[u8],
        limit: impl FnOnce(&Query<'_>) -> usize,
        buffer: &mut [u8],
    ) -> Outcome {
        let Now { zone, settings, client, turn } = *now;
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(Refusal::Silent) => return Outcome::Silent,
            Err(Refusal::Code(header, code)) => {
                return Outcome::Answer(write_refusal(header, code, buffer), 0);
            }
        };
        let limit = limit(&query).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..limit) else { return Outcome::Silent };
        let Ok(mut writer) = Writer::new(&query, buffer) else { return Outcome::Silent };
        let refused = refused(&query).or((!self.clients.may_ask(client)).then_some(code::REFUSED));
        if let Some(code) = refused {
            writer.set_code(code);
            return Outcome::Answer(writer.finish(), query.kind);
        }
        let look_up = zone.look_up(&query.name);
        match &look_up.found {
            Found::Elsewhere => return Outcome::Ask(query.kind),
            Found::Alias(..) if query.kind != kind::CNAME && query.kind != kind::ANY => {
                return Outcome::Ask(query.kind);
            }
            Found::Missing
                if settings.walk && query.kind != kind::ANY && walk::may_be_step(self, &query, client) =>
            {
                return Outcome::Ask(query.kind);
            }
            _ => {}
        }
        let answer = Answer { zone, settings, name: &query.name, kind: query.kind, turn };
        answer.write(&look_up, &mut writer);
        Outcome::Answer(writer.finish(), query.kind)
    }

    /// Answers what others are to be asked for. Never takes longer than the resolver.
    pub fn ask(
        self: &Arc<Self>,
        message: Box<[u8]>,
        client: IpAddr,
        limit: impl Fn(&Query<'_>) -> usize + Send + 'static,
        turn: usize,
    ) -> Coming {
        let core = Arc::clone(self);
        Box::pin(async move {
            let Ok(query) = Query::read(&message) else { return Vec::new() };
            let mut buffer = vec![0; limit(&query)];
            let chain = walk::resolve(&core, &query, client).await;
            let length = match Writer::new(&query, &mut buffer) {
                Ok(mut writer) => {
                    chain.write(&core, &query, turn, &mut writer);
                    writer.finish()
                }
                Err(_) => 0,
            };
            buffer.truncate(length);
            buffer
        })
    }
}

/// Answers that nobody can be asked now. How long that is.
pub fn fail(message: &[u8], buffer: &mut [u8]) -> usize {
    let Ok(query) = Query::read(message) else { return 0 };
    let Ok(mut writer) = Writer::new(&query, buffer) else { return 0 };
    writer.set_code(code::SERVER_FAILURE);
    writer.finish()
}

/// What is answered with nothing but a code.
fn refused(query: &Query<'_>) -> Option<u16> {
    match query {
        Query { edns: Some(edns), .. } if edns.version > 0 => Some(code::BAD_VERSION),
        Query { class, .. } if *class != INTERNET => Some(code::REFUSED),
        Query { kind: kind::AXFR | kind::IXFR, .. } => Some(code::REFUSED),
        Query { kind: kind::OPT | 0, .. } => Some(code::FORMAT),
        // Types of questions, not of records, that nobody uses any more; transaction keys.
        Query { kind: 128..=254, .. } => Some(code::NOT_IMPLEMENTED),
        _ => None,
    }
}
