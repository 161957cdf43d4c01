//! From nothing to three nodes and thirty Pods, every one reachable.

use std::{fmt::Write as _, fs, time::Instant};

use crate::{
    binaries::Lab,
    report::{Goal, Row},
};

const ROUNDS: usize = 5;

/// The benchmark.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let folder = weft_scratch::folder();
    let manifest = folder.path().join("thirty.yaml");
    fs::write(&manifest, deployments())?;
    let file = manifest.to_string_lossy().into_owned();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let lab = Lab::up(&["--nodes", "3", "-f", &file])?;
        times.push(start.elapsed().as_secs_f64());
        // A lab that says it is up and is not does not count.
        lab.weft(&["verify"])?;
    }
    Ok(vec![Row::absolute("lab up: 3 nodes, 30 Pods, all reachable", "s", &times, Goal::AtMost(3.0))])
}

fn deployments() -> String {
    let mut text = String::new();
    for tier in ["web", "api", "worker"] {
        let _ = write!(
            text,
            "---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {tier} }}
spec:
  replicas: 10
  selector: {{ matchLabels: {{ app: {tier} }} }}
  template:
    metadata: {{ labels: {{ app: {tier} }} }}
    spec:
      containers:
      - name: {tier}
        image: example.org/{tier}:1
        ports: [{{ containerPort: 8080 }}]
        readinessProbe: {{ httpGet: {{ path: /, port: 8080 }}, periodSeconds: 1 }}
"
        );
    }
    text
}
