//! `weft lab exec` and `weft lab forward` tell what is not there.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpStream,
    process::{Command, Stdio},
};

use weft_tests::{Lab, weft_path};

const APPLICATION: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: none}
spec:
  replicas: 0
  serviceName: none
  selector: {matchLabels: {app: none}}
  template:
    metadata: {labels: {app: none}}
    spec: {containers: [{name: a, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: none}
spec: {selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: real}
spec: {containers: [{name: a, image: busybox, command: [sleep, '86400']}]}
";

#[test]
fn what_is_not_there_is_told_from_what_has_no_pods() {
    let lab = Lab::with_nodes(1).running(APPLICATION).up();
    let said = lab.weft_lab("exec", &["sts/missing", "--", "true"]).fails_with(2);
    assert!(said.contains("namespace default has no StatefulSet missing"), "{said}");
    let said = lab.weft_lab("exec", &["-c", "a", "sts/none", "--", "true"]).fails_with(1);
    assert!(said.contains("StatefulSet default/none has no Pods: it is scaled to 0"), "{said}");

    // A program that is not there, and one that cannot be started, as with shells.
    for place in [&["real"][..], &["-c", "a", "real"], &["node/node-1"]] {
        let run = |program: &str| lab.weft_lab("exec", &[place, &["--", program]].concat());
        assert!(run("no-such-program").fails_with(127).contains("no-such-program"), "{place:?}");
        assert!(run("/etc/passwd").fails_with(126).contains("/etc/passwd"), "{place:?}");
    }

    let mut forward = Command::new(weft_path())
        .args(["lab", "forward", "--name", lab.name(), "svc/none", "0:80"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut output, mut problems) = (String::new(), String::new());
    BufReader::new(forward.stdout.take().unwrap()).read_line(&mut output).unwrap();
    let mut told = BufReader::new(forward.stderr.take().unwrap());
    told.read_line(&mut problems).unwrap();
    let port = output.split_whitespace().find_map(|word| word.strip_prefix("127.0.0.1:")).unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    let answered = stream.read_to_end(&mut Vec::new());
    told.read_line(&mut problems).unwrap();
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert_eq!(answered.unwrap_or_default(), 0);
    assert_eq!(problems.matches("Service none has no endpoints").count(), 2, "{problems}");
}
