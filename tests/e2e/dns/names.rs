//! What a Pod knows names by, before any server is asked: as a kubelet writes it.

use weft_tests::{Lab, wait_for};

use super::{lines, nothing_else};

/// Runs for real, where the machine's own files would show through.
const REAL: &str = "[sh, -c, 'sleep 3600']";

#[test]
fn each_dns_policy_has_its_resolv_conf() {
    let pod = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
             spec: {{{spec} containers: [{{name: c, image: nginx, command: {REAL}}}]}}\n"
        )
    };
    let manifest = [
        pod("first", ""),
        pod("as-the-node", "dnsPolicy: Default,"),
        pod(
            "own",
            "dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1], searches: [ns1.example], \
             options: [{name: ndots, value: '2'}, {name: edns0}]},",
        ),
        pod("more", "dnsConfig: {searches: [example.org], options: [{name: ndots, value: '2'}]},"),
        pod("on-host", "hostNetwork: true,"),
        pod("on-host-first", "hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet,"),
    ]
    .concat();
    let lab = Lab::with_nodes(1).running(&manifest).up();
    let cluster = "search default.svc.cluster.local svc.cluster.local cluster.local";
    let server = "nameserver 10.96.0.10";
    let node = "nameserver 192.168.1.254";
    for (pod, expected) in [
        ("first", vec![cluster, server, "options ndots:5"]),
        ("as-the-node", vec![node]),
        ("own", vec!["search ns1.example", "nameserver 192.0.2.1", "options ndots:2 edns0"]),
        ("more", vec![&format!("{cluster} example.org"), server, "options ndots:2"]),
        ("on-host", vec![node]),
        ("on-host-first", vec![cluster, server, "options ndots:5"]),
    ] {
        let seen = lab.pod(pod).runs(&["cat", "/etc/resolv.conf"]).succeeds();
        assert_eq!(lines(&seen), expected, "{pod}");
        let seen = in_container(&lab, pod, "cat /etc/resolv.conf");
        assert_eq!(lines(&seen), expected, "in the container of {pod}");
    }
    // A node asks as its Pods of dnsPolicy Default do.
    assert_eq!(lines(&lab.node("node-1").runs(&["cat", "/etc/resolv.conf"]).succeeds()), [node]);
}

/// A command in the container of a Pod that runs for real, told by its log: it is run once more by way of the Pod's
/// processes, whose mounts it sees.
fn in_container(lab: &Lab, pod: &str, command: &str) -> String {
    let uid = lab.get(&["pod", pod])["metadata"]["uid"].as_str().unwrap().to_owned();
    let pid_file = lab.folder().join("pods").join(uid).join("containers/c/pid");
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let mut inside = std::process::Command::new("nsenter");
    inside.args(["-t", pid.trim(), "-m", "-u", "-n", "sh", "-c", command]);
    weft_tests::run(&mut inside).succeeds()
}

#[test]
fn host_name_hosts_and_aliases_are_the_pods_own() {
    let lab = Lab::with_nodes(1)
        .running(
            "
apiVersion: v1
kind: Pod
metadata: {name: busybox1, namespace: default}
spec:
  hostname: busybox-1
  subdomain: busybox-subdomain
  hostAliases: [{ip: 127.0.0.1, hostnames: [foo.local, bar.local]}]
  containers: [{name: c, image: nginx}]
---
apiVersion: v1
kind: Pod
metadata: {name: busybox2, namespace: default}
spec:
  hostname: busybox-2
  subdomain: busybox-subdomain
  setHostnameAsFQDN: true
  containers: [{name: c, image: nginx, command: [sh, -c, 'sleep 3600']}]
---
apiVersion: v1
kind: Pod
metadata: {name: on-host}
spec: {hostNetwork: true, containers: [{name: c, image: nginx}]}
",
        )
        .up();
    let (first, second) = (lab.pod("busybox1"), lab.pod("busybox2"));
    assert_eq!(first.runs(&["hostname"]).succeeds().trim(), "busybox-1");
    let whole = "busybox-2.busybox-subdomain.default.svc.cluster.local";
    assert_eq!(second.runs(&["hostname"]).succeeds().trim(), whole);
    assert_eq!(in_container(&lab, "busybox2", "hostname").trim(), whole);
    assert_eq!(in_container(&lab, "busybox2", "cat /etc/hostname").trim(), whole);
    assert_eq!(lab.pod("on-host").runs(&["hostname"]).succeeds().trim(), "node-1");
    // By its hosts file alone.
    for name in ["busybox-1", "busybox-1.busybox-subdomain.default.svc.cluster.local"] {
        let found = first.runs(&["getent", "hosts", name]).succeeds();
        assert!(found.starts_with(&first.address().to_string()), "{name}: {found}");
    }
    for name in ["foo.local", "bar.local"] {
        assert!(first.runs(&["getent", "hosts", name]).succeeds().starts_with("127.0.0.1"));
    }
    // What it writes there is its own, and not the machine's.
    first.runs(&["sh", "-c", "echo 192.0.2.7 written.local >> /etc/hosts"]).succeeds();
    assert!(first.runs(&["getent", "hosts", "written.local"]).succeeds().starts_with("192.0.2.7"));
    assert!(!std::fs::read_to_string("/etc/hosts").unwrap().contains("written.local"));
}

#[test]
fn probes_and_restarts_see_the_pods_names() {
    // It fails at first, and then only if the names are not there; it is ready if its probe sees them.
    let names = r#"test "$(hostname)" = here && getent hosts foo.local"#;
    let lab = Lab::with_nodes(1)
        .running(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: pod}}
spec:
  hostname: here
  hostAliases: [{{ip: 192.0.2.1, hostnames: [foo.local]}}]
  volumes: [{{name: kept, emptyDir: {{}}}}]
  containers:
  - name: c
    image: nginx
    command: [sh, -c, 'test -e /kept/once || {{ touch /kept/once; exit 1; }}; {names} && sleep 3600']
    volumeMounts: [{{name: kept, mountPath: /kept}}]
    readinessProbe: {{exec: {{command: [sh, -c, '{names}']}}, periodSeconds: 1}}
"
        ))
        .up();
    let status = lab.get(&["pod", "pod"])["status"]["containerStatuses"][0].clone();
    assert_eq!(status["restartCount"], 1, "{status}");
}

#[test]
fn a_host_name_that_is_too_long_is_said_and_waits() {
    let long = "a-subdomain-that-is-much-too-long-for-the-name-of-a-host";
    let lab = Lab::with_nodes(1).up();
    lab.apply(&format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: pod}}
spec: {{hostname: here, subdomain: {long}, setHostnameAsFQDN: true, containers: [{{name: c, image: nginx}}]}}
"
    ));
    let event = wait_for("an Event", || {
        let events = lab.get(&["events", "--field-selector", "reason=FailedCreatePodSandBox"]);
        events["items"][0]["message"].as_str().map(str::to_owned).ok_or(events)
    });
    assert!(event.contains("setHostnameAsFQDN") && event.contains(long), "{event}");
    // What was made on the way is taken away with it.
    lab.kubectl(&["delete", "pod", "pod"]).succeeds();
}

#[test]
fn the_host_outside_knows_names_and_writes_down_what_it_is_asked() {
    let lab = Lab::with_nodes(1).up();
    let (node, outside) = (lab.node("node-1"), lab.outside().address().to_string());
    assert_eq!(
        lines(&node.runs(&["dig", "+short", "www.example.com"]).succeeds()),
        ["example.com.", &outside]
    );
    assert_eq!(lines(&node.runs(&["dig", "+short", "+tcp", "api.example.org"]).succeeds()), [&outside]);
    nothing_else(&lab, &["UDP 192.168.1.2 www.example.com A", "TCP 192.168.1.2 api.example.org A"]);
}
