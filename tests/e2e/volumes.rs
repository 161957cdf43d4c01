//! Claims are bound, and end, as in a cluster.

use weft_tests::{Lab, wait_for};

const CLAIMS: &str = "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared}
spec: {accessModes: [ReadWriteMany], storageClassName: '', volumeName: nfs, resources: {requests: {storage: 5Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: waiting}
spec: {accessModes: [ReadWriteOnce], storageClassName: '', resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: nfs}
spec:
  accessModes: [ReadWriteMany]
  capacity: {storage: 10Gi}
  nfs: {server: nfs.example.com, path: /}
---
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox
    command: [sh, -c, 'echo kept > /data/file; sleep 86400']
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: postgres}]}
  volumeClaimTemplates:
  - metadata: {name: files}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 2Gi}}}
";

#[test]
fn claims_are_bound_and_end_with_what_they_hold_once_no_pod_uses_them() {
    let lab = Lab::with_nodes(1).running(CLAIMS).up();
    for claim in ["data", "shared", "files-db-0"] {
        lab.kubectl(&["wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", "pvc", claim])
            .succeeds();
    }
    let claim = lab.get(&["pvc", "data"]);
    let volume = lab.get(&["pv", claim["spec"]["volumeName"].as_str().unwrap()]);
    assert_eq!(volume["spec"]["claimRef"]["uid"], claim["metadata"]["uid"]);
    let listed = |kind: &str| lab.kubectl(&["get", kind, "--no-headers"]).succeeds();
    let row = |kind: &str, name: &str| {
        let table = listed(kind);
        let row = table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{table}"));
        row.split_whitespace().map(str::to_owned).collect::<Vec<String>>()
    };
    let uid = claim["metadata"]["uid"].as_str().unwrap();
    let made = format!("pvc-{uid}");
    assert_eq!(row("pvc", "data")[1..6], ["Bound", &made, "1Gi", "RWO", "standard"]);
    assert_eq!(row("pvc", "files-db-0")[3..6], ["2Gi", "RWO", "standard"]);
    assert_eq!(row("pvc", "shared")[1..5], ["Bound", "nfs", "10Gi", "RWX"]);
    assert_eq!(row("pvc", "waiting")[1], "Pending");
    wait_for("both volumes to be bound", || {
        let states = [row("pv", &made), row("pv", "nfs")];
        if states.iter().all(|row| row[4] == "Bound") { Ok(()) } else { Err(states) }
    });
    assert_eq!(row("pv", &made)[1..7], ["1Gi", "RWO", "Delete", "Bound", "default/data", "standard"]);

    // A Pod keeps its claim.
    lab.kubectl(&["delete", "pvc", "data", "--wait=false"]).succeeds();
    assert_eq!(row("pvc", "data")[1], "Terminating");
    let file = lab.folder().join("claims/default/data/file");
    assert!(file.exists());
    lab.kubectl(&["delete", "pod", "writer"]).succeeds();
    lab.kubectl(&["wait", "--for=delete", "--timeout=60s", "pvc/data", &format!("pv/{made}")]).succeeds();
    assert!(!file.exists());
    // Nor does one keep its namespace.
    lab.apply(
        "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: brief}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
",
    );
    let bound = "--for=jsonpath={.status.phase}=Bound";
    lab.kubectl(&["wait", bound, "--timeout=60s", "pvc", "data", "-n", "brief"]).succeeds();
    lab.kubectl(&["delete", "namespace", "brief", "--timeout=60s"]).succeeds();
    // The policy of a volume made by hand is to be kept.
    lab.kubectl(&["delete", "pvc", "shared"]).succeeds();
    lab.kubectl(&["wait", "--for=jsonpath={.status.phase}=Released", "--timeout=60s", "pv", "nfs"])
        .succeeds();
}
