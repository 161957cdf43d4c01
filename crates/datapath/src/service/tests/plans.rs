//! Plans of Service ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use proptest::prelude::*;
use weft_model::{
    Protocol,
    services::{
        BackendKey, BackendState, Choice, Frontend, FrontendKind, ServiceKey, ServicePortKey,
        ServicePortPlan, WhenEmpty,
    },
};

pub const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));

pub fn key(service: u8) -> ServicePortKey {
    ServicePortKey {
        service: ServiceKey::new("default", format!("s{service}")),
        port: "".into(),
        protocol: Protocol::Tcp,
        ipv6: false,
    }
}

pub fn backend(number: u8) -> BackendKey {
    BackendKey { address: Ipv4Addr::new(10, 244, 1, number).into(), port: 8080 }
}

pub fn choice(backends: &BTreeSet<u8>, when_empty: WhenEmpty) -> Choice {
    Choice { backends: backends.iter().map(|number| backend(*number)).collect(), when_empty }
}

/// How a Service port may be.
#[derive(Clone, Debug)]
pub struct Sketch {
    pub known: BTreeMap<u8, bool>,
    pub chosen: BTreeSet<u8>,
    pub local: BTreeSet<u8>,
    pub kinds: BTreeSet<u8>,
    pub affinity: bool,
    pub ranges: bool,
    pub drop: bool,
    pub shared_address: bool,
}

pub fn sketch() -> impl Strategy<Value = Sketch> {
    (
        proptest::collection::btree_map(0_u8..12, any::<bool>(), 0..12),
        proptest::collection::btree_set(0_u8..12, 0..12),
        proptest::collection::btree_set(0_u8..12, 0..12),
        proptest::collection::btree_set(0_u8..4, 0..4),
        any::<[bool; 4]>(),
    )
        .prop_map(|(known, chosen, local, kinds, [affinity, ranges, drop, shared_address])| {
            let known_only =
                |set: BTreeSet<u8>| set.into_iter().filter(|number| known.contains_key(number)).collect();
            Sketch {
                chosen: known_only(chosen),
                local: known_only(local),
                known: known.clone(),
                kinds,
                affinity,
                ranges,
                drop,
                shared_address,
            }
        })
}

pub fn plan(service: u8, sketch: &Sketch) -> ServicePortPlan {
    let mut frontends: Vec<Frontend> = sketch
        .kinds
        .iter()
        .map(|kind| match kind {
            0 => Frontend {
                address: Ipv4Addr::new(10, 96, 0, 1 + service).into(),
                port: 80,
                kind: FrontendKind::ClusterIp,
            },
            1 => Frontend { address: NODE, port: 30_000 + u16::from(service), kind: FrontendKind::NodePort },
            2 => Frontend {
                address: Ipv4Addr::new(192, 168, 1, 128 + service).into(),
                port: 80,
                kind: FrontendKind::LoadBalancer,
            },
            // Two Services may want the same external IP.
            _ => Frontend {
                address: Ipv4Addr::new(198, 51, 100, if sketch.shared_address { 1 } else { 2 + service })
                    .into(),
                port: 80,
                kind: FrontendKind::ExternalIp,
            },
        })
        .collect();
    frontends.sort();
    let when = if sketch.drop { WhenEmpty::Drop } else { WhenEmpty::Reject };
    ServicePortPlan {
        frontends,
        internal: choice(&sketch.chosen, when),
        cluster: choice(&sketch.chosen, WhenEmpty::Reject),
        external: choice(&sketch.local, when),
        known: (sketch.known.iter())
            .map(|(number, serving)| BackendState { key: backend(*number), serving: *serving })
            .collect(),
        affinity_seconds: sketch.affinity.then_some(10_800),
        source_ranges: if sketch.ranges { vec!["203.0.113.0/24".parse().unwrap()] } else { Vec::new() },
        nobody_else: sketch.ranges,
    }
}

pub fn simple(chosen: impl IntoIterator<Item = u8>) -> Sketch {
    let chosen: BTreeSet<u8> = chosen.into_iter().collect();
    Sketch {
        known: chosen.iter().map(|number| (*number, true)).collect(),
        local: chosen.clone(),
        chosen,
        kinds: [0].into(),
        affinity: false,
        ranges: false,
        drop: false,
        shared_address: false,
    }
}
