//! The key `dns` of the ConfigMap `kube-system/weft`: in force when it is right, and told when it is not.

use tokio::sync::watch;
use weft_dns::settings::Settings;
use weft_kube::{ConfigMap, Mirror, ObjectRef, SETTINGS, WarningEvent};

use super::Dns;

/// The key.
const KEY: &str = "dns";

/// Keeps `wanted` at what is set; what is wrong changes nothing, and is one of the `warnings`.
pub(super) async fn follow(
    dns: Dns,
    mut config_map: watch::Receiver<Mirror<String, ConfigMap>>,
    wanted: watch::Sender<Settings>,
    warnings: watch::Sender<Vec<WarningEvent>>,
) {
    if config_map.wait_for(Mirror::is_synced).await.is_err() {
        return;
    }
    let mut last = None;
    loop {
        let set = config_map.borrow_and_update().objects().get(SETTINGS).cloned().unwrap_or_default();
        let text = set.data.get(KEY).cloned().unwrap_or_default();
        if last.as_ref() != Some(&text) {
            let error = match text.parse::<Settings>() {
                Ok(settings) => {
                    dns.0.forwarder.replace_settings(&settings);
                    let news = wanted.send_replace(settings.clone()) != settings;
                    if news {
                        tracing::info!("the settings of DNS have changed");
                    }
                    None
                }
                Err(error) => Some(error.to_string()),
            };
            if let Some(error) = &error {
                tracing::error!("{error}");
            }
            warnings.send_replace(error.iter().map(|error| warning(&dns, &set, error)).collect());
            dns.standing().settings_error = error;
            last = Some(text);
        }
        if config_map.changed().await.is_err() {
            return;
        }
    }
}

fn warning(dns: &Dns, set: &ConfigMap, error: &str) -> WarningEvent {
    WarningEvent {
        about: ObjectRef::settings(&set.uid),
        reporter: dns.0.place.node.clone(),
        reason: "DnsSettingsRefused",
        message: error.to_owned(),
        // All nodes find the same.
        key: KEY.to_owned(),
    }
}
