//! A server with a small cluster behind it, and clients.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    str::FromStr as _,
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use socket2::{Domain, Socket, Type};
use tokio::{runtime::Runtime, sync::Semaphore};
use weft_dns::{
    question::{Asked, Origin, Question, Reply, Resolver},
    server::{Clients, Search, Server, Settings},
};
use weft_model::{
    Protocol,
    dns::{NamespaceEvent, Settings as ZoneSettings, Zone},
    services::{
        AddressType, Endpoint, EndpointSlice, Event, Service, ServiceKey, ServicePort, ServiceType, SliceKey,
        SlicePort, TrafficPolicy,
    },
};

/// How long a client waits: long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A server, and all that it asks.
pub struct Place {
    pub server: Option<Server>,
    pub runtime: Runtime,
    pub zone: Arc<RwLock<Zone>>,
    pub outside: Arc<Outside>,
    pub pods: Arc<Pods>,
    pub address: SocketAddr,
}

/// A stand-in for all other servers.
#[derive(Default)]
pub struct Outside {
    /// What it says of a name and type; of others, that they do not exist.
    replies: Mutex<HashMap<(String, RecordType), Reply>>,
    /// What it was asked.
    asked: Mutex<Vec<String>>,
    /// Questions about names that begin with `slow` wait for this.
    gate: Gate,
}

/// Opens for as many as it is told.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

/// The address of a client that is not of the cluster.
pub const STRANGER: &str = "127.0.0.66";

#[derive(Default)]
pub struct Pods(pub Mutex<HashMap<IpAddr, Arc<Search>>>);

// === impl Place ===

impl Place {
    /// A server whose zone knows what `fill` tells it, and that this is all.
    pub fn new(fill: impl FnOnce(&mut Zone)) -> Place {
        Place::with(Settings::default(), fill)
    }

    pub fn with(settings: Settings, fill: impl FnOnce(&mut Zone)) -> Place {
        Place::unsynced(settings, |zone| {
            begin(zone);
            fill(zone);
            end(zone);
        })
    }

    pub fn unsynced(settings: Settings, fill: impl FnOnce(&mut Zone)) -> Place {
        let mut zone = Zone::new(zone_settings());
        fill(&mut zone);
        let (zone, outside, pods) =
            (Arc::new(RwLock::new(zone)), Arc::<Outside>::default(), Arc::<Pods>::default());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listen = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        let server = runtime.block_on(async {
            Server::start(&listen, Arc::clone(&zone), outside.clone(), pods.clone(), settings)
        });
        let server = server.unwrap();
        let address = server.addresses()[0];
        Place { server: Some(server), runtime, zone, outside, pods, address }
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn client(&self) -> Client {
        Client::new("127.0.0.1", self.address)
    }

    /// A Pod of dnsPolicy ClusterFirst in `namespace`; `more` is what else its resolv.conf has to search.
    pub fn pod(&self, address: &str, namespace: &str, more: &[&str]) -> Client {
        let more: Vec<_> = more.iter().map(|one| one.parse().unwrap()).collect();
        let search = Search::cluster_first(namespace, &"cluster.local".parse().unwrap(), &more).unwrap();
        self.pods.0.lock().unwrap().insert(ip(address), Arc::new(search));
        Client::new(address, self.address)
    }

    /// What the records of an answer say, sorted; the code when there are none.
    pub fn ask(&self, name: &str, kind: &str) -> Vec<String> {
        self.client().ask(name, kind)
    }

    /// Another server of the same zone.
    pub fn another(&self, listen: &[SocketAddr]) -> Server {
        let start = async {
            let (zone, outside, pods) = (Arc::clone(&self.zone), self.outside.clone(), self.pods.clone());
            Server::start(listen, zone, outside, pods, Settings::default())
        };
        self.runtime.block_on(start).unwrap()
    }

    /// Tries until it is so.
    #[track_caller]
    pub fn until(&self, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "it does not become so");
            std::thread::yield_now();
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.zone.write().unwrap());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _within = self.runtime.enter();
        self.server.take();
    }
}

pub fn zone_settings() -> ZoneSettings {
    ZoneSettings {
        domain: "cluster.local".parse().unwrap(),
        pod_records: true,
        name_servers: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
        ranges: ["10.96.0.0/16", "10.244.0.0/16", "fd00:10:96::/112"].map(|one| one.parse().unwrap()).into(),
    }
}

pub fn begin(zone: &mut Zone) {
    zone.hear(&Event::ServicesBegin);
    zone.hear(&Event::SlicesBegin);
    zone.hear_namespace(&NamespaceEvent::Begin);
}

pub fn end(zone: &mut Zone) {
    zone.hear(&Event::ServicesEnd);
    zone.hear(&Event::SlicesEnd);
    zone.hear_namespace(&NamespaceEvent::End);
}

// === impl Outside ===

impl Outside {
    /// From now on it says this: of types A and AAAA that the address is the name's, of type TXT text.
    pub fn says(&self, name: &str, kind: RecordType, data: &[&str]) {
        let owner = Name::from_str(name).unwrap();
        let record = |one: &&str| {
            let data = match kind {
                RecordType::A => RData::A(one.parse().unwrap()),
                RecordType::AAAA => RData::AAAA(one.parse().unwrap()),
                RecordType::TXT => RData::TXT(rdata::TXT::new(vec![one.to_string()])),
                _ => panic!("{kind}"),
            };
            Record::from_rdata(owner.clone(), 300, data)
        };
        self.reply(name, kind, reply(ResponseCode::NoError, data.iter().map(record).collect()));
    }

    pub fn reply(&self, name: &str, kind: RecordType, reply: Reply) {
        self.replies.lock().unwrap().insert((name.to_owned(), kind), reply);
    }

    /// So many questions about slow names are answered, now or when they are asked.
    pub fn release(&self, count: usize) {
        self.gate.0.add_permits(count);
    }

    /// How many questions it was asked since the last time.
    pub fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// What it was asked since the last time, in order.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

pub fn reply(code: ResponseCode, answers: Vec<Record>) -> Reply {
    Reply { code, answers, authorities: Vec::new(), origin: Origin::Hosts }
}

impl Resolver for Outside {
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a> {
        Box::pin(async move {
            let name = question.name.to_string();
            let signed = if question.signed { " signed" } else { "" };
            self.asked.lock().unwrap().push(format!("{name} {}{signed}", question.kind));
            if name.starts_with("slow") {
                self.gate.0.acquire().await.unwrap().forget();
            }
            let known = self.replies.lock().unwrap().get(&(name, question.kind)).cloned();
            known.unwrap_or_else(|| reply(ResponseCode::NXDomain, Vec::new()))
        })
    }
}

impl Clients for Pods {
    fn search(&self, address: IpAddr) -> Option<Arc<Search>> {
        self.0.lock().unwrap().get(&address).cloned()
    }

    /// A stranger is 127.0.0.66.
    fn may_ask(&self, address: IpAddr) -> bool {
        address != ip(STRANGER)
    }
}

/// A client with a socket of its own.
pub struct Client {
    pub udp: UdpSocket,
    pub server: SocketAddr,
}

// === impl Client ===

impl Client {
    pub fn new(address: &str, server: SocketAddr) -> Client {
        let udp = UdpSocket::bind((ip(address), 0)).unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        udp.connect(server).unwrap();
        Client { udp, server }
    }

    pub fn ask(&self, name: &str, kind: &str) -> Vec<String> {
        records(&self.exchange(&question(name, kind)))
    }

    /// Sends a message over UDP; the answer to it.
    #[track_caller]
    pub fn exchange(&self, message: &Message) -> Message {
        self.send(&message.to_vec().unwrap());
        let answer = self.receive();
        assert_eq!(answer.metadata.id, message.metadata.id, "the answer to another question");
        answer
    }

    pub fn send(&self, octets: &[u8]) {
        self.udp.send(octets).unwrap();
    }

    #[track_caller]
    pub fn receive(&self) -> Message {
        Message::from_vec(&self.receive_octets()).expect("an answer that can be read")
    }

    #[track_caller]
    pub fn receive_octets(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_535];
        let length = self.udp.recv(&mut buffer).expect("an answer");
        buffer.truncate(length);
        buffer
    }

    /// Nothing more comes: what is sent next is answered next.
    #[track_caller]
    pub fn hears_nothing_else(&self) {
        let last = question("dns-version.cluster.local", "TXT");
        self.send(&last.to_vec().unwrap());
        assert_eq!(self.receive().metadata.id, last.metadata.id);
    }

    pub fn connect(&self) -> Connection {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(self.udp.local_addr().unwrap().ip(), 0).into()).unwrap();
        socket.connect(&self.server.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection(stream)
    }
}

/// DNS over TCP.
pub struct Connection(pub TcpStream);

// === impl Connection ===

impl Connection {
    pub fn send(&mut self, message: &Message) {
        self.0.write_all(&framed(&message.to_vec().unwrap())).unwrap();
    }

    #[track_caller]
    pub fn receive(&mut self) -> Message {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).expect("an answer");
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut message).expect("a whole answer");
        Message::from_vec(&message).expect("an answer that can be read")
    }

    pub fn exchange(&mut self, message: &Message) -> Message {
        self.send(message);
        self.receive()
    }

    /// The answer, if the server does not close the connection instead.
    pub fn try_exchange(&mut self, message: &Message) -> Option<Message> {
        self.0.write_all(&framed(&message.to_vec().unwrap())).ok()?;
        let mut length = [0; 2];
        self.0.read_exact(&mut length).ok()?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.0.read_exact(&mut message).ok()?;
        Message::from_vec(&message).ok()
    }

    /// The server has closed it.
    #[track_caller]
    pub fn ends(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => assert_eq!(rest, b"", "an answer where there should be none"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// A question with a number of its own.
pub fn question(name: &str, kind: &str) -> Message {
    let kind = if kind == "IXFR" { RecordType::IXFR } else { RecordType::from_str(kind).unwrap() };
    let mut message = Message::query();
    message.metadata.id = fastrand_id();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.queries[0].name.set_fqdn(true);
    message
}

pub fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

fn fastrand_id() -> u16 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) as u16
}

/// The answer section as text, sorted; the code when it is empty.
pub fn records(message: &Message) -> Vec<String> {
    if message.answers.is_empty() {
        return vec![message.metadata.response_code.to_str().to_owned()];
    }
    let mut all: Vec<String> = message.answers.iter().map(text).collect();
    all.sort();
    all
}

pub fn text(record: &Record) -> String {
    format!("{} {} {} {}", record.name, record.ttl, record.record_type(), record.data)
}

/// The Service default/`name` at 10.96.0.1 with port `http` 80/TCP.
pub fn service(name: &str) -> Service {
    Service {
        key: ServiceKey::new("default", name),
        uid: Arc::from("uid"),
        kind: ServiceType::ClusterIp,
        not_ours: false,
        cluster_ips: [ip("10.96.0.1")].into(),
        headless: false,
        external_name: None,
        ports: [port("http", Protocol::Tcp, 80)].into(),
        external_ips: [].into(),
        ingress: [].into(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        source_ranges: None,
        health_check_port: None,
    }
}

pub fn headless(name: &str) -> Service {
    Service { headless: true, cluster_ips: [].into(), ..service(name) }
}

pub fn external(name: &str, target: &str) -> Service {
    Service {
        kind: ServiceType::ExternalName,
        cluster_ips: [].into(),
        external_name: Some(target.into()),
        ..service(name)
    }
}

pub fn port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port: None }
}

/// A slice of `service` with the port `http` 8080/TCP.
pub fn slice(name: &str, service: &str, endpoints: &[Endpoint]) -> EndpointSlice {
    let is_v6 = endpoints.first().is_some_and(|one| one.address.is_ipv6());
    EndpointSlice {
        key: SliceKey::new("default", name),
        service: service.into(),
        address_type: if is_v6 { AddressType::Ipv6 } else { AddressType::Ipv4 },
        ports: [SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: endpoints.into(),
    }
}

pub fn endpoint(address: &str, hostname: Option<&str>) -> Endpoint {
    Endpoint {
        address: ip(address),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hostname: hostname.map(Arc::from),
        for_nodes: [].into(),
        for_zones: [].into(),
    }
}

pub fn namespace(name: &str) -> NamespaceEvent {
    NamespaceEvent::Namespace(name.into())
}

pub fn hear_service(zone: &mut Zone, service: Service) {
    zone.hear(&Event::Service(service));
}

pub fn hear_slice(zone: &mut Zone, slice: EndpointSlice) {
    zone.hear(&Event::Slice(slice));
}
