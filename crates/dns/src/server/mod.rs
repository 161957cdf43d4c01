//! The server: UDP and TCP, from the zone at once, from others when they have answered.
//!
//! ```text
//! UDP threads ──┐                 ┌──▶ zone: the answer, at once
//!               ├──▶ Core::answer ┤
//! TCP tasks ────┘                 └──▶ Core::ask: aliases, the search walk, the Resolver
//! ```
//!
//! [`Server::start`] is given where to listen, the [`Zone`] (which whoever hears the API changes under its lock), a
//! [`Resolver`] for everything else, and [`Clients`], who know how the Pod at an address searches for names
//! ([`Search::cluster_first`] makes that of its namespace). It ends when the value is dropped.
//!
//! Names of the cluster are answered by threads of their own, many at a time, without allocation and without the async
//! runtime. What others must be asked for is looked at once in that thread, since most of it is remembered, and handed to the
//! runtime only if that does not answer it.

mod answer;
mod batch;
mod clients;
mod core;
mod explain;
mod fair;
pub(crate) mod fuzz;
mod outside;
mod query;
mod rate;
mod send;
mod settings;
mod shares;
mod socket;
pub mod stats;
mod tcp;
mod udp;
mod walk;
mod writer;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, RwLock},
};

use arc_swap::ArcSwap;
use hickory_proto::rr::RecordType;
use thiserror::Error;
use tokio::sync::watch;
use weft_model::dns::{NameError, Zone};

pub use self::{
    clients::{Clients, NoClients, Search},
    explain::{Explained, Explanation, Reason, Source},
    settings::{Limits, Settings},
    stats::Stats,
};
use self::{core::Core, rate::Rate, shares::Shares, stats::Counters};
use crate::question::Resolver;

/// What types records are of, by their names: `"A".parse()`.
pub use hickory_proto::rr::RecordType as Kind;

/// A server that runs until it is dropped; whoever asked before then is answered still.
pub struct Server {
    core: Arc<Core>,
    /// Of TCP, then of each thread.
    counters: Vec<Arc<Counters>>,
    addresses: Vec<SocketAddr>,
    /// Written to when the threads are to end.
    stop: Arc<OwnedFd>,
    /// Dropped when TCP is to end.
    _stop_tcp: watch::Sender<()>,
}

/// Why no server could be started.
#[derive(Debug, Error)]
pub enum StartError {
    /// An address could not be listened on.
    #[error("cannot listen for DNS on {address} ({protocol})")]
    Listen {
        /// The address and port.
        address: SocketAddr,
        /// UDP or TCP.
        protocol: &'static str,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread for DNS")]
    Thread(#[source] std::io::Error),
}

// === impl Server ===

impl Server {
    /// Starts to answer on these addresses, over UDP and TCP. They need not be the machine's yet; a port 0 becomes one that is
    /// free for both. To be called within a tokio runtime, which must outlive the server.
    ///
    /// # Errors
    /// An address cannot be listened on, or no thread be started; then nothing is left behind.
    pub fn start(
        listen: &[SocketAddr],
        zone: Arc<RwLock<Zone>>,
        resolver: Arc<dyn Resolver>,
        clients: Arc<dyn Clients>,
        settings: Settings,
    ) -> Result<Self, StartError> {
        let threads = settings.threads.max(1);
        let limits = &settings.limits;
        let waiting = Shares::new(limits.asked_of_client, limits.asked);
        let connections = Shares::new(limits.connections_of_client, limits.connections);
        let core = Arc::new(Core {
            zone,
            resolver,
            clients,
            settings: ArcSwap::from_pointee(settings),
            rate: Rate::new(),
            waiting,
            connections,
        });
        let (stop_tcp, stopped) = watch::channel(());
        let mut server = Self {
            core: Arc::clone(&core),
            counters: (0..=threads).map(|_| Arc::default()).collect(),
            addresses: Vec::new(),
            stop: Arc::new(socket::event().map_err(StartError::Thread)?),
            _stop_tcp: stop_tcp,
        };
        let mut datagrams = vec![Vec::new(); threads];
        for address in listen {
            let (listener, sockets) = socket::open(*address, threads)?;
            server.addresses.push(listener.local_addr().map_err(StartError::Thread)?);
            datagrams.iter_mut().zip(sockets).for_each(|(all, one)| all.push(Arc::new(one)));
            tokio::spawn(tcp::serve(Arc::clone(&core), listener, server.counters(0), stopped.clone()));
        }
        for (number, sockets) in datagrams.into_iter().enumerate() {
            let worker = udp::Worker::new(
                Arc::clone(&core),
                sockets,
                Arc::clone(&server.stop),
                server.counters(number + 1),
            );
            let thread = std::thread::Builder::new().name(format!("dns-{number}"));
            thread.spawn(move || worker.run()).map_err(StartError::Thread)?;
        }
        Ok(server)
    }

    /// From now on it answers by these settings; the number of threads, and limits of what waits at a time, stay as they are.
    pub fn replace_settings(&self, settings: Settings) {
        self.core.settings.store(Arc::new(settings));
    }

    /// What it has counted.
    pub fn stats(&self) -> Stats {
        Stats::sum(&self.counters)
    }

    /// What a client would be answered that looks for `name`, and why: the one at `client`, by its search unless `name` ends
    /// with a dot; or, with `None`, one that asks for just this name. An address stands for its name in the reverse zones. Others may
    /// be asked.
    ///
    /// # Errors
    /// That is no name.
    pub async fn explain(
        &self,
        name: &str,
        kind: RecordType,
        client: Option<IpAddr>,
    ) -> Result<Explanation, NameError> {
        explain::explain(&self.core, name, kind, client).await
    }

    fn counters(&self, place: usize) -> Arc<Counters> {
        self.counters.get(place).cloned().unwrap_or_default()
    }

    /// Where it listens, with the ports that it has.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Server {
    /// Does not wait: threads and connections end when those who asked before have their answers.
    fn drop(&mut self) {
        if let Err(error) = socket::signal(&self.stop) {
            tracing::error!(%error, "cannot tell the DNS threads to end");
        }
    }
}
