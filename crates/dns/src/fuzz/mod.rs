//! What fuzzers call. Each takes any octets and panics when a promise is broken: no panic, no answer to what is no query, no answer
//! longer than the client takes, nothing believed that was not asked for.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a fuzzer is told by a panic")]

mod server;
mod upstream;

pub use server::server;
pub use upstream::upstream;

use crate::settings::Settings;

/// The text of the administrator's settings.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<Settings>() {
        Ok(settings) => crate::forward::fuzz::make_ready(&settings),
        Err(error) => assert!(error.to_string().starts_with("ConfigMap kube-system/weft, key dns")),
    }
}

/// The text of a node's resolv.conf.
pub fn resolv_conf(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        crate::forward::fuzz::read_resolv_conf(text);
    }
}
