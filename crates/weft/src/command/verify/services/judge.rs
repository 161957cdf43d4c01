//! What came of the visits.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use weft_agent::admin::Visited;
use weft_model::Protocol;

use super::{Count, Expected, Failure, Kind, Planned, Row, ServicesReport, Visitor};

/// What is wrong with what came of a visit.
pub(super) fn problem(visitor: &Visitor, planned: &Planned, visited: &Visited) -> Option<String> {
    match (planned.expected, visited) {
        (Expected::NotThatPod, Visited::Answered { by, .. }) => {
            let that = by.is_some() && *by == planned.host_port;
            that.then(|| "the Pod answers, although its hostIP is another address".into())
        }
        (Expected::NotThatPod, _) => None,
        (Expected::Answer, Visited::Answered { by: Some(by), .. })
            if planned.host_port.as_ref().is_some_and(|pod| pod != by) =>
        {
            Some(format!("{by} answers, which is another Pod"))
        }
        (Expected::Answer, Visited::Answered { by, source }) => {
            let source = source.filter(|source| !visitor.addresses.contains(source))?;
            // Who is given itself may see itself under another name, and a node's Pods on its network are the node: it sees the
            // Service's address (docs/decisions/0002-source-addresses.md).
            let itself =
                by.as_ref() == Some(&visitor.name) || planned.itself && source == planned.visit.address;
            (!itself).then(|| format!("seen as {source}, which is not the client's address"))
        }
        (Expected::Answer, Visited::Connected)
        | (Expected::Refusal | Expected::Nothing, Visited::Refused)
        | (Expected::Nothing, Visited::Silent) => None,
        (Expected::Answer, Visited::Refused) => Some("refused, although it has backends".into()),
        (Expected::Answer, Visited::Silent) => Some("no answer".into()),
        (Expected::Refusal, Visited::Silent) => Some("no answer: without a backend it has to refuse".into()),
        (_, Visited::Failed(why)) => Some(why.clone()),
        (_, Visited::Answered { .. } | Visited::Connected) => {
            Some("answered, although this node holds no backend for it".into())
        }
    }
}

/// Counts what came of all visits.
pub(super) fn judge(
    visitors: &[Visitor],
    outcomes: &[Vec<(Option<String>, Option<Visited>)>],
    report: &mut ServicesReport,
) {
    let every = || {
        visitors.iter().zip(outcomes).flat_map(|(visitor, outcomes)| {
            visitor.plan.iter().zip(outcomes).map(move |(planned, outcome)| (visitor, planned, outcome))
        })
    };
    let answered: BTreeSet<&str> = every()
        .filter(|(_, _, (_, last))| matches!(last, Some(Visited::Answered { .. })))
        .map(|(_, planned, _)| planned.service.as_str())
        .collect();
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut unproved = BTreeSet::new();
    for (visitor, planned, (problem, last)) in every() {
        // A server that answers no datagram anywhere need not be one that answers any.
        let mute = planned.visit.protocol == Protocol::Udp
            && planned.expected == Expected::Answer
            && *last == Some(Visited::Silent)
            && !answered.contains(planned.service.as_str());
        if mute {
            unproved.insert(planned.service.clone());
            continue;
        }
        let row = rows.entry(&planned.service).or_insert_with(|| Row {
            service: planned.service.clone(),
            host_port: planned.host_port.is_some(),
            nodes: Count::default(),
            pods: Count::default(),
            outside: Count::default(),
        });
        let count = match visitor.kind {
            Kind::Node => &mut row.nodes,
            Kind::Pod => &mut row.pods,
            Kind::Outside => &mut row.outside,
        };
        count.all += 1;
        count.good += usize::from(problem.is_none());
        report.failed.extend(problem.as_ref().map(|problem| Failure {
            from: visitor.name.clone(),
            service: planned.service.clone(),
            host_port: planned.host_port.is_some(),
            address: SocketAddr::new(planned.visit.address, planned.visit.port),
            problem: problem.clone(),
        }));
    }
    report.matrix = rows.into_values().collect();
    report.unproved = unproved.into_iter().collect();
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use weft_agent::admin::Visit;

    use super::*;
    use crate::command::verify::services::From;

    fn says(expected: Expected, visited: &Visited) -> Option<String> {
        let visitor = Visitor {
            name: "outside".into(),
            kind: Kind::Outside,
            addresses: vec![[192, 0, 2, 9].into()],
            from: From::Netns(PathBuf::new()),
            plan: Vec::new(),
        };
        let address = [192, 0, 2, 1].into();
        let visit = Visit { protocol: Protocol::Sctp, address, port: 8080, ask: true, times: 1 };
        let host_port = Some("shop/web".to_owned());
        let service = "a host port".into();
        let planned = Planned { service, visit, expected, host_port, backend: None, itself: false };
        problem(&visitor, &planned, visited)
    }

    fn answered(by: &str, source: [u8; 4]) -> Visited {
        Visited::Answered { by: Some(by.into()), source: Some(source.into()) }
    }

    #[test]
    fn a_host_port_is_answered_by_its_pod_which_sees_the_client() {
        assert_eq!(says(Expected::Answer, &answered("shop/web", [192, 0, 2, 9])), None);
        assert!(says(Expected::Answer, &answered("shop/other", [192, 0, 2, 9])).is_some());
        assert!(says(Expected::Answer, &answered("shop/web", [192, 0, 2, 1])).is_some());
        assert!(says(Expected::Answer, &Visited::Silent).is_some());
    }

    #[test]
    fn at_other_addresses_than_its_host_ip_anybody_but_the_pod_may_answer() {
        for fine in [Visited::Refused, Visited::Silent, answered("shop/other", [192, 0, 2, 9])] {
            assert_eq!(says(Expected::NotThatPod, &fine), None);
        }
        assert!(says(Expected::NotThatPod, &answered("shop/web", [192, 0, 2, 9])).is_some());
    }

    #[test]
    fn a_node_that_is_given_itself_sees_the_services_address() {
        let service = [10, 96, 1, 1].into();
        let visitor = Visitor {
            name: "node-1".into(),
            kind: Kind::Node,
            addresses: vec![[192, 0, 2, 1].into()],
            from: From::Netns(PathBuf::new()),
            plan: Vec::new(),
        };
        let says = |itself, source: [u8; 4]| {
            let visit = Visit { protocol: Protocol::Udp, address: service, port: 53, ask: true, times: 1 };
            let (expected, host_port) = (Expected::Answer, None);
            let planned = Planned { service: "hn".into(), visit, expected, host_port, backend: None, itself };
            problem(&visitor, &planned, &answered("default/hn", source))
        };
        assert_eq!(says(true, [10, 96, 1, 1]), None);
        assert_eq!(says(true, [192, 0, 2, 1]), None);
        assert!(says(false, [10, 96, 1, 1]).is_some(), "by a backend elsewhere");
        assert!(says(true, [192, 0, 2, 9]).is_some());
    }
}
