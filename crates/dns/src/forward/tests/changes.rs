//! Settings and the node's resolv.conf change.

use std::fs;

use super::{Forwarder, a, fake::Fake, forwarder, is_fine, said, until};

#[tokio::test]
async fn other_servers_of_a_domain_make_what_was_known_of_it_forgotten() {
    let (rest, one, other) = (Fake::start().await, Fake::start().await, Fake::start().await);
    other.now_says(2);
    let forwarder = forwarder(&[&rest], "");
    let stub = |server: &Fake| {
        let yaml =
            format!("upstreams: ['{}']\nstubDomains: {{corp.example: ['{}']}}", rest.address, server.address);
        yaml.parse().unwrap()
    };
    forwarder.replace_settings(&stub(&one));
    assert_eq!(said(&forwarder.ask(&a("a.corp.example.")).await), ["a.corp.example. 192.0.2.1"]);
    forwarder.ask(&a("www.example.com.")).await;
    forwarder.replace_settings(&stub(&other));
    assert_eq!(said(&forwarder.ask(&a("a.corp.example.")).await), ["a.corp.example. 192.0.2.2"]);
    forwarder.ask(&a("www.example.com.")).await;
    assert_eq!(rest.asked(), 1, "what is elsewhere is still known");
}

#[tokio::test]
async fn a_server_that_stays_keeps_what_is_known_of_it() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "");
    assert!(is_fine(&forwarder.ask(&a("www.example.com.")).await));
    let settings = format!("upstreams: ['{}']\nttl: 7", server.address);
    forwarder.replace_settings(&settings.parse().unwrap());
    assert_eq!(forwarder.counts().upstreams[0].answers[0].0, "NOERROR");
}

#[tokio::test]
async fn hosts_take_effect_at_once() {
    let server = Fake::start().await;
    let forwarder = forwarder(&[&server], "");
    forwarder.ask(&a("www.example.com.")).await;
    let settings = format!("upstreams: ['{}']\nhosts: {{www.example.com: [192.0.2.9]}}", server.address);
    forwarder.replace_settings(&settings.parse().unwrap());
    assert_eq!(said(&forwarder.ask(&a("www.example.com.")).await), ["www.example.com. 192.0.2.9"]);
}

#[tokio::test]
async fn the_nodes_resolv_conf_is_followed() {
    let folder = weft_scratch::folder();
    let file = folder.path().join("resolv.conf");
    let forwarder = Forwarder::new(&"".parse().unwrap(), &file, Vec::new());
    assert!(forwarder.counts().no_upstreams.is_some());
    let servers = |forwarder: &Forwarder| -> Vec<String> {
        forwarder.counts().upstreams.into_iter().map(|upstream| upstream.server).collect()
    };
    // Nothing is sent there: nobody asks.
    fs::write(&file, "nameserver 127.1.2.3\nnameserver 127.1.2.4\n").unwrap();
    until("it is seen", || match servers(&forwarder).len() {
        2 => Ok(()),
        other => Err(format!("{other} servers")),
    })
    .await;
    assert_eq!(forwarder.counts().no_upstreams, None);
    // A file that is being written is no reason to ask nobody.
    fs::write(&file, "").unwrap();
    fs::write(&file, "nameserver 127.1.2.5\n").unwrap();
    until("it is seen", || match servers(&forwarder).as_slice() {
        [one] if one == "127.1.2.5:53" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}
