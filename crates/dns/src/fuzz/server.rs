//! Clients that send anything.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::CNAME},
};
use weft_model::{
    Protocol,
    dns::{NamespaceEvent, Settings as ZoneSettings, Zone},
    services::{
        AddressType, Endpoint, EndpointSlice, Event, Service, ServiceKey, ServicePort, ServiceType, SliceKey,
        SlicePort, TrafficPolicy,
    },
};

use crate::{
    question::{Asked, Origin, Question, Reply, Resolver},
    server::{Clients, Search, fuzz::Answerer},
};

static ANSWERER: LazyLock<Answerer> =
    LazyLock::new(|| Answerer::new(zone(), Arc::new(Outside), Arc::new(Pods(search()))));

/// A message of a client: the first octet says over what it came and from whom, the rest is the message.
pub fn server(data: &[u8]) {
    let Some((&how, message)) = data.split_first() else { return };
    let client = if how & 2 == 0 { Ipv4Addr::new(10, 244, 0, 2) } else { Ipv4Addr::new(203, 0, 113, 1) };
    let tcp = how & 1 == 1;
    check(message, tcp, ANSWERER.answer(message, client.into(), tcp).as_deref());
}

/// What every answer is like.
pub(super) fn check(message: &[u8], tcp: bool, answer: Option<&[u8]>) {
    let is_query = message.len() >= 12 && message[2] & 0x80 == 0;
    let Some(answer) = answer.filter(|answer| !answer.is_empty()) else { return };
    assert!(is_query, "an answer to what is no query");
    assert_eq!(answer[..2], message[..2], "the number is the question's");
    assert!(answer[2] & 0x80 != 0, "an answer says that it is one");
    let read = Message::from_vec(answer).expect("an answer can be read");
    if !tcp {
        let room = Message::from_vec(message).ok().map(|one| usize::from(one.max_payload()).max(512));
        // What this cannot read was not read as EDNS by the server either, or says less than it is given.
        assert!(answer.len() <= room.unwrap_or(1232).min(1232), "{} octets are too long", answer.len());
    }
    let code = read.metadata.response_code;
    if code == ResponseCode::NoError || code == ResponseCode::NXDomain {
        let end = 12 + read.queries[0].name.len() + 4;
        let end = end.min(message.len());
        assert_eq!(answer[12..end], message[12..end], "the question is repeated as it came");
    }
}

/// Everybody else: what they say follows from the name.
struct Outside;

struct Pods(Arc<Search>);

impl Resolver for Outside {
    fn ask<'a>(&'a self, question: &'a Question) -> Asked<'a> {
        Box::pin(std::future::ready(reply(question)))
    }
}

impl Clients for Pods {
    fn search(&self, address: IpAddr) -> Option<Arc<Search>> {
        (address == IpAddr::from([10, 244, 0, 2])).then(|| Arc::clone(&self.0))
    }

    fn may_ask(&self, _: IpAddr) -> bool {
        true
    }
}

fn reply(question: &Question) -> Reply {
    let first = question.name.iter().next().and_then(|label| label.first()).copied().unwrap_or_default();
    let record = |data| Record::from_rdata(question.name.clone(), 300, data);
    let addresses =
        |count: u8| (0..count).map(|last| record(RData::A(Ipv4Addr::new(192, 0, 2, last).into()))).collect();
    let alias = |target: &str| vec![record(RData::CNAME(CNAME(Name::from_ascii(target).unwrap())))];
    let (code, answers) = match first % 8 {
        0 => (ResponseCode::NXDomain, Vec::new()),
        1 => (ResponseCode::ServFail, Vec::new()),
        2 => (ResponseCode::NoError, Vec::new()),
        3 => (ResponseCode::NoError, addresses(250)),
        4 => (ResponseCode::NoError, alias("web.default.svc.cluster.local.")),
        5 => (ResponseCode::NoError, alias("no.default.svc.cluster.local.")),
        _ if question.kind == RecordType::A => (ResponseCode::NoError, addresses(2)),
        _ => (ResponseCode::NoError, Vec::new()),
    };
    Reply { code, answers, authorities: Vec::new(), origin: Origin::Hosts }
}

fn search() -> Arc<Search> {
    let more = ["corp.example".parse().unwrap()];
    Arc::new(Search::cluster_first("default", &"cluster.local".parse().unwrap(), &more).unwrap())
}

/// A zone with something of everything.
pub(super) fn zone() -> Zone {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    let mut zone = Zone::new(ZoneSettings {
        domain: "cluster.local".parse().unwrap(),
        pod_records: true,
        name_servers: vec![ip("10.96.0.10"), ip("fd00:10:96::a")],
        ranges: ["10.96.0.0/16", "10.244.0.0/16", "fd00:10:96::/112"].map(|one| one.parse().unwrap()).into(),
    });
    zone.hear_namespace(&NamespaceEvent::Begin);
    zone.hear_namespace(&NamespaceEvent::Namespace("default".into()));
    zone.hear_namespace(&NamespaceEvent::End);
    let web = Service {
        key: ServiceKey::new("default", "web"),
        uid: Arc::from("uid"),
        kind: ServiceType::ClusterIp,
        not_ours: false,
        cluster_ips: [ip("10.96.0.1"), ip("fd00:10:96::1")].into(),
        headless: false,
        external_name: None,
        ports: [ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }]
            .into(),
        external_ips: [].into(),
        ingress: [].into(),
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        source_ranges: None,
        health_check_port: None,
    };
    let headless = |name| Service {
        key: ServiceKey::new("default", name),
        headless: true,
        cluster_ips: [].into(),
        ..web.clone()
    };
    let external = |name, target: &str| Service {
        key: ServiceKey::new("default", name),
        kind: ServiceType::ExternalName,
        cluster_ips: [].into(),
        external_name: Some(target.into()),
        ..web.clone()
    };
    zone.hear(&Event::ServicesBegin);
    let all = [
        web.clone(),
        headless("db"),
        headless("big"),
        external("out", "fine.example"),
        external("loop", "loop.default.svc.cluster.local"),
    ];
    all.into_iter().for_each(|service| zone.hear(&Event::Service(service)));
    zone.hear(&Event::ServicesEnd);
    zone.hear(&Event::SlicesBegin);
    zone.hear(&Event::Slice(slice("db", 2)));
    zone.hear(&Event::Slice(slice("big", 200)));
    zone.hear(&Event::SlicesEnd);
    zone
}

fn slice(service: &str, endpoints: u8) -> EndpointSlice {
    let endpoint = |last: u8| Endpoint {
        address: IpAddr::from([10, 244, 1, last]),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hostname: Some(format!("{service}-{last}").into()),
        for_nodes: [].into(),
        for_zones: [].into(),
    };
    EndpointSlice {
        key: SliceKey::new("default", service),
        service: service.into(),
        address_type: AddressType::Ipv4,
        ports: [SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: (0..endpoints).map(endpoint).collect(),
    }
}
