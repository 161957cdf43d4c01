//! containerd, a real CNI caller: a container that it starts on a Weft node is a Pod like any other.

use std::{
    fs,
    net::{IpAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use weft_netns::random_name;
use weft_tests::{Lab, Output, run, wait_for, wait_until};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: near}
spec: {nodeName: node-1, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far}
spec: {nodeName: node-2, containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
";

/// A containerd of its own, in a mount namespace where a lab node's CNI folders stand in the conventional places. `ctr` looks
/// nowhere else.
struct Containerd {
    process: Child,
    folder: weft_scratch::Folder,
}

impl Containerd {
    fn start(lab: &Lab, node: &str) -> Containerd {
        let folder = weft_scratch::folder();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{}\"\n",
            at("root"),
            at("state"),
            at("socket")
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        fs::create_dir_all(folder.path().join("rootfs/bin")).unwrap();
        fs::copy("/bin/busybox", folder.path().join("rootfs/bin/busybox"))
            .expect("busybox-static: cargo xtask setup");
        let cni = lab.folder().join("nodes").join(node).join("cni").display().to_string();
        // The machine's own /etc and /opt stay as they are.
        let script = format!(
            "set -e; mount --make-rprivate /; mkdir {etc}; mount -t tmpfs weft-test {etc}; mkdir {etc}/upper {etc}/work
             mount -t overlay -o lowerdir=/etc,upperdir={etc}/upper,workdir={etc}/work weft-test /etc
             mkdir -p /etc/cni/net.d; mount --bind {cni}/net.d /etc/cni/net.d
             mount -t tmpfs weft-test /opt; mkdir -p /opt/cni/bin; mount --bind {cni}/bin /opt/cni/bin
             exec containerd --config {config}",
            etc = at("etc"),
            config = at("config.toml"),
        );
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("containerd: cargo xtask setup");
        let containerd = Containerd { process, folder };
        wait_until("containerd to answer", || containerd.ctr(&["version"]).code == Some(0));
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        let mut ctr = Command::new("nsenter");
        ctr.arg(format!("--mount=/proc/{}/ns/mnt", self.process.id()));
        ctr.arg("ctr").arg("--address").arg(self.folder.path().join("socket")).args(arguments);
        run(&mut ctr)
    }

    fn rootfs(&self) -> String {
        self.folder.path().join("rootfs").display().to_string()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- containerd's log ---\n{log}");
        }
        let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// What the node's agent calls the container's addresses.
fn addresses(lab: &Lab, container: &str) -> Vec<IpAddr> {
    let status = weft_tests::weft(&["status", "--name", lab.name(), "-o", "json"]).stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    let pods = status["nodes"].as_array().unwrap().iter().flat_map(|node| node["pods"].as_array().unwrap());
    let found = pods.filter(|pod| pod["container_id"].as_str().unwrap().contains(container));
    found
        .flat_map(|pod| pod["addresses"].as_array().unwrap())
        .map(|address| address.as_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn a_container_reaches_pods_is_reached_by_them_and_gives_its_address_back() {
    let lab = Lab::with_nodes(2).running(PODS).up();
    let (near, far) = (lab.pod("near"), lab.pod("far"));
    let containerd = Containerd::start(&lab, "node-1");
    let name = random_name("t-");
    weft_scratch::containers(containerd.folder.path(), &name);
    let server = ["/bin/busybox", "httpd", "-f", "-p", "80"];
    let run = ["run", "--detach", "--rootfs", "--cni", &containerd.rootfs(), &name];
    containerd.ctr(&[&run[..], &server[..]].concat()).succeeds();

    let own = addresses(&lab, &name);
    assert_eq!(own.len(), 1, "{own:?}");
    for (pod, target) in [("near", near.address()), ("far", far.address())] {
        let url = format!("http://{target}/");
        let exec = ["task", "exec", "--exec-id", pod, &name, "/bin/busybox", "wget", "-qO-", &url];
        let answer = containerd.ctr(&exec).succeeds();
        assert!(answer.contains(&format!("pod: {pod}")), "{answer}");
        assert!(answer.contains(&format!("source: {}\n", own[0])), "no translation: {answer}");
    }
    for place in [&near, &far, &lab.node("node-1"), &lab.node("node-2")] {
        wait_for("the container to be reached", || {
            let connect = || TcpStream::connect_timeout(&(own[0], 80).into(), Duration::from_secs(2));
            place.netns().run(connect).unwrap().map_err(|error| error.to_string())
        });
    }

    containerd.ctr(&["task", "kill", "--signal", "SIGKILL", &name]).succeeds();
    wait_until("the container to be removed", || containerd.ctr(&["container", "rm", &name]).code == Some(0));
    // `ctr` detaches a network only when it waits for the container itself.
    containerd
        .ctr(&[
            "run",
            "--rm",
            "--rootfs",
            "--cni",
            &containerd.rootfs(),
            &format!("{name}-2"),
            "/bin/busybox",
            "true",
        ])
        .succeeds();
    assert_eq!(addresses(&lab, &format!("{name}-2")), Vec::<IpAddr>::new());
}
