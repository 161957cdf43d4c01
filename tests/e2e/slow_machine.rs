//! A machine whose cores are busy with other things: what is said to be ready is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use weft_tests::{Lab, weft};

/// Threads that do nothing but keep the cores busy, until it is dropped.
struct Load {
    stop: Arc<AtomicBool>,
}

impl Load {
    fn of(threads: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..threads {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        Load { stop }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

const APPLICATION: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: nginx, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";

/// B10: once `lab up` says that all is ready, every path is proved, Pods have the MTU of their paths, and the whole model holds.
#[test]
fn what_is_ready_is_proved_on_a_busy_machine() {
    // Built before the cores are busy.
    weft(&["version"]).succeeds();
    let cores = thread::available_parallelism().map_or(2, usize::from);
    let load = Load::of(cores * 3);
    let lab = Lab::with_nodes(3).running(APPLICATION).option("--timeout", "300").up();
    let told: serde_json::Value = serde_json::from_str(&lab.status()).unwrap();
    assert_eq!(told["problems"], serde_json::json!([]));
    for node in told["nodes"].as_array().unwrap() {
        let peers = node["peers"].as_array().unwrap();
        assert_eq!(peers.len(), 2, "{node}");
        for peer in peers {
            assert_eq!((&peer["path"], &peer["reachable"]), (&"native".into(), &true.into()), "{peer}");
            assert_eq!(peer["proved_mtu"], node["mtu"]["uplink"], "{peer}");
        }
        for pod in node["pods"].as_array().unwrap() {
            assert_eq!(pod["mtu"], node["mtu"]["uplink"], "{pod}");
        }
    }
    drop(load);
    weft(&["verify", "--name", lab.name()]).succeeds();
}
