//! The administrator's kubeconfig.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

/// JSON, which is YAML as well: nothing needs quoting rules of its own.
pub(crate) fn render(server: &str, name: &str, ca_pem: &str, token: &str) -> String {
    let authority = STANDARD.encode(ca_pem);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    format!("{config:#}\n")
}
