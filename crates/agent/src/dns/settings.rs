//! The key `dns` of the ConfigMap `kube-system/weft`: in force when it is right, and told when it is not.

use std::collections::BTreeMap;

use tokio::sync::watch;
use weft_dns::settings::Settings;
use weft_kube::Mirror;

use super::Dns;
use crate::node::thread::Handle;

/// The key.
const KEY: &str = "dns";
/// The ConfigMap's name.
const CONFIG_MAP: &str = "weft";

/// Keeps `wanted` at what is set; what is wrong changes nothing.
pub(super) async fn follow(
    dns: Dns,
    mut config_map: watch::Receiver<Mirror<String, BTreeMap<String, String>>>,
    wanted: watch::Sender<Settings>,
    node: Handle,
) {
    if config_map.wait_for(Mirror::is_synced).await.is_err() {
        return;
    }
    let mut last = None;
    loop {
        let text = {
            let mirror = config_map.borrow_and_update();
            mirror.objects().get(CONFIG_MAP).and_then(|data| data.get(KEY)).cloned().unwrap_or_default()
        };
        if last.as_ref() != Some(&text) {
            match text.parse::<Settings>() {
                Ok(settings) => {
                    dns.standing().settings_error = None;
                    dns.0.kept.known().settings.clone_from(&text);
                    dns.0.forwarder.replace_settings(&settings);
                    if node.limit_dns(settings.limits.queries_per_client).is_err() {
                        return;
                    }
                    wanted.send_if_modified(|last| {
                        let news = *last != settings;
                        *last = settings;
                        news
                    });
                    if last.is_some() {
                        tracing::info!("the settings of DNS have changed");
                    }
                }
                Err(error) => {
                    tracing::error!("{error}");
                    dns.standing().settings_error = Some(error.to_string());
                }
            }
            last = Some(text);
        }
        if config_map.changed().await.is_err() {
            return;
        }
    }
}
