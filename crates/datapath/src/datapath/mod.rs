//! The data plane of one node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData, MapError};
use ipnet::IpNet;
use weft_abi::{Address, Config, Counter, Path, Pod, Route, maps};
use weft_model::{NodeName, NodePlan, Peer, PodRange};
use weft_netns::{Netlink, NetlinkError, Netns, NetnsError};

mod bring_up;

use crate::{
    config::Settings,
    encode,
    flow::{Announcements, Sweeper},
    load::{LoadError, Origin, Programs},
    mtu::Mtu,
    nft::{Masquerade, NftError},
    pod::{Removal, is_pod_interface},
    route::{KernelRoutes, RouteTo},
    service::{CountReaders, Limits, ServiceError, Services, SocketEnder, Stores, Surroundings},
    sysctl::SysctlError,
    table::{BpfHash, BpfLpm, BpfTableError, Raw, Table, Written},
    uplink::{self, Uplink, UplinkError},
};

/// Name of the overlay device.
pub(crate) const OVERLAY: &str = "weft0";

/// The tables of Services are large and nobody else writes to them: they are compared with what is wanted less often than the
/// rest.
const COMPARE_SERVICES: Duration = Duration::from_secs(60);

/// The data plane could not be opened. What an earlier process left goes on working.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Kernel programs and maps.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map as a table.
    #[error(transparent)]
    Table(#[from] BpfTableError),
    /// A single-entry map.
    #[error("map CONFIG: {0}")]
    Config(#[from] MapError),
    /// Links, addresses and routes.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Interface settings.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The uplink.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// Masquerading.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The node's network namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Services.
    #[error(transparent)]
    Services(#[from] ServiceError),
}

/// The plan could not be written whole. What was written stays; the rest stays pending.
pub type ApplyError = OpenError;

/// What [`Datapath::apply`] wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries of the table of other nodes.
    pub routes: Written,
    /// Routes of the host's stack.
    pub kernel_routes: Written,
    /// Whether the masquerade rules were rewritten.
    pub masquerade: bool,
}

impl Applied {
    /// Whether the kernel had everything already.
    pub fn is_nothing(&self) -> bool {
        *self == Applied::default()
    }
}

/// What [`Datapath::repair`] put back, a line each; empty when nothing was missing.
pub type Repaired = Vec<String>;

/// What the programs counted since they were first loaded, in [`Counter::ALL`] order.
pub type Counters = Vec<(Counter, u64)>;

/// The data plane of one node: owns its tables and speaks to its kernel. One value a node, used by one thread, which
/// stays in the node's network namespace.
pub struct Datapath {
    pub(crate) settings: Settings,
    pub(crate) uplink: Uplink,
    mtu: Mtu,
    overlay: u32,
    pub(crate) netlink: Netlink,
    pub(crate) programs: Programs,
    config: Array<MapData, Raw<Config>>,
    pub(crate) pods: Table<Address, Pod, BpfHash<Address, Pod>>,
    peers: Peers,
    /// Changes of `peers` in the kernel so far, see [`Config::routes`].
    peers_changed: u32,
    pub(crate) routes: Table<IpNet, RouteTo, KernelRoutes>,
    masquerade: Masquerade,
    pub(crate) removal: Removal,
    pub(crate) services: Services,
    pub(crate) service_counts: CountReaders,
    services_compared: Instant,
    pub(crate) socket_ender: SocketEnder,
    pub(crate) sweeper: Sweeper,
    pub(crate) announcements: Announcements,
    /// Namespaces of this node's Pods, by cookie.
    pub(crate) namespaces: BTreeMap<u64, PathBuf>,
    /// The cookie of the node's own.
    own_namespace: u64,
    pub(crate) plan: Option<NodePlan>,
    paths: BTreeMap<NodeName, Path>,
}

type Peers = Table<(Address, u32), Route, BpfLpm<Address, Route>>;

impl Datapath {
    /// Brings up this node's data plane, or takes over what an earlier process left, writing only what differs.
    pub fn open(settings: &Settings) -> Result<Datapath, OpenError> {
        let mut netlink = Netlink::open()?;
        let uplink = uplink::find(&mut netlink, settings.uplink.as_deref(), &settings.node_addresses)?;
        let mtu = Mtu::new(uplink.mtu, &settings.node_addresses, true);
        let programs = Programs::open(&settings.bpffs)?;
        let config = programs.config()?;
        let pods = Table::adopt(BpfHash::new(maps::PODS, programs.map(maps::PODS)?)?)?;
        let peers = Table::adopt(BpfLpm::new(maps::ROUTES, programs.map(maps::ROUTES)?)?)?;
        let routes = Table::adopt(KernelRoutes::open()?)?;
        let masquerade = Masquerade::open(settings.vxlan_port, &settings.dns_addresses)?;
        let surroundings = Surroundings {
            node_addresses: settings.node_addresses.clone(),
            all_node_addresses: BTreeSet::new(),
            service_ranges: settings.service_ranges.clone(),
            dns_addresses: settings.dns_addresses.clone(),
        };
        let (stores, service_counts) = Stores::open(&programs)?;
        let services = Services::adopt(stores, Limits::default(), surroundings)?;
        let own_namespace = Netns::current()?.cookie()?;
        let socket_ender = SocketEnder::start(programs.map(maps::SOCKETS)?, own_namespace)?;
        let sweeper = Sweeper::open(&programs)?;
        let announcements = Announcements::open(&programs)?;
        let mut datapath = Datapath {
            settings: settings.clone(),
            uplink,
            mtu,
            overlay: 0,
            netlink,
            programs,
            peers_changed: config.get(&0, 0)?.0.routes,
            config,
            pods,
            peers,
            routes,
            masquerade,
            removal: Removal::start()?,
            services,
            service_counts,
            services_compared: Instant::now(),
            socket_ender,
            sweeper,
            announcements,
            namespaces: BTreeMap::new(),
            own_namespace,
            plan: None,
            paths: BTreeMap::new(),
        };
        datapath.forget_dead_pods()?;
        let done = datapath.bring_up()?;
        tracing::info!(origin = ?datapath.programs.origin, changes = ?done, "data plane open");
        Ok(datapath)
    }

    /// How the programs came to be at [`Datapath::open`].
    pub fn origin(&self) -> Origin {
        self.programs.origin
    }

    /// Writes the plan: the way to other nodes and their Pods, by the paths given (overlay where none is), and what is
    /// masqueraded.
    pub fn apply(
        &mut self,
        plan: &NodePlan,
        paths: &BTreeMap<NodeName, Path>,
    ) -> Result<Applied, ApplyError> {
        self.plan = Some(plan.clone());
        self.paths.clone_from(paths);
        self.tell_services_of_nodes();
        self.want_plan();
        let applied = Applied {
            routes: self.write_peers(Peers::flush)?,
            kernel_routes: self.routes.flush()?,
            masquerade: self.masquerade.apply(&plan.masquerade)?,
        };
        let overlay_in_use = plan.peers.iter().any(|peer| self.path(&peer.name) == Path::Overlay);
        self.mtu = Mtu::new(self.uplink.mtu, &self.settings.node_addresses, overlay_in_use);
        Ok(applied)
    }

    /// Writes the table of the ways to other nodes, and has the programs forget what they have kept of it.
    fn write_peers(
        &mut self,
        write: fn(&mut Peers) -> Result<Written, BpfTableError>,
    ) -> Result<Written, ApplyError> {
        let written = write(&mut self.peers);
        // Before something could not be written, something else may have been.
        if written.as_ref().map_or(true, |written| written.total() > 0) {
            self.peers_changed = self.peers_changed.wrapping_add(1);
        }
        // Also what could not be told the last time.
        self.tell_programs()?;
        Ok(written?)
    }

    /// From now on sockets of this node are given so many questions a second of each Pod, see
    /// [`Settings::dns_questions_of_pod`].
    pub fn limit_dns(&mut self, questions_of_pod: u32) -> Result<(), ApplyError> {
        self.settings.dns_questions_of_pod = questions_of_pod;
        self.tell_programs().map(drop)
    }

    /// Turns the plan into wanted entries.
    fn want_plan(&mut self) {
        let Some(plan) = &self.plan else { return };
        let mut entries = BTreeMap::new();
        let mut kernel = BTreeMap::new();
        for peer in &plan.peers {
            self.plan_peer(peer, self.path(&peer.name), &mut entries, &mut kernel);
        }
        for range in &self.settings.service_ranges {
            entries.insert(encode::prefix(*range), encode::service_range());
            // What the node's own processes send to Services, and is not translated at the socket, passes a program there.
            let route =
                RouteTo { index: self.overlay, gateway: None, source: self.own_address(range.addr()) };
            kernel.insert(*range, route);
        }
        self.peers.replace(|_, _| true, entries);
        let (overlay, uplink) = (self.overlay, self.uplink.index);
        // Pods' own routes lead to their interfaces.
        self.routes.replace(|_, route| route.index == overlay || route.index == uplink, kernel);
    }

    /// Puts back what somebody else removed or changed, and says what it was.
    pub fn repair(&mut self) -> Result<Repaired, ApplyError> {
        let mut done = self.bring_up()?;
        self.drop_routes_of_dead_pods()?;
        // The overlay device or the uplink may be another one now.
        self.want_plan();
        let tables = [
            ("routes of the host", self.routes.resync()?),
            ("entries of the table of nodes", self.write_peers(Peers::resync)?),
            ("entries of the table of Pods", self.pods.resync()?),
        ];
        for (what, written) in tables {
            if written.upserted > 0 {
                done.push(format!("{} {what} put back", written.upserted));
            }
            if written.removed > 0 {
                done.push(format!("{} {what} removed", written.removed));
            }
        }
        if self.masquerade.repair()? {
            done.push("masquerade rules put back".to_owned());
        }
        if self.services_compared.elapsed() >= COMPARE_SERVICES {
            self.services_compared = Instant::now();
            let written = self.services.resync()?.total();
            if written > 0 {
                done.push(format!("{written} entries of the tables of Services put back"));
            }
        }
        Ok(done)
    }

    /// What the programs counted.
    pub fn counters(&self) -> Result<Counters, LoadError> {
        self.programs.counters()
    }

    /// The MTUs in force.
    pub fn mtu(&self) -> Mtu {
        self.mtu
    }

    /// The uplink in use.
    pub fn uplink(&self) -> &Uplink {
        &self.uplink
    }

    fn path(&self, peer: &NodeName) -> Path {
        self.paths.get(peer).copied().unwrap_or(Path::Overlay)
    }

    /// What leads to one other node and its Pods.
    fn plan_peer(
        &self,
        peer: &Peer,
        path: Path,
        entries: &mut BTreeMap<(Address, u32), Route>,
        kernel: &mut BTreeMap<IpNet, RouteTo>,
    ) {
        let same_family = |range: &IpNet| {
            peer.node_addresses.iter().copied().find(|address| address.is_ipv4() == range.addr().is_ipv4())
        };
        let Some(tunnel_end) = self.tunnel_end(peer) else { return };
        let mut labels = Vec::new();
        for range in &peer.pod_ranges {
            let source = self.own_address(range.addr());
            // IPv6 Pods over IPv4 nodes, and the reverse, need the tunnel.
            let (path, next_hop) = match (path, same_family(range)) {
                (Path::Native, Some(address)) => (Path::Native, address),
                _ => (Path::Overlay, tunnel_end),
            };
            entries.insert(encode::prefix(*range), encode::route(next_hop, tunnel_end, path));
            let route = match path {
                Path::Native => RouteTo { index: self.uplink.index, gateway: Some(next_hop), source },
                Path::Overlay => RouteTo { index: self.overlay, gateway: None, source },
            };
            kernel.insert(*range, route);
            let Ok(layout) = PodRange::new(*range) else { continue };
            let plain = layout.plain_address();
            labels.push(plain);
            // Told from Pods' addresses, so that a label that is not known is not taken for a Pod.
            let labelling = encode::route_to_node(next_hop, tunnel_end, path, &[plain]);
            entries.insert(encode::prefix(IpNet::from(plain)), labelling);
            // Told from Pods' addresses, because probes come from there.
            entries.insert(encode::prefix(IpNet::from(layout.path_address())), labelling);
            if let Some(gateway) = same_family(range) {
                // Always over the plain path: whether it carries Pod addresses is what the probe asks.
                let source = self.own_plain_address(plain.is_ipv4());
                let route = RouteTo { index: self.uplink.index, gateway: Some(gateway), source };
                kernel.insert(IpNet::from(plain), route);
            }
        }
        for address in &peer.node_addresses {
            let next_hop = if path == Path::Native { *address } else { tunnel_end };
            let route = encode::route_to_node(next_hop, tunnel_end, path, &labels);
            entries.insert(encode::prefix(IpNet::from(*address)), route);
        }
    }

    /// Where this node's own tunnels begin: the address that the others' plans name first, so that they know it again.
    fn own_tunnel_end(&self, ipv4: bool) -> Address {
        let own = self.settings.node_addresses.iter().copied().find(|address| address.is_ipv4() == ipv4);
        own.map(Address::from).unwrap_or_default()
    }

    /// Where the tunnel to another node ends: its IPv4 address if both have one, which costs the inner packets less.
    fn tunnel_end(&self, peer: &Peer) -> Option<IpAddr> {
        let shared = |ipv4: bool| {
            self.settings.node_addresses.iter().any(|address| address.is_ipv4() == ipv4).then_some(())?;
            peer.node_addresses.iter().copied().find(|address| address.is_ipv4() == ipv4)
        };
        shared(true).or_else(|| shared(false))
    }

    /// This node's address of the same family, which other nodes and Pods see it by.
    pub(crate) fn own_address(&self, like: IpAddr) -> Option<IpAddr> {
        self.settings.node_addresses.iter().copied().find(|address| address.is_ipv4() == like.is_ipv4())
    }

    fn own_plain_address(&self, ipv4: bool) -> Option<IpAddr> {
        self.own_layout(ipv4).map(|range| range.plain_address())
    }

    fn own_path_address(&self, ipv4: bool) -> Option<IpAddr> {
        self.own_layout(ipv4).map(|range| range.path_address())
    }

    fn own_layout(&self, ipv4: bool) -> Option<PodRange> {
        (self.settings.pod_ranges.iter())
            .filter(|range| range.addr().is_ipv4() == ipv4)
            .find_map(|range| PodRange::new(*range).ok())
    }

    /// Entries of Pods whose interface went away while nobody watched (a node's other tools, a crash half-way).
    fn forget_dead_pods(&mut self) -> Result<(), ApplyError> {
        let live: BTreeSet<u32> = (self.netlink.links()?.iter())
            .filter(|link| is_pod_interface(&link.name))
            .map(|link| link.index)
            .collect();
        self.pods_replace(|ifindex| live.contains(&ifindex));
        self.pods.flush()?;
        self.drop_routes_of_dead_pods()
    }

    /// The kernel removed these with their interfaces; the mirror must not bring them back.
    fn drop_routes_of_dead_pods(&mut self) -> Result<(), ApplyError> {
        let live: BTreeSet<u32> = self.netlink.links()?.iter().map(|link| link.index).collect();
        self.pods_replace(|ifindex| live.contains(&ifindex));
        let dead: Vec<IpNet> = (self.routes.desired().iter())
            .filter(|(_, route)| !live.contains(&route.index))
            .map(|(prefix, _)| *prefix)
            .collect();
        dead.iter().for_each(|prefix| self.routes.unset(prefix));
        Ok(())
    }

    fn pods_replace(&mut self, keep: impl Fn(u32) -> bool) {
        let dead: Vec<Address> = (self.pods.desired().iter())
            .filter(|(_, pod)| !keep(pod.ifindex))
            .map(|(address, _)| *address)
            .collect();
        dead.iter().for_each(|address| self.pods.unset(address));
    }

    /// Interfaces of the Pods in the table that are there.
    fn pods_in_table(&mut self) -> Result<BTreeSet<u32>, ApplyError> {
        let live: BTreeSet<u32> = self.netlink.links()?.iter().map(|link| link.index).collect();
        Ok(self.pods.desired().values().map(|pod| pod.ifindex).filter(|index| live.contains(index)).collect())
    }
}
