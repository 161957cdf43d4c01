//! The workload kinds behave as their users expect.

use weft_tests::{Lab, wait_for};

#[test]
fn a_stateful_set_starts_in_order_with_lasting_names() {
    let lab = Lab::with_nodes(2)
        .running(
            "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: postgres, ports: [{containerPort: 5432}]}]}
",
        )
        .up();
    let pods = lab.get(&["pods", "-l", "app=db", "--sort-by=.metadata.name"]);
    let pods = pods["items"].as_array().unwrap();
    let names: Vec<&str> = pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    assert!(pods.iter().all(|pod| pod["spec"]["subdomain"] == "db" && pod["spec"]["hostname"] == pod["metadata"]["name"]));
    let uid = pods[1]["metadata"]["uid"].clone();
    lab.kubectl(&["delete", "pod", "db-1"]).succeeds();
    wait_for("db-1 to come back under its name", || {
        let pod = lab.kubectl(&["get", "pod", "db-1", "-o", "json"]);
        let pod: serde_json::Value = serde_json::from_str(&pod.stdout).unwrap_or_default();
        let back = pod["metadata"]["uid"] != uid && pod["status"]["phase"] == "Running";
        if back { Ok(()) } else { Err(pod["status"].clone()) }
    });
}

#[test]
fn a_job_that_fails_is_tried_again_and_then_given_up() {
    let lab = Lab::with_nodes(1).up();
    lab.apply(
        "
apiVersion: batch/v1
kind: Job
metadata: {name: broken}
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: broken, image: busybox, command: [sh, -c, 'echo no; exit 3']}]
",
    );
    wait_for("the Job to fail", || {
        let job = lab.get(&["job", "broken"]);
        let failed = job["status"]["conditions"][0]["type"] == "Failed" && job["status"]["failed"] == 2;
        if failed { Ok(()) } else { Err(job["status"].clone()) }
    });
    let pods = lab.get(&["pods", "-l", "job-name=broken"]);
    let code = &pods["items"][0]["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"];
    assert_eq!(code, 3, "{pods}");
}

#[test]
fn real_commands_see_their_environment_files_and_hostname_and_leave_the_machine_alone() {
    let lab = Lab::with_nodes(1).up();
    let mark = format!("/etc/weft-{}", lab.name());
    lab.apply(&format!(
        "
apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{color: blue, greeting.txt: hello}}
---
apiVersion: v1
kind: Pod
metadata: {{name: real}}
spec:
  restartPolicy: Never
  containers:
  - name: real
    image: busybox
    command: [sh, -c, 'touch {mark}; echo $COLOR $MY_IP $(hostname) $(cat /settings/greeting.txt); ls {mark}']
    env:
    - {{name: COLOR, valueFrom: {{configMapKeyRef: {{name: settings, key: color}}}}}}
    - {{name: MY_IP, valueFrom: {{fieldRef: {{fieldPath: status.podIP}}}}}}
    volumeMounts: [{{name: settings, mountPath: /settings}}]
  volumes: [{{name: settings, configMap: {{name: settings}}}}]
"
    ));
    wait_for("the Pod to succeed", || {
        let pod = lab.get(&["pod", "real"]);
        if pod["status"]["phase"] == "Succeeded" { Ok(()) } else { Err(pod["status"].clone()) }
    });
    let pod = lab.get(&["pod", "real"]);
    let log = lab.kubectl(&["logs", "real"]).succeeds();
    let address = pod["status"]["podIP"].as_str().unwrap();
    assert_eq!(log.lines().collect::<Vec<_>>(), [format!("blue {address} real hello"), mark.clone()]);
    assert!(!std::fs::exists(&mark).unwrap(), "a container wrote to the machine's files");
}

#[test]
fn a_container_that_ends_is_started_again_and_its_earlier_log_stays() {
    let lab = Lab::with_nodes(1).up();
    lab.apply(
        "
apiVersion: v1
kind: Pod
metadata: {name: restless}
spec:
  containers: [{name: a, image: busybox, command: [sh, -c, 'echo run; sleep 0.2; exit 1']}]
",
    );
    wait_for("a restart", || {
        let pod = lab.get(&["pod", "restless"]);
        let status = &pod["status"]["containerStatuses"][0];
        if status["restartCount"].as_i64() >= Some(1) { Ok(()) } else { Err(pod["status"].clone()) }
    });
    wait_for("the log of the run before", || {
        let log = lab.kubectl(&["logs", "restless", "--previous"]);
        if log.stdout.trim() == "run" { Ok(()) } else { Err(log) }
    });
}

#[test]
fn a_pod_is_ready_only_while_its_readiness_probe_succeeds() {
    let lab = Lab::with_nodes(1).up();
    lab.apply(
        "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: busybox
    command: [sh, -c, 'touch /tmp/ready; sleep 3600']
    readinessProbe: {exec: {command: [cat, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}
",
    );
    let ready = |wanted: bool| {
        wait_for(&format!("the endpoint to be ready: {wanted}"), || {
            let slices = lab.get(&["endpointslices", "-l", "kubernetes.io/service-name=web"]);
            let conditions = slices["items"][0]["endpoints"][0]["conditions"].clone();
            if conditions["ready"] == wanted { Ok(()) } else { Err(conditions) }
        });
    };
    ready(true);
    let pid_file = {
        let uid = lab.get(&["pod", "web"])["metadata"]["uid"].as_str().unwrap().to_owned();
        lab.folder().join("pods").join(uid).join("containers/web/pid")
    };
    let pid = std::fs::read_to_string(pid_file).unwrap();
    std::fs::remove_file(format!("/proc/{}/root/tmp/ready", pid.trim())).unwrap();
    ready(false);
}

#[test]
fn a_host_port_is_given_once_a_node() {
    let lab = Lab::with_nodes(2).up();
    lab.apply(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {name: edge}
spec:
  replicas: 3
  selector: {matchLabels: {app: edge}}
  template:
    metadata: {labels: {app: edge}}
    spec:
      hostNetwork: true
      containers: [{name: edge, image: nginx, ports: [{containerPort: 8080}]}]
",
    );
    wait_for("two Pods to run and the third to wait", || {
        let pods = lab.get(&["pods", "-l", "app=edge"]);
        let phases = pods["items"].as_array().unwrap().iter().map(|pod| pod["status"]["phase"].clone());
        let running = phases.clone().filter(|phase| phase == "Running").count();
        let pending = phases.filter(|phase| phase == "Pending").count();
        if (running, pending) == (2, 1) { Ok(()) } else { Err((running, pending)) }
    });
}
