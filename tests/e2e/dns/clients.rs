//! The usual clients ask in their own ways and are told the same.

use std::{collections::BTreeSet, net::IpAddr};

use weft_tests::{Lab, Place, wait_for, weft};

use super::{
    dig::{answers, dig},
    found,
};

const MANIFEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c, image: nginx}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec: {clusterIP: None, ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: www.example.org}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {clusterIP: 10.96.7.7, ports: [{port: 80}]}
";

/// A client: how it is called, and what of its output are addresses.
type Client = fn(&Place, &str, &str) -> BTreeSet<IpAddr>;

const CLIENTS: [(&str, Client); 5] = [
    ("dig", with_dig),
    ("kdig", with_kdig),
    ("drill", with_drill),
    ("nslookup", with_nslookup),
    ("getent", with_getent),
];

#[test]
fn dig_kdig_drill_nslookup_and_getent_agree() {
    let lab = Lab::with_nodes(2).option("--ip-family", "dual").running(MANIFEST).up();
    let client = lab.pod("client");
    for name in [
        "web.default.svc.cluster.local.",
        "each.default.svc.cluster.local.",
        "elsewhere.default.svc.cluster.local.",
        "api.shop.svc.cluster.local.",
        "www.example.com.",
        "absent.default.svc.cluster.local.",
        "absent.example.com.",
    ] {
        for kind in ["A", "AAAA"] {
            let expected = expected(&lab, name, kind);
            for (program, ask) in CLIENTS {
                wait_for(&format!("{program} to be told {expected:?} of {name} {kind}"), || {
                    let told = ask(&client, name, kind);
                    if told == expected { Ok(()) } else { Err(told) }
                });
            }
        }
    }
}

/// As the API and the host outside have it.
fn expected(lab: &Lab, name: &str, kind: &str) -> BTreeSet<IpAddr> {
    let of_kind = |ip: &IpAddr| ip.is_ipv4() == (kind == "A");
    let addresses = |list: &serde_json::Value| -> Vec<IpAddr> {
        list.as_array().into_iter().flatten().filter_map(|ip| ip.as_str()?.parse().ok()).collect()
    };
    let all: Vec<IpAddr> = match name.split('.').next().unwrap() {
        "web" => addresses(&lab.get(&["service", "web"])["spec"]["clusterIPs"]),
        "api" => vec!["10.96.7.7".parse().unwrap()],
        "each" => {
            let pods = lab.get(&["pods", "-l", "app=web"]);
            let pods = pods["items"].as_array().unwrap();
            let ips = pods.iter().flat_map(|pod| pod["status"]["podIPs"].as_array().unwrap());
            ips.map(|ip| ip["ip"].as_str().unwrap().parse().unwrap()).collect()
        }
        "elsewhere" | "www" => lab.outside().addresses().to_vec(),
        _ => Vec::new(),
    };
    all.into_iter().filter(of_kind).collect()
}

fn addresses(text: &str) -> BTreeSet<IpAddr> {
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn with_dig(from: &Place, name: &str, kind: &str) -> BTreeSet<IpAddr> {
    addresses(&from.runs(&["dig", "+short", name, kind]).succeeds())
}

fn with_kdig(from: &Place, name: &str, kind: &str) -> BTreeSet<IpAddr> {
    addresses(&from.runs(&["kdig", "+short", name, kind]).succeeds())
}

fn with_drill(from: &Place, name: &str, kind: &str) -> BTreeSet<IpAddr> {
    let output = from.runs(&["drill", name, kind]).succeeds();
    let answers = output.split(";; ANSWER SECTION:").nth(1).unwrap_or_default();
    addresses(answers.split(";;").next().unwrap_or_default())
}

/// Its exit code says whether there is any address, of whatever family; the server's own is named first.
fn with_nslookup(from: &Place, name: &str, kind: &str) -> BTreeSet<IpAddr> {
    let output = from.runs(&["busybox", "nslookup", &format!("-type={kind}"), name]);
    let answers = output.stdout.split_once("\n\n").map(|(_, answers)| answers.to_owned()).unwrap_or_default();
    addresses(&answers)
}

/// It exits with 2 where there is none.
fn with_getent(from: &Place, name: &str, kind: &str) -> BTreeSet<IpAddr> {
    let database = if kind == "A" { "ahostsv4" } else { "ahostsv6" };
    let output = from.runs(&["getent", database, name]);
    // Where there are only IPv4 addresses it shows them as mapped ones.
    let real = |ip: &IpAddr| ip.to_canonical() == *ip;
    addresses(&output.stdout).into_iter().filter(real).collect()
}

#[test]
fn short_names_are_found_by_the_pods_search_list() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let client = lab.pod("client");
    let web = lab.cluster_ip("web").to_string();
    for name in ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local"] {
        found(&client, name, &web);
    }
    for name in ["api.shop", "api.shop.svc"] {
        found(&client, name, "10.96.7.7");
    }
    found(&client, "www.example.net", &lab.outside().address().to_string());
    assert_eq!(client.runs(&["getent", "ahostsv4", "api"]).code, Some(2), "it is in another namespace");
    // By address.
    let seen = client.runs(&["getent", "hosts", &web]).succeeds();
    assert!(seen.contains("web.default.svc.cluster.local"), "{seen}");
}

#[test]
fn pods_on_the_hosts_network_ask_the_cluster_where_their_policy_says_so() {
    let on_host = |name: &str, policy: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{hostNetwork: true, dnsPolicy: {policy}, \
             containers: [{{name: c, image: nginx, command: [sleep, '3600']}}]}}\n"
        )
    };
    let manifest =
        [MANIFEST, &on_host("cluster", "ClusterFirstWithHostNet"), &on_host("host", "ClusterFirst")].concat();
    let lab = Lab::with_nodes(1).running(&manifest).up();
    let (cluster, host) = (lab.pod("cluster"), lab.pod("host"));
    let outside = lab.outside().address().to_string();
    found(&cluster, "web", &lab.cluster_ip("web").to_string());
    found(&cluster, "api.shop", "10.96.7.7");
    // Nobody knows how such a Pod searches: it walks itself.
    found(&cluster, "api.example.com", &outside);
    found(&host, "api.example.com", &outside);
    assert_eq!(host.runs(&["getent", "ahostsv4", "web.default.svc.cluster.local."]).code, Some(2));
}

#[test]
fn too_large_an_answer_is_truncated_and_whole_over_tcp() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let client = lab.pod("client");
    let endpoints: Vec<String> =
        (0..200).map(|n| format!("- {{addresses: [10.3.{}.{}]}}", n / 100, n % 100 + 1)).collect();
    lab.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: many}}
spec: {{clusterIP: None, ports: [{{port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: many-1, labels: {{kubernetes.io/service-name: many}}}}
addressType: IPv4
ports: [{{port: 80}}]
endpoints:
{}
",
        endpoints.join("\n")
    ));
    let name = "many.default.svc.cluster.local.";
    wait_for("all the endpoints", || match dig(&client, &["+tcp", name, "A"]) {
        Some(answer) if answer.answers.len() == 200 => Ok(()),
        other => Err(other.map(|answer| answer.answers.len())),
    });
    let small = dig(&client, &["+ignore", "+noedns", name, "A"]).unwrap();
    assert!(small.flags.contains("tc"), "{small:?}");
    // What is said to fit, fits.
    let larger = dig(&client, &["+ignore", "+bufsize=4096", name, "A"]).unwrap();
    assert!(larger.flags.contains("tc") || larger.answers.len() == 200, "{larger:?}");
    // Left to itself, a client asks again over TCP.
    assert_eq!(dig(&client, &[name, "A"]).unwrap().answers.len(), 200);
    let all = with_getent(&client, name, "A");
    assert_eq!(all.len(), 200);
}

#[test]
fn odd_questions_are_answered_as_they_should_be() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let client = lab.pod("client");
    let name = "web.default.svc.cluster.local.";
    answers(&client, name, "A", &[&lab.cluster_ip("web").to_string()]);
    // The question's own case comes back.
    let odd = "WeB.deFault.SVC.cluster.LOCAL.";
    let answer = answers(&client, odd, "A", &[&lab.cluster_ip("web").to_string()]);
    assert_eq!(answer.answers[0].name, odd);
    let refused = client.runs(&["dig", "cluster.local.", "AXFR"]);
    assert!(refused.stdout.contains("Transfer failed"), "{refused:?}");
    let any = dig(&client, &["+notcp", name, "ANY"]).unwrap();
    assert!(any.status == "NOERROR" && any.answers.len() <= 1, "{any:?}");
    let opcode = dig(&client, &["+opcode=status", name]).unwrap();
    assert_eq!(opcode.status, "NOTIMP");
    let class = dig(&client, &["-c", "CH", "version.bind.", "TXT"]).unwrap();
    assert_ne!(class.status, "NOERROR", "{class:?}");
}

#[test]
fn an_ipv6_cluster_is_served_as_well() {
    let lab = Lab::with_nodes(2)
        .option("--ip-family", "ipv6")
        .running(MANIFEST.split("---\napiVersion: v1\nkind: Namespace").next().unwrap())
        .up();
    let client = lab.pod("client");
    let web = lab.cluster_ip("web").to_string();
    for name in ["web", "web.default.svc.cluster.local."] {
        wait_for(&format!("getent to find {name}"), || {
            let output = client.runs(&["getent", "ahostsv6", name]);
            if output.stdout.starts_with(&web) { Ok(()) } else { Err(output) }
        });
    }
    let outside = lab.outside().address().to_string();
    let found = client.runs(&["getent", "ahostsv6", "www.example.com"]).succeeds();
    assert!(found.starts_with(&outside), "{found}");
    let back = client.runs(&["getent", "hosts", &web]).succeeds();
    assert!(back.contains("web.default.svc.cluster.local"), "{back}");
}

/// glibc asks for A and AAAA at once from one socket. An answer that is lost would be asked for again, after five seconds; so
/// would one that went through a translation that the other had begun.
#[test]
fn both_questions_of_a_look_up_are_answered_and_nothing_is_translated() {
    let lab = Lab::with_nodes(1).running(MANIFEST).up();
    let (client, node) = (lab.pod("client"), lab.node("node-1"));
    let name = "web.default.svc.cluster.local.";
    answers(&client, name, "A", &[&lab.cluster_ip("web").to_string()]);
    let (asked, translated) = (questions(&node), packets(&lab, "packet-service"));
    let script = format!("for i in $(seq 50); do getent ahosts {name} > /dev/null || exit 1; done");
    client.runs(&["sh", "-c", &script]).succeeds();
    wait_for("every question to be counted once", || {
        let more = questions(&node) - asked;
        if more == 100 { Ok(()) } else { Err(more) }
    });
    assert_eq!(packets(&lab, "packet-service"), translated, "packets that were given a backend on their way");
    let known = node.runs(&["cat", "/proc/net/nf_conntrack"]);
    let flows: Vec<&str> = known.stdout.lines().filter(|line| line.contains("dport=53 ")).collect();
    let of_client = |line: &&&str| line.contains(&format!("src={} ", client.address()));
    assert_eq!(flows.iter().find(of_client), None, "{flows:#?}");
}

fn questions(node: &Place) -> u64 {
    let metrics = node.runs(&["curl", "-sf", "http://127.0.0.1:9464/metrics"]).succeeds();
    let counts = metrics.lines().filter(|line| line.starts_with("coredns_dns_requests_total"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

fn packets(lab: &Lab, counter: &str) -> u64 {
    let status = weft(&["status", "-o", "json", "--name", lab.name()]).succeeds();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let counters = status["nodes"][0]["counters"].as_array().unwrap();
    let found = counters.iter().find(|one| one["name"] == counter);
    found.unwrap_or_else(|| panic!("no counter {counter}: {counters:?}"))["packets"].as_u64().unwrap()
}
