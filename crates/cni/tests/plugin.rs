//! The real plugin binary, with and without an agent.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

use std::{
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use serde_json::{Value, json};
use weft_cni::{
    Call, Verb,
    plugin::{frame, queue},
};

struct Answer {
    success: bool,
    stdout: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {:?}", self.stdout))
    }

    #[track_caller]
    fn fails_with(&self, code: u32) -> Value {
        assert!(!self.success, "{:?} should have failed", self.stdout);
        let json = self.json();
        assert_eq!(json["code"], code, "{json}");
        assert!(
            json["cniVersion"].is_string() && json["msg"].is_string() && json["details"].is_string(),
            "{json}"
        );
        json
    }
}

const ADD: &[(&str, &str)] = &[
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/run/netns/x"),
    ("CNI_IFNAME", "eth0"),
];

fn with(command: &str) -> Vec<(&str, &str)> {
    ADD.iter().map(|&(k, v)| if k == "CNI_COMMAND" { (k, command) } else { (k, v) }).collect()
}

fn call(environment: &[(&str, &str)], config: impl AsRef<[u8]>) -> Answer {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weft-cni"))
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A plugin that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(config.as_ref());
    let output = child.wait_with_output().unwrap();
    Answer { success: output.status.success(), stdout: String::from_utf8(output.stdout).unwrap() }
}

fn config(dir: &Path, version: &str) -> String {
    json!({
        "cniVersion": version, "name": "weft", "type": "weft-cni",
        "socket": dir.join("agent.sock"), "queueDir": dir.join("queue"),
    })
    .to_string()
}

/// An agent that answers one call with `answer`, and returns the call.
fn agent(dir: &Path, answer: &'static str) -> thread::JoinHandle<Value> {
    let listener = UnixListener::bind(dir.join("agent.sock")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = frame::read(&mut stream).unwrap();
        frame::write(&mut stream, answer.as_bytes()).unwrap();
        serde_json::from_slice(&request).unwrap()
    })
}

#[test]
fn add_is_forwarded_and_the_answer_printed() {
    let dir = weft_scratch::folder();
    let agent = agent(dir.path(), r#"{"cniVersion":"1.1.0","ips":[{"code":1}]}"#);
    let config = config(dir.path(), "1.1.0");
    let answer = call(&[ADD, &[("CNI_ARGS", "K8S_POD_NAME=\"ä\n")]].concat(), &config);
    assert!(answer.success);
    assert_eq!(answer.json()["ips"][0]["code"], 1);
    let mut request = agent.join().unwrap();
    assert_eq!(request["kind"], "cni");
    request.as_object_mut().unwrap().remove("kind");
    let received: Call = serde_json::from_value(request).unwrap();
    let sent = Call {
        verb: Verb::Add,
        container_id: "c1".into(),
        netns: "/run/netns/x".into(),
        ifname: "eth0".into(),
        args: "K8S_POD_NAME=\"ä\n".into(),
        config,
    };
    assert_eq!(received, sent);
}

#[test]
fn an_error_of_the_agent_ends_in_failure() {
    let dir = weft_scratch::folder();
    let agent = agent(dir.path(), r#"{"cniVersion":"1.0.0","code":11,"msg":"later","details":"x"}"#);
    call(ADD, config(dir.path(), "1.0.0")).fails_with(11);
    agent.join().unwrap();
}

#[test]
fn an_empty_answer_is_a_success_without_output() {
    let dir = weft_scratch::folder();
    let agent = agent(dir.path(), "");
    let answer = call(&with("DEL"), config(dir.path(), "1.0.0"));
    assert!(answer.success && answer.stdout.is_empty());
    assert_eq!(agent.join().unwrap()["command"], "DEL");
    assert!(queue::list(&dir.path().join("queue")).unwrap().is_empty());
}

#[test]
fn agent_away() {
    let dir = weft_scratch::folder();
    let config = config(dir.path(), "1.1.0");
    for (verb, code) in [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)] {
        let error = call(&with(verb), &config).fails_with(code);
        assert!(error["details"].as_str().unwrap().contains("agent.sock"), "{error}");
        assert_eq!(error["cniVersion"], "1.1.0");
    }
}

#[test]
fn agent_away_del_succeeds_and_waits_in_the_queue() {
    let dir = weft_scratch::folder();
    let (config, queue_dir) = (config(dir.path(), "1.0.0"), dir.path().join("queue"));
    for _ in 0..2 {
        let answer = call(&with("DEL"), &config);
        assert!(answer.success && answer.stdout.is_empty(), "{}", answer.stdout);
    }
    let waiting = queue::list(&queue_dir).unwrap();
    assert_eq!(waiting, [queue_dir.join("c1@eth0")], "twice the same is one");
    let queued: Call = serde_json::from_slice(&std::fs::read(&waiting[0]).unwrap()).unwrap();
    assert_eq!((queued.verb, queued.config), (Verb::Del, config));
    assert_eq!(std::fs::metadata(queue_dir).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_agent_that_dies_during_the_call_counts_as_away() {
    let dir = weft_scratch::folder();
    let listener = UnixListener::bind(dir.path().join("agent.sock")).unwrap();
    let config = config(dir.path(), "1.0.0");
    let dying = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            frame::read(&mut stream).unwrap();
            stream.write_all(&[0, 0]).unwrap();
        }
    });
    call(ADD, &config).fails_with(11);
    assert!(call(&with("DEL"), &config).success);
    assert_eq!(queue::list(&dir.path().join("queue")).unwrap().len(), 1);
    dying.join().unwrap();
}

#[test]
fn del_that_cannot_be_queued_fails() {
    let dir = weft_scratch::folder();
    std::fs::write(dir.path().join("queue"), "a file, no folder").unwrap();
    call(&with("DEL"), config(dir.path(), "1.0.0")).fails_with(5);
}

#[test]
fn version_needs_no_agent() {
    let answer = call(&[("CNI_COMMAND", "VERSION")], r#"{"cniVersion":"1.0.0"}"#);
    assert!(answer.success);
    let expected = json!({
        "cniVersion": "1.0.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    });
    assert_eq!(answer.json(), expected);
}

#[test]
fn an_unsupported_version_is_refused_with_the_supported_ones() {
    for config in
        [r#"{"cniVersion":"9.9.9","name":"x"}"#, r#"{"cniVersion":"0.2.0","name":"x"}"#, r#"{"name":"x"}"#]
    {
        let error = call(ADD, config).fails_with(1);
        assert!(error["details"].as_str().unwrap().contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
    }
}

#[test]
fn a_verb_newer_than_the_configuration_is_refused() {
    let dir = weft_scratch::folder();
    for (verb, version) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        call(&with(verb), config(dir.path(), version)).fails_with(1);
    }
}

#[test]
fn a_missing_or_wrong_environment_is_code_4_and_named() {
    let dir = weft_scratch::folder();
    let config = config(dir.path(), "1.0.0");
    let error = call(&[], &config).fails_with(4);
    assert!(error["details"].as_str().unwrap().contains("CNI_COMMAND"));
    call(&[("CNI_COMMAND", "add")], &config).fails_with(4);
    let error = call(&[("CNI_COMMAND", "ADD")], &config).fails_with(4);
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        assert!(error["details"].as_str().unwrap().contains(name), "{error}");
    }
    for (name, wrong) in [
        ("CNI_CONTAINERID", "../x"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "sixteen-bytes-xx"),
    ] {
        let environment: Vec<_> =
            ADD.iter().map(|&(k, v)| if k == name { (k, wrong) } else { (k, v) }).collect();
        let error = call(&environment, &config).fails_with(4);
        assert!(error["details"].as_str().unwrap().contains(name), "{error}");
    }
}

#[test]
fn a_configuration_that_is_not_json_is_code_6_and_a_wrong_key_code_7() {
    for malformed in ["", "{", "nonsense", "[]", r#"{"cniVersion":"1.0.0",}"#, r#"{"cniVersion":"1.0.0"} x"#]
    {
        call(ADD, malformed).fails_with(6);
    }
    call(ADD, [0xff, 0xfe]).fails_with(6);
    call(ADD, r#"{"cniVersion":1}"#).fails_with(7);
    call(ADD, r#"{"cniVersion":"1.0.0","socket":"relative"}"#).fails_with(7);
}

/// B2: runtimes want `loopback` beside their network, by whatever file they find it.
#[test]
fn loopback_is_brought_up_without_an_agent() {
    let pod = weft_scratch::Scratch::new("t-lo-");
    let path = pod.path().to_str().unwrap().to_owned();
    let of = |verb: &'static str| -> Vec<(&'static str, String)> {
        [("CNI_COMMAND", verb), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "lo"), ("CNI_NETNS", path.as_str())]
            .map(|(name, value)| (name, value.to_owned()))
            .into()
    };
    let ask = |verb: &'static str, version: &str| {
        let environment = of(verb);
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let config = json!({ "cniVersion": version, "name": "cni-loopback", "type": "loopback" });
        call(&environment, config.to_string())
    };
    ask("CHECK", "1.0.0").fails_with(102);
    let result = ask("ADD", "0.3.1").json();
    assert_eq!(
        (result["cniVersion"].as_str(), result["interfaces"][0]["name"].as_str()),
        (Some("0.3.1"), Some("lo"))
    );
    assert_eq!(
        (result["ips"][0]["address"].as_str(), result["ips"][0]["version"].as_str()),
        (Some("127.0.0.1/8"), Some("4"))
    );
    let result = ask("ADD", "1.1.0").json();
    assert_eq!(result["interfaces"][0]["sandbox"], path.as_str());
    assert!(result["ips"][1].get("version").is_none());
    for verb in ["CHECK", "DEL", "DEL", "STATUS"] {
        let answer = ask(verb, "1.1.0");
        assert!(answer.success && answer.stdout.is_empty(), "{verb}: {}", answer.stdout);
    }
    drop(pod);
    assert!(ask("DEL", "1.1.0").success, "also when the namespace is gone");
    ask("ADD", "1.1.0").fails_with(4);
}
