//! Metrics under the names that CoreDNS has given them, so that dashboards and alerts keep working; what it has no name for is
//! under ours.

use std::{collections::HashSet, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Registry,
};
use weft_dns::{
    forward::{self, ForwardCounts, UpstreamStatus, rcode_name},
    server::stats::{DURATIONS, FAMILIES, KINDS, PROTOCOLS, SIZES, Stats, duration_bounds},
};

use super::{
    Dns,
    feed::{self, Latencies},
};
use crate::admin::DnsStatus;

/// Everything at one moment.
#[derive(Debug)]
struct Snapshot {
    status: DnsStatus,
    forward: ForwardCounts,
    programming: [Latencies; 2],
    /// Of what is answered, as long as it is.
    served: Option<Stats>,
}

/// Where metrics are written to.
struct To<'e>(DescriptorEncoder<'e>);

/// Labels and their values.
type Labels = Vec<(&'static str, String)>;

impl Dns {
    /// Its metrics.
    pub(crate) fn metrics(&self) -> Registry {
        let mut forward = self.0.forwarder.counts();
        // One that is named for several domains counts for all of them at once, and must not be told twice.
        let mut seen = HashSet::new();
        forward.upstreams.retain(|upstream| seen.insert(upstream.server.clone()));
        let (status, programming) = (self.status_with(&forward), self.0.programming.read());
        let served = self.0.server.load().as_ref().map(|server| server.stats());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Snapshot { status, forward, programming, served }));
        registry
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut to = To(encoder);
        if let Some(served) = &self.served {
            of_server(served, &mut to)?;
        }
        self.of_cache(&mut to)?;
        self.of_upstreams(&mut to)?;
        self.of_programming(&mut to)?;
        self.of_the_rest(&mut to)
    }
}

impl Snapshot {
    fn of_cache(&self, to: &mut To) -> fmt::Result {
        let (counts, size) = (&self.forward, &self.forward.cache);
        let by_type =
            |success, denial| vec![(of_cache(Some("success")), success), (of_cache(Some("denial")), denial)];
        to.gauges(
            "coredns_cache_entries",
            "Answers that are remembered",
            by_type(size.positive, size.negative),
        )?;
        let hits = by_type(counts.positive_hits, counts.negative_hits);
        to.counters("coredns_cache_hits", "Questions answered from memory", hits)?;
        let all = counts.positive_hits + counts.negative_hits + counts.misses;
        let counters = [
            ("coredns_cache_requests", "Questions that are not the cluster's own", all),
            ("coredns_cache_misses", "Questions that others had to be asked for", counts.misses),
            ("coredns_cache_prefetch", "Answers fetched before they were needed", counts.prefetches),
            ("coredns_cache_served_stale", "Answers given after their time", counts.stale),
            ("coredns_cache_evictions", "Answers forgotten for want of room", size.evicted),
        ];
        counters
            .into_iter()
            .try_for_each(|(name, help, value)| to.counters(name, help, vec![(of_cache(None), value)]))
    }

    fn of_upstreams(&self, to: &mut To) -> fmt::Result {
        let upstreams = &self.forward.upstreams;
        let took = upstreams.iter().flat_map(|upstream| {
            upstream.answers.iter().map(|(code, took)| {
                let mut labels = of_upstream(upstream);
                labels.push(("rcode", code.clone()));
                (labels, took.sum, buckets(&forward::BUCKETS, &took.buckets))
            })
        });
        to.histograms("coredns_proxy_request_duration_seconds", "How long other servers took", took)?;
        let of_each = |value: fn(&UpstreamStatus) -> u64| -> Vec<(Labels, u64)> {
            upstreams.iter().map(|one| (of_upstream(one), value(one))).collect()
        };
        to.counters(
            "coredns_proxy_healthcheck_failures",
            "Servers found to be down still",
            of_each(|one| one.health_check_failures),
        )?;
        to.counters(
            "weft_dns_upstream_failures",
            "Questions that a server did not answer",
            of_each(|one| one.failures),
        )?;
        to.gauges(
            "weft_dns_upstream_down",
            "1 when a server is not asked",
            of_each(|one| one.down.is_some().into()),
        )
    }

    fn of_programming(&self, to: &mut To) -> fmt::Result {
        let kinds = ["cluster_ip", "headless_with_selector"].into_iter().zip(&self.programming);
        let all = kinds.map(|(kind, latencies)| {
            let labels = vec![("service_kind", kind.to_owned())];
            (labels, latencies.sum, buckets(&feed::BUCKETS, &latencies.buckets))
        });
        let help = "From a change of a Service, or of endpoints, as it is heard to the answer";
        to.histograms("coredns_kubernetes_dns_programming_duration_seconds", help, all)
    }

    fn of_the_rest(&self, to: &mut To) -> fmt::Result {
        let (status, counts) = (&self.status, &self.forward);
        let counters = [
            (
                "coredns_forward_healthcheck_broken",
                "Questions for which all servers were down",
                counts.all_down,
            ),
            (
                "coredns_forward_max_concurrent_rejects",
                "Questions refused, since too many were on their way",
                counts.refused,
            ),
            ("weft_dns_joined", "Questions that waited for the answer to the same one", counts.joined),
        ];
        for (name, help, value) in counters {
            to.counters(name, help, vec![(Vec::new(), value)])?;
        }
        let gauges = [
            ("coredns_hosts_entries", "Names that are configured", counts.hosts),
            ("weft_dns_cache_bytes", "Memory of what is remembered", counts.cache.bytes),
            ("weft_dns_synced", "1 when all names of the cluster are known", status.synced.into()),
            (
                "weft_dns_snapshot_age_seconds",
                "Age of what is answered from before the agent's start; 0 when the API has been heard of",
                // As small as it may be, it is not none.
                status.snapshot_age.map_or(0, |age| age.max(1)),
            ),
            (
                "weft_dns_listening",
                "1 when DNS is answered on this node",
                (!status.addresses.is_empty()).into(),
            ),
            (
                "weft_dns_settings_refused",
                "1 when the settings are wrong",
                status.settings_error.is_some().into(),
            ),
            ("weft_dns_namespaces", "Namespaces known", status.namespaces),
            ("weft_dns_services", "Services known, headless ones among them", status.services),
            ("weft_dns_endpoints", "Endpoints known", status.endpoints),
        ];
        gauges
            .into_iter()
            .try_for_each(|(name, help, value)| to.gauges(name, help, vec![(Vec::new(), value)]))
    }
}

fn of_server(stats: &Stats, to: &mut To) -> fmt::Result {
    let mut requests = Vec::new();
    for (protocol, families) in PROTOCOLS.iter().zip(&stats.requests) {
        for (family, kinds) in FAMILIES.iter().zip(families) {
            for (kind, count) in KINDS.iter().zip(kinds).filter(|(_, count)| **count > 0) {
                let more = [("proto", *protocol), ("family", *family), ("type", *kind)];
                requests.push((of_block(&more), *count));
            }
        }
    }
    to.counters("coredns_dns_requests", "Questions", requests)?;
    let codes = stats.responses.iter().enumerate().filter(|(_, count)| **count > 0);
    let responses =
        codes.map(|(code, count)| (of_block(&[("rcode", &rcode_name(code)), ("plugin", "weft")]), *count));
    to.counters("coredns_dns_responses", "Answers", responses.collect())?;
    let micros = |sum: u64| sum as f64 / 1e6;
    let all = stats.durations.iter().map(|one| micros(one.sum)).sum();
    let mut counts = [0; DURATIONS + 1];
    for one in &stats.durations {
        counts.iter_mut().zip(one.counts).for_each(|(sum, count)| *sum += count);
    }
    let whole = (of_block(&[]), all, buckets(&duration_bounds(), &counts));
    to.histograms("coredns_dns_request_duration_seconds", "From question to answer", std::iter::once(whole))?;
    let by_type = KINDS.iter().zip(&stats.durations).map(|(kind, one)| {
        let labels = vec![("type", (*kind).to_owned())];
        (labels, micros(one.sum), buckets(&duration_bounds(), &one.counts))
    });
    to.histograms("weft_dns_request_duration_seconds", "From question to answer, by type", by_type)?;
    let bounds = SIZES.map(f64::from);
    for (name, help, sizes) in [
        ("coredns_dns_request_size_bytes", "Sizes of questions", &stats.request_sizes),
        ("coredns_dns_response_size_bytes", "Sizes of answers", &stats.response_sizes),
    ] {
        let all = PROTOCOLS.iter().zip(sizes).map(|(protocol, one)| {
            (of_block(&[("proto", protocol)]), one.sum as f64, buckets(&bounds, &one.counts))
        });
        to.histograms(name, help, all)?;
    }
    let counters = [
        ("weft_dns_ignored", "Messages that were no questions", stats.ignored),
        ("weft_dns_refused", "Questions of clients that waited for too many others already", stats.refused),
        ("weft_dns_shed", "Questions dropped of clients that asked more than their share", stats.shed),
        ("weft_dns_unsent", "Answers that the kernel did not take", stats.unsent),
    ];
    counters
        .into_iter()
        .try_for_each(|(name, help, value)| to.counters(name, help, vec![(Vec::new(), value)]))
}

/// The labels of CoreDNS's one server block and its one zone, in what it counts of questions.
fn of_block(more: &[(&'static str, &str)]) -> Labels {
    let labels = [("server", "dns://:53"), ("zone", "."), ("view", "")];
    labels.iter().chain(more).map(|(name, value)| (*name, (*value).to_owned())).collect()
}

/// The same in what it counts of its cache.
fn of_cache(kind: Option<&str>) -> Labels {
    let labels = [("server", "dns://:53"), ("zones", "."), ("view", "")];
    let kind = kind.map(|kind| ("type", kind));
    labels.into_iter().chain(kind).map(|(name, value)| (name, value.to_owned())).collect()
}

fn of_upstream(upstream: &UpstreamStatus) -> Labels {
    vec![("proxy_name", "forward".to_owned()), ("to", upstream.server.clone())]
}

/// Counts with their upper bounds; one more is for what is longer.
fn buckets(bounds: &[f64], counts: &[u64]) -> Vec<(f64, u64)> {
    bounds.iter().chain([&f64::INFINITY]).copied().zip(counts.iter().copied()).collect()
}

// === impl To ===

impl To<'_> {
    fn counters(&mut self, name: &str, help: &str, values: Vec<(Labels, u64)>) -> fmt::Result {
        self.values(name, help, MetricType::Counter, &values)
    }

    fn gauges(&mut self, name: &str, help: &str, values: Vec<(Labels, u64)>) -> fmt::Result {
        self.values(name, help, MetricType::Gauge, &values)
    }

    fn values(&mut self, name: &str, help: &str, kind: MetricType, values: &[(Labels, u64)]) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            if labels.is_empty() {
                number(&mut encoder, kind, *value)?;
            } else {
                number(&mut encoder.encode_family(labels)?, kind, *value)?;
            }
        }
        Ok(())
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels, f64, Vec<(f64, u64)>)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, sum, buckets) in values {
            let count = buckets.iter().map(|(_, count)| count).sum();
            let mut of_labels = encoder.encode_family(&labels)?;
            of_labels.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

fn number(encoder: &mut MetricEncoder, kind: MetricType, value: u64) -> fmt::Result {
    match kind {
        MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        _ => encoder.encode_gauge(&value),
    }
}
