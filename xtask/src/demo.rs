//! The demonstration: a cluster of three nodes with a real application, proved, and left up.

use std::process::ExitStatus;

use anyhow::{Context as _, bail};

use crate::{
    command::{self, command},
    setup,
};

const LAB: &str = "demo";
const WEFT: &str = "target/debug/weft";

/// The task.
pub fn run() -> anyhow::Result<()> {
    setup::need_root("demo")?;
    setup::run_quietly_if_done()?;
    println!("==> Building Weft (up to ten minutes the first time on two cores)");
    // Not a release build: it takes three times as long, and packets are moved by the kernel programs either way.
    command::run("cargo", &["build", "--package", "weft", "--package", "weft-cni"])?;
    if weft(&["lab", "down", "--name", LAB], false)?.success() {
        println!("==> The lab of an earlier demonstration was taken down");
    }
    println!("==> A cluster of three nodes, and a shop to run on it");
    need(&["lab", "up", "--name", LAB, "--nodes", "3", "-f", "examples/shop"])?;
    println!(
        "    What of the shop is not a program of this machine is stood in for: it answers on the same ports and says who it is."
    );
    println!("==> The cluster: nodes, their Pods, and the paths between nodes");
    need(&["status", "--name", LAB])?;
    println!("==> The Kubernetes network model, proved pair by pair");
    need(&["verify", "--name", LAB])?;
    println!(
        "
==> The lab is up. Try:

    export KUBECONFIG=$({WEFT} lab kubeconfig --name {LAB})
    kubectl get pods -A -o wide
    {WEFT} lab exec --name {LAB} -n shop deploy/web -- ip address
    {WEFT} lab exec --name {LAB} -n shop deploy/web -- getent hosts redis.data
    {WEFT} dns query --name {LAB} api.shop.svc.cluster.local      # what is answered, and why
    {WEFT} lab forward --name {LAB} -n shop web 8080:80    # then, elsewhere: curl http://127.0.0.1:8080/
    {WEFT} verify --name {LAB} -o json
    {WEFT} lab down --name {LAB}                           # takes it down and leaves nothing behind"
    );
    Ok(())
}

fn need(arguments: &[&str]) -> anyhow::Result<()> {
    let status = weft(arguments, true)?;
    if !status.success() {
        bail!(
            "`{WEFT} {}` ended with {status}; `{WEFT} lab down --name {LAB}` cleans up",
            arguments.join(" ")
        );
    }
    Ok(())
}

fn weft(arguments: &[&str], show: bool) -> anyhow::Result<ExitStatus> {
    let mut weft = command(WEFT, arguments);
    if !show {
        weft.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    }
    weft.status().with_context(|| WEFT.to_owned())
}
