//! Pools of addresses, as the key `loadBalancerPools` of the ConfigMap `kube-system/weft` has them:
//!
//! ```yaml
//! - name: public
//!   cidrs: [203.0.113.0/28, 2001:db8::/120]
//!   ranges: [203.0.113.32-203.0.113.40]
//!   serviceSelector: {matchLabels: {tier: front}}   # Services without these labels get none of it
//!   autoAssign: false                               # only to Services that ask for an address of it
//! ```

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::Deserialize;

/// What is wrong with the configuration of the pools.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolsError {
    /// It is no YAML, or not of the right form.
    #[error("loadBalancerPools: {0}")]
    Form(String),
    /// Two pools have the same name.
    #[error("loadBalancerPools: two pools are named {0:?}")]
    TwoOfAName(String),
    /// A pool has no addresses.
    #[error("loadBalancerPools: pool {0:?} has neither cidrs nor ranges")]
    Empty(String),
    /// Two ranges share addresses.
    #[error("loadBalancerPools: {0} of pool {1:?} and {2} of pool {3:?} share addresses")]
    Overlap(AddressRange, String, AddressRange, String),
    /// A range has addresses that something else in the cluster has.
    #[error(
        "loadBalancerPools: {range} of pool {pool:?} and {taken} ({whose}) share addresses; give the pool addresses that \
         nothing in the cluster has"
    )]
    Taken {
        /// The range.
        range: AddressRange,
        /// Its pool.
        pool: String,
        /// What it overlaps.
        taken: IpNet,
        /// Whose that is.
        whose: String,
    },
}

/// All pools, in the order in which they are drawn from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    pub(crate) pools: Vec<Pool>,
}

/// Addresses to give.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Pool {
    pub(crate) name: String,
    #[serde(default)]
    cidrs: Vec<AddressRange>,
    #[serde(default)]
    ranges: Vec<AddressRange>,
    #[serde(default)]
    service_selector: Selector,
    #[serde(default = "yes")]
    pub(crate) auto_assign: bool,
}

fn yes() -> bool {
    true
}

/// From the first to the last, both included; of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// A label selector: every part must match; without parts everything does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Expression>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expression {
    key: String,
    operator: Operator,
    #[serde(default)]
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

// === impl Pools ===

impl FromStr for Pools {
    type Err = PoolsError;

    fn from_str(yaml: &str) -> Result<Self, PoolsError> {
        if yaml.trim().is_empty() {
            return Ok(Self::default());
        }
        let pools: Vec<Pool> =
            serde_saphyr::from_str(yaml).map_err(|error| PoolsError::Form(error.to_string()))?;
        let mut seen: Vec<(AddressRange, &str)> = Vec::new();
        for (at, pool) in pools.iter().enumerate() {
            if pools.iter().take(at).any(|other| other.name == pool.name) {
                return Err(PoolsError::TwoOfAName(pool.name.clone()));
            }
            if pool.ranges().next().is_none() {
                return Err(PoolsError::Empty(pool.name.clone()));
            }
            for range in pool.ranges() {
                if let Some((other, name)) = seen.iter().find(|(other, _)| other.overlaps(range)) {
                    let (other, name) = (*other, (*name).to_owned());
                    return Err(PoolsError::Overlap(range, pool.name.clone(), other, name));
                }
                seen.push((range, &pool.name));
            }
        }
        Ok(Self { pools })
    }
}

impl Pools {
    /// There is nothing to give: addresses are somebody else's business.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    /// Nothing of these ranges, each with whose it is, is in a pool.
    ///
    /// # Errors
    /// The first that is.
    pub fn check<'t>(&self, taken: impl IntoIterator<Item = (IpNet, &'t str)>) -> Result<(), PoolsError> {
        for (taken, whose) in taken {
            let other = AddressRange { first: taken.network(), last: taken.broadcast() };
            for pool in &self.pools {
                if let Some(range) = pool.ranges().find(|range| range.overlaps(other)) {
                    let (pool, whose) = (pool.name.clone(), whose.to_owned());
                    return Err(PoolsError::Taken { range, pool, taken, whose });
                }
            }
        }
        Ok(())
    }

    /// The pool that an address belongs to.
    pub(crate) fn of(&self, address: IpAddr) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.ranges().any(|range| range.contains(address)))
    }
}

// === impl Pool ===

impl Pool {
    pub(crate) fn ranges(&self) -> impl Iterator<Item = AddressRange> {
        self.cidrs.iter().chain(&self.ranges).copied()
    }

    pub(crate) fn serves(&self, labels: &BTreeMap<String, String>) -> bool {
        self.service_selector.matches(labels)
    }
}

// === impl AddressRange ===

impl AddressRange {
    pub(crate) fn is_ipv6(self) -> bool {
        self.first.is_ipv6()
    }

    pub(crate) fn contains(self, address: IpAddr) -> bool {
        self.is_ipv6() == address.is_ipv6()
            && (number(self.first)..=number(self.last)).contains(&number(address))
    }

    fn overlaps(self, other: Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// Every address, from the `start`-th on and round; `start` may be any number.
    pub(crate) fn from(self, start: u64) -> impl Iterator<Item = IpAddr> {
        let (first, last) = (number(self.first), number(self.last));
        // All of IPv6 is no pool: a length that does not fit is as good as the longest.
        let length = (last - first).saturating_add(1);
        let begin = u128::from(start) % length;
        (0..length).map(move |step| {
            let offset = begin.checked_add(step).map_or(step, |sum| sum % length);
            address(first + offset, self.is_ipv6())
        })
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(number: u128, ipv6: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(v4) if !ipv6 => Ipv4Addr::from(v4).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

impl TryFrom<String> for AddressRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some((first, last)) = text.split_once('-') {
            let parse =
                |part: &str| part.trim().parse::<IpAddr>().map_err(|error| format!("{text:?}: {error}"));
            let (first, last) = (parse(first)?, parse(last)?);
            if first.is_ipv4() != last.is_ipv4() || first > last {
                return Err(format!("{text:?} is no range: the first address comes after the last"));
            }
            return Ok(Self { first, last });
        }
        let net: IpNet = match text.trim().parse::<IpAddr>() {
            Ok(one) => one.into(),
            Err(_) => text.trim().parse().map_err(|_| {
                format!("{text:?} is no range: write 192.0.2.0/28, 192.0.2.1-192.0.2.9 or one address")
            })?,
        };
        Ok(Self { first: net.network(), last: net.broadcast() })
    }
}

impl std::fmt::Display for AddressRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

// === impl Selector ===

impl Selector {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let equal = self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        equal && self.match_expressions.iter().all(|expression| expression.matches(labels))
    }
}

impl Expression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_read_with_everything() {
        let pools: Pools = "
- name: public
  cidrs: [203.0.113.0/28, '2001:db8::/120']
  ranges: [203.0.113.32 - 203.0.113.40, 203.0.113.50]
  serviceSelector:
    matchLabels: {tier: front}
    matchExpressions: [{key: team, operator: NotIn, values: [test]}]
  autoAssign: false
- name: rest
  cidrs: [198.51.100.0/24]
"
        .parse()
        .unwrap();
        let public = pools.of("203.0.113.40".parse().unwrap()).unwrap();
        assert_eq!((public.name.as_str(), public.auto_assign), ("public", false));
        assert!(pools.of("203.0.113.41".parse().unwrap()).is_none());
        assert_eq!(pools.of("198.51.100.255".parse().unwrap()).unwrap().name, "rest");
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert!(public.serves(&labels(&[("tier", "front")])));
        assert!(!public.serves(&labels(&[("tier", "front"), ("team", "test")])));
        assert!(!public.serves(&labels(&[])));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |yaml: &str| yaml.parse::<Pools>().unwrap_err().to_string();
        assert!(error("- name: a\n  cidrs: [10.0.0.0/33]").contains("10.0.0.0/33"));
        assert!(error("- name: a\n  ranges: [10.0.0.9-10.0.0.1]").contains("is no range"));
        assert!(error("- name: a\n  cidr: [10.0.0.0/24]").contains("cidr"));
        assert!(error("- name: a").contains("has neither"));
        assert!(
            error("- {name: a, cidrs: [10.0.0.0/24]}\n- {name: a, cidrs: [10.0.1.0/24]}")
                .contains("two pools")
        );
        let both = error("- {name: a, cidrs: [10.0.0.0/24]}\n- {name: b, ranges: [10.0.0.255-10.0.1.0]}");
        assert!(both.contains("share addresses"), "{both}");
    }

    #[test]
    fn what_somebody_else_has_is_in_no_pool() {
        let pools: Pools =
            "- {name: a, cidrs: [192.0.2.0/24]}\n- {name: b, ranges: [10.96.200.0-10.96.200.9, '2001:db8::/64']}"
                .parse()
                .unwrap();
        let check = |net: &str| pools.check([(net.parse().unwrap(), "the Services' range")]);
        let said = check("10.96.0.0/16").unwrap_err().to_string();
        for part in
            ["10.96.200.0-10.96.200.9", "pool \"b\"", "10.96.0.0/16 (the Services' range)", "give the pool"]
        {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(check("192.0.2.7/32").is_err() && check("0.0.0.0/0").is_err());
        assert!(check("2001:db8::1/128").is_err() && check("::/0").is_err());
        assert!(
            check("192.0.3.0/24").is_ok()
                && check("10.96.200.10/32").is_ok()
                && check("2001:db9::/64").is_ok()
        );
    }

    #[test]
    fn a_range_is_walked_once_round() {
        let range = AddressRange::try_from("10.0.0.254-10.0.1.1".to_owned()).unwrap();
        let walked: Vec<String> = range.from(7).map(|address| address.to_string()).collect();
        assert_eq!(walked, ["10.0.1.1", "10.0.0.254", "10.0.0.255", "10.0.1.0"]);
        let all = AddressRange::try_from("::/0".to_owned()).unwrap();
        assert!(all.from(3).next().is_some());
    }
}
