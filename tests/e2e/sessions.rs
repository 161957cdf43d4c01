//! D9: kubectl exec, cp, attach and port-forward, proxies of Pods and Services, over WebSocket and over SPDY; `weft lab exec -c`.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{AttachParams, ListParams},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use weft_tests::{Lab, wait_for, wait_until};

const APPLICATION: &str = "
apiVersion: v1
kind: Pod
metadata: {name: real}
spec:
  containers:
  - name: main
    image: busybox
    command: [sleep, '86400']
    env: [{name: COLOR, value: blue}]
    volumeMounts: [{name: data, mountPath: /data}]
  - {name: cat, image: busybox, command: [cat], stdin: true, stdinOnce: true}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: nginx, image: nginx, ports: [{name: http, containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 8080, targetPort: http}]}
";

/// What kubectl speaks first, and what it falls back to.
const TRANSPORTS: [(&str, &str); 2] = [("WebSocket", "true"), ("SPDY", "false")];

fn kubectl(lab: &Lab, websocket: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(lab.folder().join("kubeconfig")).args(arguments);
    command.env("HOME", lab.folder().join("kubectl")).env_remove("KUBECONFIG");
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket);
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it with something on its standard input: exit code, output, errors.
fn with_input(mut command: Command, input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let typing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    // A command that reads nothing closes it early.
    let _ = typing.join().unwrap();
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn commands_run_in_containers() {
    let lab = Lab::with_nodes(1).running(APPLICATION).up();
    let large: Vec<u8> = (0..1_000_000u32).map(|number| (number % 251) as u8).collect();
    for (before, (transport, websocket)) in TRANSPORTS.into_iter().enumerate() {
        let run = |arguments: &[&str], input: &[u8]| with_input(kubectl(&lab, websocket, arguments), input);
        let exec = ["exec", "real", "-c", "main", "--"];
        let script = "echo out $COLOR; echo err >&2; exit 3";
        let (code, out, err) = run(&[&exec[..], &["sh", "-c", script]].concat(), b"");
        assert_eq!((code, out.as_slice()), (Some(3), &b"out blue\n"[..]), "{transport}: {err}");
        assert!(err.contains("err\n") && err.contains("exit code 3"), "{transport}: {err}");

        let (code, out, err) = run(&["exec", "-i", "real", "-c", "main", "--", "cat"], &large);
        assert_eq!((code, out.len()), (Some(0), large.len()), "{transport}: {err}");
        assert!(out == large, "{transport}: other octets came back");
        // One that does not read its input ends all the same.
        let (code, _, err) = run(&["exec", "-i", "real", "-c", "main", "--", "true"], &large);
        assert_eq!(code, Some(0), "{transport}: {err}");

        // A stand-in has a place for commands too: the Pod's network and names, and files of its own.
        let mark = format!("/etc/weft-mark-{}-{websocket}", lab.name());
        let words = format!("hostname; touch {mark}; ls {mark}");
        let (code, out, err) = run(&["exec", "deploy/web", "--", "sh", "-c", &words], b"");
        let out = String::from_utf8_lossy(&out).into_owned();
        assert_eq!(code, Some(0), "{transport}: {out}{err}");
        assert!(out.starts_with("web-") && out.contains(&mark), "{transport}: {out}");
        assert!(!fs::exists(&mark).unwrap(), "the machine has {mark}");

        let (code, _, err) = run(&["exec", "real", "-c", "main", "--", "no-such-program"], b"");
        assert!(code != Some(0) && err.contains("no-such-program"), "{transport}: {err}");

        // Who goes away ends what they had started, with all that it started; what a command leaves behind when it ends, stays.
        let started = |seconds: &str| {
            let script = format!("sleep {seconds} & echo started; wait");
            let mut client = Running(
                kubectl(&lab, websocket, &[&exec[..], &["sh", "-c", &script]].concat()).spawn().unwrap(),
            );
            let mut line = String::new();
            BufReader::new(client.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "started\n", "{transport}");
            client
        };
        let client = started("86300");
        wait_until("what it starts", || sleeping(&lab, "86300") == 1);
        drop(client);
        wait_until("what it started to end", || sleeping(&lab, "86300") == 0);
        let (code, _, err) = run(&[&exec[..], &["sh", "-c", "sleep 86301 >/dev/null 2>&1 &"]].concat(), b"");
        assert_eq!(code, Some(0), "{transport}: {err}");
        wait_until("what it leaves", || sleeping(&lab, "86301") == before + 1);

        // A terminal. kubectl wants one of its own for that.
        let line = format!(
            "kubectl --kubeconfig {} exec -it real -c main -- sh -c 'tty && stty size'",
            lab.folder().join("kubeconfig").display()
        );
        let mut typescript = Command::new("script");
        typescript.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let output = typescript.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && told.contains("/dev/pts/"), "{transport}: {told}");

        // Files, both ways.
        let folder = weft_scratch::folder();
        let (there, back) = (folder.path().join("there"), folder.path().join("back"));
        fs::write(&there, &large).unwrap();
        let path = format!("real:/data/{websocket}");
        let (code, _, err) = run(&["cp", "-c", "main", there.to_str().unwrap(), &path], b"");
        assert_eq!(code, Some(0), "{transport}: {err}");
        let (code, _, err) = run(&["cp", "-c", "main", &path, back.to_str().unwrap()], b"");
        assert_eq!(code, Some(0), "{transport}: {err}");
        assert!(fs::read(&back).unwrap() == large, "{transport}: another file came back");
    }
    let own =
        lab.weft_lab("exec", &["-c", "main", "real", "--", "sh", "-c", "echo $COLOR; ls /data; exit 4"]);
    assert_eq!(own.code, Some(4), "{}{}", own.stdout, own.stderr);
    assert!(own.stdout.starts_with("blue\n") && own.stdout.contains("true"), "{}", own.stdout);
    let none = lab.weft_lab("exec", &["-c", "other", "real", "--", "true"]);
    assert!(none.code != Some(0) && none.stderr.contains("those that do: cat, main"), "{}", none.stderr);
}

#[test]
fn what_runs_is_attached_to() {
    let lab = Lab::with_nodes(1).running(APPLICATION).up();
    // Its input ends with the first client's, and it with its input; it starts again.
    for (transport, websocket) in TRANSPORTS {
        let (_, out, err) = wait_for("the container to be attached to", || {
            let attach = kubectl(&lab, websocket, &["attach", "-i", "real", "-c", "cat"]);
            let (code, out, err) = with_input(attach, b"hello\n");
            if code == Some(0) { Ok((code, out, err)) } else { Err(err) }
        });
        assert_eq!(out, b"hello\n", "{transport}: {err}");
    }
    let words = [
        "run",
        "once",
        "-i",
        "--rm",
        "--restart=Never",
        "--image=busybox",
        "--command",
        "--",
        "tr",
        "a-z",
        "A-Z",
    ];
    let (code, out, err) = with_input(kubectl(&lab, "true", &words), b"quiet\n");
    assert_eq!(code, Some(0), "{err}");
    assert!(String::from_utf8_lossy(&out).contains("QUIET"), "{}{err}", String::from_utf8_lossy(&out));
}

/// How many of the lab's processes sleep for so long.
fn sleeping(lab: &Lab, seconds: &str) -> usize {
    let wanted = format!("sleep\0{seconds}\0");
    let own = format!("/weft-{}/", lab.name());
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let text = |path| fs::read_to_string(path).unwrap_or_default();
    processes
        .filter(|process| {
            text(process.join("cmdline")) == wanted && text(process.join("cgroup")).contains(&own)
        })
        .count()
}

/// A kubectl that goes on; ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn in_time<T>(what: &str, waited_for: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(30), waited_for).await;
    waited.unwrap_or_else(|_| panic!("{what} does not end"))
}

/// D9: a client in Rust, which speaks of the two WebSocket protocols the one without SPDY in it.
#[tokio::test]
async fn a_program_runs_commands_and_forwards_ports() {
    let lab = Lab::with_nodes(1).running(APPLICATION).up();
    let kubeconfig = kube::config::Kubeconfig::read_from(lab.folder().join("kubeconfig")).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(kube::Client::try_from(config).unwrap(), "default");

    let mut process = pods
        .exec(
            "real",
            ["sh", "-c", "cat; echo $COLOR; exit 3"],
            &AttachParams::default().container("main").stdin(true),
        )
        .await
        .unwrap();
    let (mut output, status) = (process.stdout().unwrap(), process.take_status().unwrap());
    let mut input = process.stdin().unwrap();
    input.write_all(b"typed\n").await.unwrap();
    input.shutdown().await.unwrap();
    drop(input);
    let mut said = String::new();
    in_time("the command", output.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "typed\nblue\n");
    let status = in_time("the command's status", status).await.unwrap();
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");

    let web = pods.list(&ListParams::default().labels("app=web")).await.unwrap().items.remove(0);
    let web = web.metadata.name.unwrap();
    let mut forwarder = pods.portforward(&web, &[80, 1]).await.unwrap();
    let mut stream = forwarder.take_stream(80).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut page = String::new();
    in_time("the page", stream.read_to_string(&mut page)).await.unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.contains(&web), "{page}");
    // Nobody listens at the other one, and that is told there alone.
    let problem = in_time("the problem", forwarder.take_error(1).unwrap()).await.unwrap();
    assert!(problem.contains("error forwarding port 1 to pod"), "{problem}");
}

#[test]
fn ports_are_forwarded_and_proxied() {
    let lab = Lab::with_nodes(1).running(APPLICATION).up();
    for (transport, websocket) in TRANSPORTS {
        let mut child = kubectl(&lab, websocket, &["port-forward", "svc/web", ":8080"]).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let _running = Running(child);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        let port: u16 =
            port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{transport}: {line}"));
        // Several at once, and one after the other.
        let clients: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
                    let mut text = String::new();
                    stream.read_to_string(&mut text).unwrap();
                    text
                })
            })
            .collect();
        for client in clients {
            let text = client.join().unwrap();
            assert!(text.starts_with("HTTP/1.1 200") && text.contains("pod: web-"), "{transport}: {text}");
        }
    }
    let pod =
        lab.get(&["pods", "-l", "app=web"])["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    for path in [
        "services/web:8080/proxy/a/b?c=d",
        "services/http:web:http/proxy/",
        &format!("pods/{pod}/proxy/"),
        &format!("pods/{pod}:80/proxy"),
    ] {
        let answer = lab.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/default/{path}")]).succeeds();
        assert!(answer.contains(&pod), "{path}: {answer}");
    }
    let none = lab.kubectl(&["get", "--raw", "/api/v1/namespaces/default/services/web:81/proxy/"]);
    assert!(none.code == Some(1) && none.stderr.contains("no endpoints available"), "{}", none.stderr);
}
