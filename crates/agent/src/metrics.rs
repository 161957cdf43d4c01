//! Metrics in the text format of Prometheus (OpenMetrics 1.0).

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use weft_cni::Verb;

use crate::{
    admin::{ServicesStatus, Status},
    dns::Dns,
};

/// What is counted from the start of the process on. All else is read when it is asked for.
pub(crate) struct Metrics {
    registry: Registry,
    cni: Family<CniLabels, Histogram>,
    programming: Histogram,
    sync: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CniLabels {
    verb: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    path: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Range {
    range: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabel {
    watch: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    node: String,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("weft");
        // From a quarter of a millisecond to eight seconds.
        let cni = Family::<CniLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
        });
        registry.register("cni_duration_seconds", "How long CNI calls took in the agent", cni.clone());
        let programming = Histogram::new(exponential_buckets(0.000_25, 2.0, 18));
        registry.register(
            "network_programming_duration_seconds",
            "From a change of a Service or an endpoint as it is heard to the kernel",
            programming.clone(),
        );
        let sync = Histogram::new(exponential_buckets(0.000_03, 2.0, 18));
        registry.register(
            "sync_proxy_rules_duration_seconds",
            "How long a write of Services took, planning included",
            sync.clone(),
        );
        Self { registry, cni, programming, sync }
    }

    /// Services were written, which took so long, and so long after each change was heard.
    pub(crate) fn programmed(&self, took: Duration, latencies: &[Duration]) {
        self.sync.observe(took.as_secs_f64());
        latencies.iter().for_each(|latency| self.programming.observe(latency.as_secs_f64()));
    }

    /// A call of the plugin was answered.
    pub(crate) fn cni(&self, verb: Verb, success: bool, took: Duration) {
        let result = if success { "success" } else { "error" };
        self.cni.get_or_create(&CniLabels { verb: verb.as_str(), result }).observe(took.as_secs_f64());
    }

    /// Everything, as text.
    ///
    /// # Errors
    /// None that a String has.
    pub(crate) fn encode(&self, status: &Status, dns: Option<&Dns>) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        encode_registry(&mut text, &of(status))?;
        if let Some(dns) = dns {
            encode_registry(&mut text, &dns.metrics())?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

/// What a status says, as metrics.
fn of(status: &Status) -> Registry {
    let mut registry = Registry::with_prefix("weft");
    let mut gauge = |name: &str, help: &str, value: u64| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("ready", "1 when Pods can be attached", status.ready.into());
    gauge("pods", "Containers attached on this node", status.pods.len() as u64);
    gauge("range_conflicts", "Pod ranges of the cluster that are refused", status.conflicts.len() as u64);
    if let Some(api) = &status.api {
        gauge("api_synced", "1 when Nodes and Pods have been listed since the start", api.synced.into());
        gauge("api_following", "1 when the watches follow the API server", api.error.is_none().into());
        registry.register("api_failures", "How often a watch failed", ConstCounter::new(api.failures));
        let (follows, unreadable) =
            (Family::<WatchLabel, Gauge>::default(), Family::<WatchLabel, Gauge>::default());
        for watch in &api.watches {
            let label = WatchLabel { watch: watch.name.clone() };
            follows.get_or_create(&label).set(watch.error.is_none().into());
            let count = i64::try_from(watch.unreadable.len()).unwrap_or(i64::MAX);
            unreadable.get_or_create(&label).set(count);
        }
        registry.register("watch_follows", "1 while a watch follows the API server", follows);
        registry.register(
            "watch_unreadable_objects",
            "Objects that a watch cannot read and leaves out",
            unreadable,
        );
    }
    let failed = ConstCounter::new(status.failed_adds.iter().map(|one| one.times).sum::<u64>());
    registry.register("pods_not_attached", "ADDs that failed, of Pods that are not attached yet", failed);
    registry.register("repairs", "What others removed and was put back", ConstCounter::new(status.repairs));
    let (drops, packets) = (Family::<Reason, Counter>::default(), Family::<Way, Counter>::default());
    for counter in &status.counters {
        if counter.drop {
            drops.get_or_create(&Reason { reason: counter.name.clone() }).inc_by(counter.packets);
        } else {
            packets.get_or_create(&Way { path: counter.name.clone() }).inc_by(counter.packets);
        }
    }
    registry.register("drops", "Packets that the kernel programs dropped, by reason", drops);
    registry.register("packets", "Packets that the kernel programs passed on, by way", packets);
    let (free, capacity) = (Family::<Range, Gauge>::default(), Family::<Range, Gauge>::default());
    for range in &status.pod_ranges {
        let label = Range { range: range.range.to_string() };
        let figure = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        free.get_or_create(&label).set(figure(range.free));
        capacity.get_or_create(&label).set(figure(range.capacity));
    }
    registry.register("addresses_free", "Pod addresses left, by range", free);
    registry.register("addresses_capacity", "Pod addresses in all, by range", capacity);
    let peers = Family::<Way, Gauge>::default();
    for way in ["native", "overlay"] {
        let there = status.peers.iter().filter(|peer| peer.path == way).count();
        peers.get_or_create(&Way { path: way.to_owned() }).set(i64::try_from(there).unwrap_or(i64::MAX));
    }
    registry.register("peers", "Other nodes, by the path that Pods' packets take", peers);
    let [unreachable, silent, mismatch] = std::array::from_fn(|_| Family::<PeerLabel, Gauge>::default());
    for peer in &status.peers {
        let label = PeerLabel { node: peer.name.to_string() };
        unreachable.get_or_create(&label).set((peer.reachable == Some(false)).into());
        silent.get_or_create(&label).set(peer.silent.into());
        mismatch.get_or_create(&label).set(peer.mtu_mismatch.is_some().into());
    }
    registry.register("peer_unreachable", "1 when probes to a node do not come back", unreachable);
    registry.register("peer_silent", "1 while a node gives no sign of life, though most others do", silent);
    registry.register("peer_mtu_mismatch", "1 when packets of full size to a node are lost", mismatch);
    of_services(&status.services, &mut registry);
    if let Some(mtu) = &status.mtu {
        let family = Family::<Kind, Gauge>::default();
        for (kind, bytes) in [("uplink", mtu.uplink), ("overlay", mtu.overlay), ("pod", mtu.pod)] {
            family.get_or_create(&Kind { kind: kind.to_owned() }).set(bytes.into());
        }
        registry.register("mtu_bytes", "Largest packets", family);
    }
    registry
}

fn of_services(services: &ServicesStatus, registry: &mut Registry) {
    let gauges = [
        ("services_in_sync", "1 when the kernel serves what the API says", services.synced.into()),
        ("services", "Services known, headless ones not among them", services.services),
        ("endpoint_slices", "EndpointSlices known", services.slices),
        ("endpoints", "Endpoints known", services.endpoints),
        (
            "endpoints_unreachable",
            "Endpoints that get no new connections while their Services have others, as their nodes give no sign of life",
            services.unreachable_endpoints,
        ),
        (
            "service_ports_refused",
            "Ports of Services that are not served as they should be",
            services.refused.len() as u64,
        ),
        (
            "service_address_conflicts",
            "Addresses and ports that several Services name",
            services.conflicts.len() as u64,
        ),
        ("flow_entries", "Entries of the table of flows, two a flow", services.flows),
        ("flow_entries_limit", "Entries that the table of flows has room for", services.flows_room),
        ("affinity_entries", "Clients that come back to their backend", services.affinities),
        ("affinity_entries_limit", "So many there is room for", services.affinities_room),
        (
            "sync_proxy_rules_last_timestamp_seconds",
            "When Services were last written to the kernel",
            services.last_written.unwrap_or_default(),
        ),
    ];
    for (name, help, value) in gauges {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
    let counters = [
        ("sync_proxy_rules_syncs", "Writes of Services to the kernel", services.syncs),
        ("sync_proxy_rules_service_changes", "Changes of Services heard", services.service_events),
        ("sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices heard", services.slice_events),
    ];
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
}
