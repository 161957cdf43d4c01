//! A whole application, as people write it, comes up unchanged.

use weft_tests::{Lab, wait_for};

fn example(name: &str) -> String {
    format!("{}/../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_example_application_comes_up_on_three_nodes() {
    let lab = Lab::with_nodes(3).option("-f", &example("shop")).up();
    let pods = lab.get(&["pods", "-A"]);
    let pods = pods["items"].as_array().unwrap();
    let mut addresses: Vec<&str> = pods
        .iter()
        .filter(|pod| pod["spec"]["hostNetwork"] != true && pod["status"]["phase"] == "Running")
        .map(|pod| pod["status"]["podIP"].as_str().unwrap())
        .collect();
    assert!(addresses.len() >= 10, "{addresses:?}");
    let count = addresses.len();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "an address was given twice");
    for node in ["node-1", "node-2", "node-3"] {
        let here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
        assert!(here >= 3, "{here} Pods on {node}");
    }

    wait_for("the Job to complete", || {
        let job = lab.get(&["job", "-n", "shop", "load-catalogue"]);
        if job["status"]["succeeded"] == 3 { Ok(()) } else { Err(job["status"].clone()) }
    });
    let log = lab.kubectl(&["logs", "-n", "shop", "-l", "job-name=load-catalogue", "--prefix"]).succeeds();
    assert!(log.contains("loading part 0 of the catalogue on load-catalogue-0"), "{log}");

    // What nothing acts on is stored and served all the same.
    let monitor = lab.get(&["servicemonitors.monitoring.coreos.com", "-n", "monitoring", "api"]);
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], "metrics");
    assert_eq!(lab.get(&["ingress", "-n", "shop", "shop"])["spec"]["rules"][0]["host"], "shop.example.com");

    // Every endpoint of the web Service answers, from another namespace's Pod, and sees its address.
    let slices = lab.get(&["endpointslices", "-n", "shop", "-l", "kubernetes.io/service-name=web"]);
    let endpoints = slices["items"][0]["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 3, "{slices}");
    let database = lab.pod("data/postgres-0");
    for endpoint in endpoints {
        let address = endpoint["addresses"][0].as_str().unwrap().parse().unwrap();
        let pod = endpoint["targetRef"]["name"].as_str().unwrap();
        database
            .connects_to(std::net::SocketAddr::new(address, 80))
            .comes_from(pod)
            .saw_source(database.address());
    }

    // The shop is open to the world, by a port of every node and by an address of its own, and sees who comes.
    let outside = lab.outside();
    let port = std::net::SocketAddr::new(lab.node("node-2").address(), 30080);
    outside.connects_to(port).saw_source(outside.address());
    let address = wait_for("the shop's address", || {
        let service = lab.get(&["service", "-n", "shop", "web"]);
        let ip = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str();
        ip.and_then(|ip| ip.parse().ok()).ok_or(())
    });
    outside.connects_to(std::net::SocketAddr::new(address, 80)).saw_source(outside.address());
}

#[test]
fn it_can_be_applied_again_and_forwarded_to() {
    let lab = Lab::with_nodes(1).up();
    let first = lab.weft_lab("apply", &["-f", &example("shop")]).succeeds();
    assert!(first.contains("deployment.apps/web created"), "{first}");
    let again = lab.weft_lab("apply", &["-f", &example("shop")]).succeeds();
    assert!(again.lines().all(|line| line.ends_with("unchanged")), "{again}");
    lab.kubectl(&["rollout", "status", "-n", "shop", "deploy/web", "--timeout=60s"]).succeeds();

    let mut forward = std::process::Command::new(weft_tests::weft_path())
        .args(["lab", "forward", "--name", lab.name(), "-n", "shop", "web", "0:80"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(forward.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let address = line.split_whitespace().find_map(|word| word.parse::<std::net::SocketAddr>().ok());
    let mut stream = std::net::TcpStream::connect(address.unwrap_or_else(|| panic!("{line}"))).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert!(answer.contains("pod: web-"), "{answer}");
}
