//! Reading and writing `metadata`, and the values that the server makes up: uids, times, name suffixes.

use std::str::FromStr;

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};

const EMPTY: &str = "";

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or(EMPTY)
}

pub(crate) fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or(EMPTY)
}

pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or(EMPTY)
}

pub(crate) fn is_deleting(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

pub(crate) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub(crate) fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    finalizers(object).any(|name| name == finalizer)
}

/// The map at `metadata`, made if it is not there.
pub(crate) fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    map(map_of(object), "metadata")
}

/// The value as a map; what is not one is replaced.
pub(crate) fn map_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made an object"),
    }
}

/// The map under `key`, made if it is not there.
pub(crate) fn map<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    map_of(parent.entry(key).or_insert_with(|| Value::Object(Map::new())))
}

/// Sets what is absent or null.
pub(crate) fn default(parent: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    match parent.get(key) {
        Some(found) if !found.is_null() => {}
        _ => {
            parent.insert(key.to_owned(), value.into());
        }
    }
}

/// Now, to the second, as `metav1.Time` has it.
pub(crate) fn now() -> String {
    seconds(Timestamp::now())
}

/// Seconds since 1970.
pub(crate) fn epoch() -> i64 {
    Timestamp::now().as_second()
}

/// So many seconds from now.
pub(crate) fn after(delay: i64) -> String {
    let now = Timestamp::now().as_second();
    Timestamp::from_second(now.saturating_add(delay)).map_or_else(|_| seconds(Timestamp::MAX), seconds)
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Seconds from `time` (RFC 3339) to now.
pub(crate) fn age(time: &str) -> Option<i64> {
    let time = Timestamp::from_str(time).ok()?;
    Some(Timestamp::now().as_second() - time.as_second())
}

/// Random bytes from the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        ApiError::new(500, "InternalError", "the kernel gave no random bytes (getrandom failed)")
    })?;
    Ok(bytes)
}

/// A version 4 UUID.
pub(crate) fn new_uid() -> Result<String> {
    let mut bytes = random::<16>()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex(&bytes);
    Ok(format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `prefix` and five characters that spell no words.
pub(crate) fn generated_name(prefix: &str) -> Result<String> {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let kept: String = prefix.chars().take(58).collect();
    let suffix = random::<5>()?.map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()]));
    Ok(kept + &String::from_iter(suffix))
}
