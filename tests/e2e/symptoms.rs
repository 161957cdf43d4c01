//! B14: what does not work is told by `weft status` and by Events, whatever the agent did.

use std::{io::Write as _, process::Stdio};

use serde_json::Value;
use weft_scratch::Scratch;
use weft_tests::{Lab, wait_for};

const OBJECTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: deaf}
spec: {nodeName: node-1, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: waits}
spec: {type: LoadBalancer, loadBalancerClass: example.com/other, selector: {app: none}, ports: [{port: 80}]}
";

/// The Event with this reason, once there is one.
fn event(lab: &Lab, reason: &str) -> Value {
    wait_for(&format!("an Event {reason}"), || {
        let found = lab.get(&["events", "-A", "--field-selector", &format!("reason={reason}")]);
        found["items"].as_array().and_then(|all| all.first()).cloned().ok_or(())
    })
}

fn problems(lab: &Lab) -> String {
    let status: Value = serde_json::from_str(&lab.status()).unwrap();
    status["problems"].to_string()
}

#[test]
fn what_does_not_work_is_told_on_the_object_concerned() {
    let lab = Lab::with_nodes(1).running(OBJECTS).up();

    // Questions of the one Pod do not get out.
    let rules = "table inet deaf { chain output { type filter hook output priority 0; meta l4proto { tcp, udp } th dport 53 drop; }; }";
    lab.pod("deaf").runs(&["nft", rules]).succeeds();

    // A runtime attaches a Pod that the API does not have, and never takes it away.
    lab.collects_no_garbage("node-1");
    let list = lab.cni_config("node-1");
    let mut config = list["plugins"][0].clone();
    config["name"] = list["name"].clone();
    config["cniVersion"] = "1.0.0".into();
    let folder = lab.cni("node-1").join("bin");
    let program = folder.join("weft-cni");
    let sandbox = Scratch::new("t-lost-");
    let variables = [
        "CNI_COMMAND=ADD".to_owned(),
        "CNI_CONTAINERID=lost".to_owned(),
        format!("CNI_NETNS={}", sandbox.path().display()),
        "CNI_IFNAME=eth0".to_owned(),
        format!("CNI_PATH={}", folder.display()),
        "CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME=lost".to_owned(),
    ];
    let words: Vec<&str> =
        ["env"].into_iter().chain(variables.iter().map(String::as_str)).chain(program.to_str()).collect();
    let mut add = lab.node("node-1").command(&words).stdin(Stdio::piped()).spawn().unwrap();
    add.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    assert!(add.wait().unwrap().success(), "the plugin attaches the Pod");

    let names = event(&lab, "NamesDoNotResolve");
    assert_eq!(
        (&names["involvedObject"]["kind"], &names["involvedObject"]["name"]),
        (&"Pod".into(), &"deaf".into())
    );
    let waits = event(&lab, "LoadBalancerWithoutAddress");
    assert_eq!(waits["involvedObject"]["name"], "waits");
    let unused = event(&lab, "AddressesUnused");
    assert_eq!(unused["involvedObject"]["name"], "node-1");
    let said = problems(&lab);
    for part in ["names do not resolve", "default/waits", "default/lost"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}
