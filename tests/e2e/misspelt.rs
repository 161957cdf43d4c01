//! Names that lead nowhere are told where they stand, and what is meant is told where that is known.

use std::fs;

use serde_json::Value;
use weft_tests::{Lab, wait_for, weft};

/// Everything that refers to something refers to what is not there. Lines are what the test asks for.
const DANGLING: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nginx
        ports: [{name: http, containerPort: 80}]
        envFrom: [{configMapRef: {name: settngs}}, {secretRef: {name: may, optional: true}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: htpp}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: wbe}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: fine}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: deaf}
spec: {selector: {app: deaf}, ports: [{port: 80, targetPort: 81}]}
---
apiVersion: v1
kind: Pod
metadata: {name: deaf, labels: {app: deaf}}
spec: {containers: [{name: a, image: busybox, command: [sleep, '3600']}]}
";

#[test]
fn names_that_lead_nowhere_are_told() {
    let lab = Lab::with_nodes(1).up();
    let folder = weft_scratch::folder();
    let file = folder.path().join("app.yaml");
    fs::write(&file, DANGLING).unwrap();
    let said = lab.weft_lab("apply", &["-f", file.to_str().unwrap()]);
    let told: Vec<&str> =
        said.stderr.lines().filter_map(|line| line.split_once("app.yaml:")).map(|(_, rest)| rest).collect();
    let [map, port, pods] = told.as_slice() else { panic!("{said:?}") };
    assert!(map.starts_with("1: Deployment web: namespace default has no ConfigMap settngs: "), "{map}");
    assert_eq!(
        *port,
        "15: Service web: no Pod with the labels app=web has a port named htpp: it has no endpoints at port 80"
    );
    assert_eq!(
        *pods,
        "20: Service nobody: no Pod of namespace default has the labels app=wbe: it has no endpoints"
    );
    lab.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).succeeds();
    lab.kubectl(&["wait", "pod/deaf", "--for=condition=Ready", "--timeout=60s"]).succeeds();
    // The stand-in runs, and says what a kubelet would wait for.
    let log = lab.kubectl(&["logs", "deploy/web"]).succeeds();
    assert!(log.contains("no ConfigMap settngs"), "{log}");
    wait_for("the Event", || {
        let events = lab.get(&["events"]);
        let of_map =
            |event: &&Value| event["message"].as_str().unwrap_or("").contains("no ConfigMap settngs");
        events["items"].as_array().unwrap().iter().find(of_map).map(drop).ok_or(events)
    });
    // What has no backend is listed, and who refuses is named.
    let report: Value = wait_for("the Services of all", || {
        let said = weft(&["verify", "-o", "json", "--name", lab.name()]);
        let report: Value = serde_json::from_str(&said.stdout).map_err(|error| error.to_string())?;
        let failed = report["services"]["failed"].as_array().is_some_and(|failed| !failed.is_empty());
        if failed { Ok(report) } else { Err(said.stdout) }
    });
    assert_eq!(
        report["services"]["without_backends"],
        serde_json::json!(["default/nobody TCP", "default/web TCP"])
    );
    let failed = report["services"]["failed"].as_array().unwrap();
    for one in failed {
        assert_eq!(one["service"], "default/deaf TCP", "{one}");
        let problem = one["problem"].as_str().unwrap();
        assert!(
            problem.starts_with("nothing listens at its backend ") && problem.contains(":81"),
            "{problem}"
        );
    }
    // What was meant is told.
    let ask = |words: &[&str]| weft(&[words, &["--name", lab.name()]].concat());
    let said = ask(&["service", "show", "fnie"]).fails_with(2);
    assert!(said.contains("did you mean default/fine?"), "{said}");
    let said = ask(&["service", "show", "shop/fine"]).fails_with(2);
    assert!(said.contains("did you mean default/fine?"), "{said}");
    let said = lab.weft_lab("forward", &["fine", "0:81"]).fails_with(2);
    assert!(said.contains("Service fine has no port 81; it has 80"), "{said}");
    ask(&["dns", "query", "fine", "--from", "deploy/web"]).succeeds();
    let said = ask(&["dns", "query", "fine", "--from", "deploy/we"]).fails_with(2);
    assert!(said.contains("there is default/"), "{said}");
}

#[test]
fn all_that_is_refused_is_told_at_once() {
    let lab = Lab::with_nodes(1).up();
    let folder = weft_scratch::folder();
    let file = folder.path().join("app.yaml");
    let write = |text: &str| fs::write(&file, text).unwrap();
    let apply = || lab.weft_lab("apply", &["-f", file.to_str().unwrap()]);
    let pod = |name: &str, class: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{priorityClassName: '{class}', containers: [{{name: a, image: b}}]}}\n"
        )
    };
    write(&format!("{}{}{}", pod("one", "none"), pod("two", ""), pod("three", "none")));
    let said = apply().fails_with(2);
    assert!(said.contains("2 objects are refused:"), "{said}");
    assert!(said.contains("app.yaml:2: ") && said.contains("app.yaml:12: "), "{said}");
    let config = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n";
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 203.0.113.1, ports: [{port: 80}]}\n";
    write(&format!("{config}{service}{}", pod("four", "")));
    let tried = apply();
    assert!(tried.stdout.contains("configmap/settings created"), "what was applied is told: {tried:?}");
    let said = tried.fails_with(2);
    assert!(said.contains("1 more that may need them are not applied"), "{said}");
    write("apiVersion: v1\nkind: Service\nmetadata: {name: \"a\\e[31mb\"}\nspec: {ports: [{port: 80}]}\n");
    let said = apply().fails_with(2);
    assert!(said.contains("\\u{1b}[31m") && !said.contains('\u{1b}'), "{said:?}");
    lab.get(&["pod", "two"]);
    write("apiVersion: apps/v1\nkind: Deploymet\nmetadata: {name: web}\n");
    let said = apply().fails_with(2);
    let told = "no matches for kind Deploymet in version apps/v1 (did you mean Deployment of apps/v1?)";
    assert!(said.contains(told), "{said}");
}

/// What kubectl goes on with: a field that is gone from the manifest goes from the object, and nothing is warned of.
#[test]
fn kubectl_goes_on_with_what_was_applied() {
    let lab = Lab::with_nodes(1).up();
    let folder = weft_scratch::folder();
    let file = folder.path().join("app.yaml");
    let path = file.to_str().unwrap();
    fs::write(&file, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: '1', b: '2'}\n")
        .unwrap();
    lab.weft_lab("apply", &["-f", path]).succeeds();
    fs::write(&file, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: '1'}\n")
        .unwrap();
    let said = lab.kubectl(&["apply", "-f", path]);
    assert_eq!(said.stderr, "", "{said:?}");
    assert_eq!(lab.get(&["configmap", "settings"])["data"], serde_json::json!({ "a": "1" }));
    let said = lab.weft_lab("apply", &["-f", path]).succeeds();
    assert!(said.contains("configmap/settings unchanged"), "{said}");
}

#[test]
fn what_keeps_crashing_is_called_so_and_its_events_are_counted() {
    let lab = Lab::with_nodes(1).up();
    lab.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: restless}
spec: {containers: [{name: a, image: busybox, command: [sh, -c, 'exit 1']}]}
",
    );
    wait_for("an Event that is counted", || {
        let events = lab.get(&["events", "--field-selector", "involvedObject.name=restless"]);
        let items = events["items"].as_array().unwrap();
        let counted = |event: &&Value| event["reason"] == "Started" && event["count"].as_i64() >= Some(2);
        items.iter().find(counted).map(drop).ok_or_else(|| events.clone())
    });
    let said = wait_for("the state", || {
        let said = lab.weft_lab("status", &[]);
        if said.stdout.contains("CrashLoopBackOff") { Ok(said) } else { Err(said) }
    });
    let said = said.fails_with(1);
    assert!(said.contains("not ready: Pod default/restless (CrashLoopBackOff)"), "{said}");
}
