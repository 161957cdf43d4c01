use super::*;

fn error(yaml: &str) -> String {
    yaml.parse::<Settings>().unwrap_err().to_string()
}

#[test]
fn everything_is_read() {
    let settings: Settings = "
ttl: 30
negativeTtl: 0
podRecords: false
searchWalk: false
limits: {forwardedPerClient: 100}
upstreams: [192.0.2.53, 'tcp://[2001:db8::53]:5353', '2001:db8::54', '[2001:db8::55]']
stubDomains:
  Corp.Example: [10.1.0.53, '10.1.0.54:5353']
hosts:
  db.example.com: [192.0.2.7, '2001:db8::7']
  '*.apps.example.com': [192.0.2.8]
rewrites:
  - {name: old.example.com, to: web.shop.svc.cluster.local}
  - {suffix: old.example, to: new.example}
timeout: 1500ms
cache: {bytes: 1048576, maxTtl: 1h, maxNegativeTtl: 30, staleFor: 1d, prefetch: false}
"
    .parse()
    .unwrap();
    assert_eq!((settings.ttl, settings.negative_ttl), (Ttl(30), Ttl(0)));
    assert!(!settings.pod_records && !settings.search_walk && !settings.cache.prefetch);
    let upstreams: Vec<String> = settings.upstreams.iter().map(ToString::to_string).collect();
    assert_eq!(
        upstreams,
        ["192.0.2.53:53", "tcp://[2001:db8::53]:5353", "[2001:db8::54]:53", "[2001:db8::55]:53"]
    );
    let (domain, servers) = settings.stub_domains.first_key_value().unwrap();
    assert_eq!((domain.to_string().as_str(), servers.len()), ("corp.example.", 2));
    assert_eq!(settings.hosts.len(), 2);
    assert!(matches!(settings.rewrites[0], Rewrite::Name { .. }));
    assert!(matches!(settings.rewrites[1], Rewrite::Suffix { .. }));
    assert_eq!(settings.timeout, Duration::from_millis(1500));
    assert_eq!(settings.limits, ClientLimits { forwarded_per_client: 100, ..ClientLimits::default() });
    assert_eq!(settings.cache.max_negative_ttl, Duration::from_secs(30));
}

#[test]
fn nothing_is_the_defaults() {
    assert_eq!("".parse::<Settings>().unwrap(), Settings::default());
    assert_eq!("# nothing yet\n{}".parse::<Settings>().unwrap(), Settings::default());
}

#[test]
fn an_error_names_key_line_and_remedy() {
    let cases = [
        ("ttl: 5\nupstreams: [192.0.2.530]", "line 2", "write 192.0.2.53"),
        ("ttl: 5\n\nupstreams: ['tls://192.0.2.53']", "line 3", "tls is not spoken"),
        ("searchwalk: true", "line 1", "searchwalk"),
        ("ttl: 86400", "dns.ttl (line 1)", "3600"),
        ("ttl: five", "dns.ttl (line 1)", "\"five\" is no TTL: write a number of seconds"),
        ("cache:\n  maxTtl: soon", "dns.cache.maxTtl (line 2)", "write it as in 500ms"),
        ("hosts:\n  db.example.com: [db]", "line 2", "db"),
        ("rewrites:\n- {name: a.example, suffix: b.example, to: c.example}", "line 2", "one of both"),
        ("rewrites:\n- {suffix: a.example, to: b.a.example}", "line 2", "no end"),
    ];
    for (yaml, line, remedy) in cases {
        let error = error(yaml);
        assert!(error.starts_with("ConfigMap kube-system/weft, key dns: "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(line), "{yaml:?} should name {line}: {error}");
        assert!(error.contains(remedy), "{yaml:?} should say {remedy:?}: {error}");
    }
}

#[test]
fn what_can_be_read_and_makes_no_sense_is_refused() {
    assert!(error("stubDomains: {corp.example: []}").contains("corp.example. has no servers"));
    assert!(error("hosts: {db.example.com: []}").contains("db.example.com. has no addresses"));
    assert!(error("timeout: 1ms").contains("between"));
    assert!(error("upstreams: [0.0.0.0]").contains("nobody's address"));
    assert!(error("limits: {connectionsPerClient: 0}").contains("answer nobody"));
    assert!(error("cache: {staleFor: 99999999999999999999d}").contains("length of time"));
}
