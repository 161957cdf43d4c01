//! Which families of addresses a Service has.

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::strings;
use crate::error::FieldError;
use crate::validation::service::addresses;

type Spec = Map<String, Value>;

/// Fills in the families of a Service's spec, their policy, and what of addresses follows from what there was before.
///
/// # Errors
/// What does not fit together, and families that the cluster does not have.
pub(super) fn complete(
    spec: &mut Spec,
    before: Option<&Value>,
    ranges: &[IpNet],
) -> Result<(), Vec<FieldError>> {
    let before = before.filter(|before| before["type"] != "ExternalName");
    carry_over(spec, before);
    if is_settled(spec, before) || ranges.is_empty() {
        return Ok(());
    }
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        let before = before.map(|before| before["ipFamilyPolicy"].clone()).filter(Value::is_string);
        spec.insert("ipFamilyPolicy".to_owned(), before.unwrap_or_else(|| usual_policy(spec).into()));
    }
    let faults = addresses(&Value::Object(spec.clone()));
    if !faults.is_empty() {
        return Err(faults);
    }
    let policy = spec.get("ipFamilyPolicy").cloned().unwrap_or_default();
    let single = policy == "SingleStack";
    let mut errors = Vec::new();
    let mut refuse = |why: &str| errors.push(FieldError::invalid("spec.ipFamilyPolicy", &policy, why));
    let (mut ips, mut families) = (strings(spec.get("clusterIPs")), strings(spec.get("ipFamilies")));
    if let Some(before) = before {
        let (old_ips, old_families) = (strings(before.get("clusterIPs")), strings(before.get("ipFamilies")));
        if single {
            // Who wants a single stack need not say which family goes.
            if ips == old_ips {
                ips.truncate(1);
            }
            if families == old_families {
                families.truncate(1);
            }
        } else {
            let reduced = |old: &[String], new: &[String]| {
                old.len() == 2 && new.len() == 1 && old.first() == new.first()
            };
            if reduced(&old_ips, &ips) {
                refuse("must be 'SingleStack' to release the secondary cluster IP");
            }
            if reduced(&old_families, &families) {
                refuse("must be 'SingleStack' to release the secondary IP family");
            }
        }
    }
    errors.extend(contradictions(&policy, &ips, &families));
    let has = |family: &str| ranges.iter().any(|range| range.addr().is_ipv6() == (family == "IPv6"));
    for (at, ip) in ips.iter().enumerate().skip(families.len()).filter(|(_, ip)| *ip != "None") {
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        if has(family) {
            families.push(family.to_owned());
        } else {
            let why = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{at}]"), &json!(ips), why));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let free = is_free(spec);
    if !free {
        if policy == "RequireDualStack" && !(has("IPv4") && has("IPv6")) {
            let why = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid("spec.ipFamilyPolicy", &policy, why));
        }
        for (at, family) in families.iter().enumerate().filter(|(_, family)| !has(family)) {
            let why = "not configured on this cluster";
            let field = format!("spec.ipFamilies[{at}]");
            errors.push(FieldError::invalid(field, &family.as_str().into(), why));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    if families.is_empty() {
        let first = ranges.first().is_some_and(|range| range.addr().is_ipv6());
        families.push(if first { "IPv6" } else { "IPv4" }.to_owned());
    }
    if !single && families.len() == 1 {
        let other = if families.first().is_some_and(|family| family == "IPv4") { "IPv6" } else { "IPv4" };
        if free || has(other) {
            families.push(other.to_owned());
        }
    }
    spec.insert("ipFamilies".to_owned(), json!(families));
    if !ips.is_empty() {
        spec.insert("clusterIPs".to_owned(), json!(ips));
    }
    Ok(())
}

/// Two of what its policy has one of.
fn contradictions(policy: &Value, ips: &[String], families: &[String]) -> Vec<FieldError> {
    let counted = [("cluster IPs", ips.len()), ("IP families", families.len())];
    let double = counted.into_iter().filter(|(_, count)| policy == "SingleStack" && *count == 2);
    double
        .map(|(what, _)| {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            FieldError::invalid("spec.ipFamilyPolicy", policy, why)
        })
        .collect()
}

/// What contradicts itself in a new Service's spec, in every cluster.
pub(super) fn check(spec: &Spec) -> Vec<FieldError> {
    let named = spec.get("ipFamilyPolicy").filter(|policy| !policy.is_null());
    let policy = named.cloned().unwrap_or_else(|| usual_policy(spec).into());
    contradictions(&policy, &strings(spec.get("clusterIPs")), &strings(spec.get("ipFamilies")))
}

fn usual_policy(spec: &Spec) -> &'static str {
    if is_free(spec) { "RequireDualStack" } else { "SingleStack" }
}

/// Whether nobody needs an address for it, so that it may have families that the cluster does not have.
fn is_free(spec: &Spec) -> bool {
    let headless = spec.get("clusterIP").is_some_and(|address| address == "None");
    let selects = spec.get("selector").and_then(Value::as_object).is_some_and(|labels| !labels.is_empty());
    headless && !selects
}

/// An address in one of the two fields is meant for both; what an update leaves out stays.
pub(super) fn carry_over(spec: &mut Spec, before: Option<&Value>) {
    let one = |spec: &Spec| spec.get("clusterIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let Some(before) = before else {
        let address = one(spec);
        if !address.is_empty() && strings(spec.get("clusterIPs")).is_empty() {
            spec.insert("clusterIPs".to_owned(), json!([address]));
        }
        return;
    };
    let (had, all) = (before["clusterIP"].as_str().unwrap_or_default(), strings(before.get("clusterIPs")));
    if one(spec).is_empty() && !had.is_empty() {
        spec.insert("clusterIP".to_owned(), had.into());
    }
    let now = strings(spec.get("clusterIPs"));
    if now.is_empty() && !all.is_empty() {
        let address = one(spec);
        spec.insert("clusterIPs".to_owned(), if address == had { json!(all) } else { json!([address]) });
    } else if now == all && one(spec) != had {
        let address = one(spec);
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
}

/// Both families are wanted if there are two, and nothing of that changes: it stays at what it has.
fn is_settled(spec: &Spec, before: Option<&Value>) -> bool {
    before.is_some_and(|before| {
        let same = |name: &str| strings(spec.get(name)) == strings(before.get(name));
        before["ipFamilyPolicy"] == "PreferDualStack"
            && spec.get("ipFamilyPolicy").is_some_and(|policy| policy == "PreferDualStack")
            && spec.get("type") == before.get("type")
            && same("clusterIPs")
            && same("ipFamilies")
    })
}
