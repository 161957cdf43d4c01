//! What fails around it: the agent, the API server, the servers outside. Names of the cluster go on.

use std::{
    fs,
    net::UdpSocket,
    os::unix::net::UnixStream,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weft_tests::{Lab, Outcome, Place, Stopped, wait_for, wait_until, weft_path};

use super::dig::{answers, dig, until};

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node-1, containers: [{name: c, image: nginx}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.9.9, ports: [{port: 80}]}
";

/// A process that looks a name up again and again, as programs do: through glibc, with its usual time-outs.
struct LookUps {
    child: Option<Child>,
    folder: weft_scratch::Folder,
}

/// How many, and how many of them without success.
#[derive(Debug)]
struct Counts {
    all: u64,
    failed: u64,
}

impl LookUps {
    fn begin(from: &Place, name: &str) -> LookUps {
        let folder = weft_scratch::folder();
        let path = folder.path().display();
        let script = format!(
            "n=0; f=0; until test -e {path}/stop; do getent ahostsv4 {name} > /dev/null || f=$((f+1)); n=$((n+1)); \
             echo $n $f > {path}/new; mv {path}/new {path}/counts; done"
        );
        let child = from.command(&["sh", "-c", &script]).stdin(Stdio::null()).spawn().unwrap();
        let look_ups = LookUps { child: Some(child), folder };
        look_ups.go_on();
        look_ups
    }

    fn counts(&self) -> Option<Counts> {
        let text = fs::read_to_string(self.folder.path().join("counts")).ok()?;
        let (all, failed) = text.trim().split_once(' ')?;
        Some(Counts { all: all.parse().ok()?, failed: failed.parse().ok()? })
    }

    /// Ten more have come to an end.
    fn go_on(&self) {
        let before = self.counts().map_or(0, |counts| counts.all);
        wait_until("ten more look-ups", || self.counts().is_some_and(|counts| counts.all >= before + 10));
    }

    fn end(mut self) -> Counts {
        self.stop();
        self.counts().unwrap()
    }

    fn stop(&mut self) {
        fs::write(self.folder.path().join("stop"), "").unwrap();
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
    }
}

impl Drop for LookUps {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn the_agent_is_killed_and_started_again_and_no_look_up_fails() {
    restarts(2, Signal::SIGKILL);
}

/// An upgrade: the old agent is asked to end, the new one begins.
#[test]
fn the_agent_is_upgraded_and_no_look_up_fails() {
    restarts(2, Signal::SIGTERM);
}

/// Nobody stands in: a question finds silence instead of a refusal, and is asked again when the agent is back.
#[test]
fn the_only_nodes_agent_is_killed_and_started_again_and_no_look_up_fails() {
    restarts(1, Signal::SIGKILL);
}

fn restarts(nodes: u8, by: Signal) {
    let lab = Lab::with_nodes(nodes).running(MANIFEST).up();
    let client = lab.pod("client");
    answers(&client, "web.default.svc.cluster.local.", "A", &["10.96.9.9"]);
    let look_ups = LookUps::begin(&client, "web");
    let outside = LookUps::begin(&client, "api.example.com");
    for _ in 0..3 {
        let agent = lab.agent("node-1");
        kill(agent, by).unwrap();
        wait_until("another agent", || lab.agent("node-1") != agent);
        look_ups.go_on();
        outside.go_on();
    }
    for look_ups in [look_ups, outside] {
        let counts = look_ups.end();
        assert_eq!(counts.failed, 0, "{counts:?}");
    }
}

#[test]
fn while_the_agent_is_away_another_nodes_answers() {
    let lab = Lab::with_nodes(2).running(MANIFEST).up();
    let client = lab.pod("client");
    answers(&client, "web.default.svc.cluster.local.", "A", &["10.96.9.9"]);
    let agent = lab.agent("node-1");
    // The lab's own process, which would start it again, stands still.
    let keeper = Stopped::process(Pid::from_raw(lab.pid()));
    kill(agent, Signal::SIGKILL).unwrap();
    until(&client, "web.default.svc.cluster.local.", "A", |answer| answer.status == "NOERROR");
    let over_tcp = dig(&client, &["+tcp", "web.default.svc.cluster.local.", "A"]).unwrap();
    assert_eq!(over_tcp.answers[0].value, "10.96.9.9");
    assert_eq!(lab.agent("node-1"), agent, "nobody has started another");
    drop(keeper);
    wait_until("another agent", || lab.agent("node-1") != agent);
    until(&client, "web.default.svc.cluster.local.", "A", |answer| answer.status == "NOERROR");
}

/// An agent that hears nothing of the API server, in the place of the one of node-1: both the lab's process, which the API
/// server is part of, and the agent's socket are as a node's are that starts while the API server is away.
struct Deaf {
    agent: Child,
    lab: Option<Stopped>,
}

impl Deaf {
    fn on(lab: &Lab) -> Deaf {
        let old = lab.agent("node-1");
        let arguments = fs::read(format!("/proc/{old}/cmdline")).unwrap();
        let words: Vec<String> = arguments
            .split(|byte| *byte == 0)
            .skip(1)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .filter(|word| !word.is_empty())
            .collect();
        let socket = lab.folder().join("nodes/node-1/agent.sock");
        let stopped = Stopped::process(Pid::from_raw(lab.pid()));
        kill(old, Signal::SIGKILL).unwrap();
        wait_until("the agent to be gone", || UnixStream::connect(&socket).is_err());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let weft = weft_path().to_str().unwrap();
        let mut command = lab.node("node-1").command(&[&[weft], words.as_slice()].concat());
        let agent = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deaf = Deaf { agent, lab: Some(stopped) };
        wait_until("the agent to be there", || UnixStream::connect(&socket).is_ok());
        deaf
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
        self.lab.take();
    }
}

#[test]
fn an_agent_that_has_not_heard_of_everything_says_of_nothing_that_it_is_not_there() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let client = lab.pod("client");
    let name = "web.default.svc.cluster.local.";
    answers(&client, name, "A", &["10.96.9.9"]);
    let deaf = Deaf::on(&lab);
    for _ in 0..30 {
        if let Some(answer) = dig(&client, &["+tries=1", "+timeout=1", name, "A"]) {
            assert!(["SERVFAIL", "NOERROR"].contains(&answer.status.as_str()), "{answer:?}");
        }
    }
    drop(deaf);
    answers(&client, name, "A", &["10.96.9.9"]);
}

#[test]
fn an_agent_that_hears_nothing_answers_what_was_known_before() {
    let settings = "
apiVersion: v1
kind: ConfigMap
metadata: {name: weft, namespace: kube-system}
data: {dns: 'hosts: {printer.example.com: [192.0.2.7]}'}
";
    let lab = Lab::with_nodes(1).running(MANIFEST).running(settings).up();
    let client = lab.pod("client");
    let name = "web.default.svc.cluster.local.";
    answers(&client, name, "A", &["10.96.9.9"]);
    answers(&client, "printer.example.com.", "A", &["192.0.2.7"]);
    let kept = lab.folder().join("nodes/node-1/state/names");
    wait_until("the names to be kept", || {
        let text = fs::read(&kept).map(|kept| String::from_utf8_lossy(&kept).into_owned());
        text.is_ok_and(|text| text.contains("printer.example.com") && text.contains("web"))
    });
    let deaf = Deaf::on(&lab);
    // The first question may be asked before it is known that nothing is heard; clients ask again.
    let resolved = |name: &str| client.runs(&["getent", "ahostsv4", name]).succeeds();
    assert!(resolved("web").contains("10.96.9.9"));
    // By way of the search list, of which no name is known.
    assert!(resolved("printer.example.com").contains("192.0.2.7"));
    let unknown = dig(&client, &["new.default.svc.cluster.local.", "A"]).unwrap();
    assert_eq!(unknown.status, "SERVFAIL");
    let status: serde_json::Value = serde_json::from_str(&lab.status()).unwrap();
    assert!(status["nodes"][0]["dns"]["snapshot_age"].is_u64(), "{status}");
    assert!(status["problems"].to_string().contains("answers DNS from what it knew"), "{status}");
    drop(deaf);
    until(&client, "new.default.svc.cluster.local.", "A", |answer| answer.status == "NXDOMAIN");
    answers(&client, name, "A", &["10.96.9.9"]);
}

#[test]
fn while_it_has_not_heard_of_everything_another_nodes_agent_answers() {
    let lab = Lab::with_nodes(2).running(MANIFEST).up();
    let client = lab.pod("client");
    let name = "web.default.svc.cluster.local.";
    answers(&client, name, "A", &["10.96.9.9"]);
    let deaf = Deaf::on(&lab);
    for _ in 0..30 {
        answers(&client, name, "A", &["10.96.9.9"]);
    }
    drop(deaf);
    answers(&client, name, "A", &["10.96.9.9"]);
}

#[test]
fn without_the_world_outside_the_clusters_names_and_what_was_known_go_on() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let client = lab.pod("client");
    fs::write(lab.folder().join("outside/records"), "short.example.com 1 A 192.0.2.1\n").unwrap();
    answers(&client, "short.example.com.", "A", &["192.0.2.1"]);
    lab.cut_off("outside");
    let look_ups = LookUps::begin(&client, "web");
    // What is not known is not there for now, and that is said within the client's patience.
    until(&client, "never-asked.example.com.", "A", |answer| answer.status == "SERVFAIL");
    // What was known is answered long after its second.
    wait_for("an answer that is stale", || {
        let answer = dig(&client, &["short.example.com.", "A"]);
        match answer {
            Some(answer) if answer.answers.iter().any(|one| one.ttl > 1) => Ok(()),
            other => Err(other),
        }
    });
    look_ups.go_on();
    assert_eq!(look_ups.end().failed, 0);
    lab.join("outside");
    fs::write(lab.folder().join("outside/records"), "short.example.com 1 A 192.0.2.2\n").unwrap();
    answers(&client, "short.example.com.", "A", &["192.0.2.2"]);
}

#[test]
fn a_server_outside_that_comes_and_goes_disturbs_no_name_of_the_cluster() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let client = lab.pod("client");
    let records = lab.folder().join("outside/records");
    answers(&client, "web.default.svc.cluster.local.", "A", &["10.96.9.9"]);
    let look_ups = LookUps::begin(&client, "web");
    for round in 1..=3 {
        let (name, address) = (format!("n{round}.example.com"), format!("192.0.2.{round}"));
        fs::write(&records, format!("{name} 60 A {address}\n")).unwrap();
        lab.cut_off("outside");
        until(&client, &format!("away{round}.example.com."), "A", |answer| answer.status == "SERVFAIL");
        lab.join("outside");
        answers(&client, &format!("{name}."), "A", &[&address]);
        look_ups.go_on();
    }
    let counts = look_ups.end();
    assert_eq!(counts.failed, 0, "{counts:?}");
}

/// A Pod that asks for one name after the other that nobody outside answers for, as fast as it can: many times as often as a
/// client may, and far more than may wait for others at a time.
struct Flood {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Flood {
    fn begin(from: &Place) -> Flood {
        let end = Arc::new(AtomicBool::new(false));
        let (told, netns) = (end.clone(), from.netns());
        let thread = thread::spawn(move || {
            let socket = netns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            let mut sent = 0_u64;
            while !told.load(Ordering::Relaxed) {
                // n1234.example.com, A.
                let label = format!("n{sent}");
                let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(label.len()).unwrap()];
                query.extend(label.as_bytes());
                query.extend(b"\x07example\x03com\x00\x00\x01\x00\x01");
                // A queue that is full is what a flood makes.
                let _ = socket.send_to(&query, "10.96.0.10:53");
                sent += 1;
            }
            sent
        });
        Flood { end, thread: Some(thread) }
    }

    fn stop(&mut self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How many packets the node's programs have dropped because their Pods ask DNS too often.
fn turned_away(lab: &Lab) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&lab.status()).unwrap();
    let counters = status["nodes"][0]["counters"].as_array().unwrap().clone();
    counters.iter().find(|counter| counter["name"] == "dns-rate").unwrap()["packets"].as_u64().unwrap()
}

/// One datagram is asked and one comes back.
fn is_answered_at_once(from: &Place) -> bool {
    let socket = from.netns().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let query =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07default\x03svc\x07cluster\x05local\x00\x00\x01\x00\x01";
    socket.send_to(query, "10.96.0.10:53").unwrap();
    let mut answer = [0; 512];
    socket.recv(&mut answer).is_ok_and(|length| answer[..length].ends_with(&[10, 96, 9, 9]))
}

#[test]
fn one_pod_that_floods_dns_takes_nothing_from_the_others() {
    let lab = Lab::with_nodes(1)
        .running(MANIFEST)
        .running(
            "
apiVersion: v1
kind: Pod
metadata: {name: noisy}
spec: {containers: [{name: c, image: nginx}]}
",
        )
        .up();
    let client = lab.pod("client");
    answers(&client, "web.default.svc.cluster.local.", "A", &["10.96.9.9"]);
    answers(&client, "api.example.com.", "A", &[&lab.outside().address().to_string()]);
    lab.cut_off("outside");
    let mut flood = Flood::begin(&lab.pod("noisy"));
    let (inside, outside) = (LookUps::begin(&client, "web"), LookUps::begin(&client, "api.example.com"));
    // A resolver asks again and hides what was lost; these ask once.
    let lost = (0..500).filter(|_| !is_answered_at_once(&client)).count();
    for _ in 0..10 {
        inside.go_on();
        outside.go_on();
    }
    let (inside, outside) = (inside.end(), outside.end());
    let sent = flood.stop();
    assert!(sent > 100_000, "{sent} were no flood");
    assert_eq!((inside.failed, outside.failed, lost), (0, 0, 0), "{inside:?} {outside:?}, of {sent}");
    // Told apart from what is lost otherwise.
    let away = turned_away(&lab);
    assert!(away > sent / 4, "{away} of {sent}");
    lab.join("outside");
    // What is set is in force at once.
    lab.apply(
        "
apiVersion: v1
kind: ConfigMap
metadata: {name: weft, namespace: kube-system}
data: {dns: 'limits: {queriesPerClient: 1}'}
",
    );
    let socket = client.netns().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    wait_until("one question a second to be too many", || {
        (0..3).for_each(|_| drop(socket.send_to(b"?", "10.96.0.10:53")));
        turned_away(&lab) > away
    });
}

#[test]
fn a_change_is_answered_once_it_is_made() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let client = lab.pod("client");
    let name = "made.default.svc.cluster.local.";
    for address in ["10.96.20.1", "10.96.20.2"] {
        lab.apply(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: made}}
spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}
"
        ));
        answers(&client, name, "A", &[address]);
        lab.kubectl(&["delete", "service", "made"]).succeeds();
        until(&client, name, "A", |answer| answer.status == "NXDOMAIN");
    }
}

/// What stands for a CoreDNS: Pods that answer datagrams, though not as a DNS server does.
const CORE_DNS: &str = "
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: coredns, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: kube-dns}}
  template:
    metadata: {labels: {k8s-app: kube-dns}}
    spec: {containers: [{name: c, image: coredns, ports: [{containerPort: 53, protocol: UDP}, {containerPort: 53}]}]}
";

#[test]
fn a_cluster_that_keeps_its_coredns_falls_back_to_it() {
    let lab = Lab::with_nodes(1).running(MANIFEST).running(CORE_DNS).up();
    let client = lab.pod("client");
    let name = "web.default.svc.cluster.local.";
    answers(&client, name, "A", &["10.96.9.9"]);
    // The Pods' stand-ins answer from the lab's process, which starts the agent again as well: it is asked all the while.
    let server = "10.96.0.10:53".parse().unwrap();
    wait_for("an answer of the Pods while the agent is away", || {
        let agent = lab.agent("node-1");
        kill(agent, Signal::SIGKILL).unwrap();
        let outcome = client.sends(server);
        wait_until("another agent", || lab.agent("node-1") != agent);
        match outcome {
            Outcome::Answered(answer) if answer.pod().starts_with("coredns-") => Ok(()),
            other => Err(other),
        }
    });
    answers(&client, name, "A", &["10.96.9.9"]);
}

#[test]
fn dns_may_be_left_to_others() {
    let lab = Lab::with_nodes(2).option("--dns", "pods").running(MANIFEST).running(CORE_DNS).up();
    let client = lab.pod("client");
    let server = "10.96.0.10:53".parse().unwrap();
    let answer = wait_for("an answer", || match client.sends(server) {
        Outcome::Answered(answer) => Ok(answer),
        other => Err(other),
    });
    assert!(answer.pod().starts_with("coredns-"), "{answer:?}");
}
