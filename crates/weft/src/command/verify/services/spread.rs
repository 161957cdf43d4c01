//! Whether connections spread evenly over backends.

use std::collections::BTreeMap;

use anyhow::Result;
use weft_agent::admin::{ServiceStatus, Visit, Visited};
use weft_model::{Protocol, services::FrontendKind};

use super::{Kind, Visitor, go, plan};

/// Services whose spread is looked at, and connections for each backend.
const SPREADS: usize = 3;
const CONNECTIONS_A_BACKEND: usize = 100;

/// Connects often to a few Services and says over whose backends that does not spread evenly.
pub(super) fn uneven(visitors: &[Visitor], held: &[Vec<ServiceStatus>]) -> Result<Vec<String>> {
    let (Some(visitor), Some(services)) =
        (visitors.iter().find(|visitor| visitor.kind == Kind::Node), held.first())
    else {
        return Ok(Vec::new());
    };
    let several = |service: &&ServiceStatus| {
        let chosen = service.backends.iter().filter(|backend| backend.internal).count();
        service.protocol == Protocol::Tcp && service.affinity_seconds.is_none() && (2..=50).contains(&chosen)
    };
    let mut uneven = Vec::new();
    for service in services.iter().filter(several).take(SPREADS) {
        let chosen = service.backends.iter().filter(|backend| backend.internal).count();
        let Some(frontend) = service.frontends.iter().find(|one| one.kind == FrontendKind::ClusterIp) else {
            continue;
        };
        let times = u16::try_from(chosen * CONNECTIONS_A_BACKEND).unwrap_or(u16::MAX);
        let visit = Visit {
            protocol: Protocol::Tcp,
            address: frontend.address,
            port: frontend.port,
            ask: true,
            times,
        };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for visited in go(&visitor.from, &[visit])?.into_iter().flatten() {
            if let Visited::Answered { by: Some(by), .. } = visited {
                *counts.entry(by).or_default() += 1;
            }
        }
        // Only where every connection was answered by who says its name does the count say something.
        let answered: usize = counts.values().sum();
        if answered == usize::from(times) && !is_even(counts.values().copied(), chosen) {
            let list: Vec<String> = counts.iter().map(|(pod, count)| format!("{pod} {count}")).collect();
            uneven.push(format!(
                "{}: {} of {times} connections",
                plan::service_name(service),
                list.join(", ")
            ));
        }
    }
    Ok(uneven)
}

/// Whether the counts of `backends` backends deviate no more than random choice does (chi-squared; one in a million even
/// spreads is taken for uneven).
fn is_even(counts: impl Iterator<Item = usize>, backends: usize) -> bool {
    let counts: Vec<f64> = counts.map(|count| count as f64).collect();
    let total: f64 = counts.iter().sum();
    let expected = total / backends as f64;
    let missing = backends.saturating_sub(counts.len()) as f64 * expected;
    let squares: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
    let freedom = backends.saturating_sub(1).max(1) as f64;
    // Wilson and Hilferty's approximation of the distribution, 4.75 standard deviations out.
    let bound = freedom * (1.0 - 2.0 / (9.0 * freedom) + 4.75 * (2.0 / (9.0 * freedom)).sqrt()).powi(3);
    squares + missing <= bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_even_and_a_favourite_is_not() {
        assert!(is_even([108, 92, 97, 103].into_iter(), 4));
        assert!(!is_even([200, 70, 60, 70].into_iter(), 4));
        assert!(!is_even([133, 133, 134].into_iter(), 4), "one gets nothing");
        assert!(is_even([110, 90].into_iter(), 2));
    }
}
