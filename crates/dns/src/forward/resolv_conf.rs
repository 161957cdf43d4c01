//! The name servers that a node itself asks: `resolv.conf(5)`.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    path::{Path, PathBuf},
};

use crate::settings::ServerAddress;

/// Where systemd-resolved keeps the servers that it asks itself, for those to whom its own address is of no use.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// The addresses of systemd-resolved.
const RESOLVED: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// Why there are no upstreams.
#[derive(Debug, thiserror::Error)]
pub enum ResolvConfError {
    /// The file cannot be read.
    #[error(
        "{path} cannot be read: {error}; names outside of the cluster are not resolved; name servers with dns.upstreams"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It names no server that can be asked.
    #[error(
        "{path} names no name server; names outside of the cluster are not resolved; name servers with dns.upstreams"
    )]
    NoServers {
        /// The file.
        path: PathBuf,
    },
}

/// The servers that `path` names, in its order. A node whose resolver is systemd-resolved has those behind it.
///
/// # Errors
/// When there is no such file, or no server in it.
pub(super) fn read(path: &Path) -> Result<Vec<ServerAddress>, ResolvConfError> {
    let (servers, _) = servers_and_text(path)?;
    if servers.is_empty() { Err(ResolvConfError::NoServers { path: path.to_owned() }) } else { Ok(servers) }
}

/// The domains in which a node looks for names that are not fully qualified, as far as they are domains: kubelet gives them to
/// Pods, after the cluster's own.
pub fn search_domains(path: &Path) -> Vec<String> {
    servers_and_text(path).map(|(_, text)| searched(&text)).unwrap_or_default()
}

fn searched(text: &str) -> Vec<String> {
    let lines = lines(text).filter_map(|line| {
        let mut words = line.split_whitespace();
        matches!(words.next(), Some("search" | "domain")).then_some(words)
    });
    // Of several the last counts.
    let words = lines.last().into_iter().flatten();
    words.filter(|word| *word != ".").map(|word| word.trim_end_matches('.').to_lowercase()).collect()
}

/// What is in `path`, or, where that names only systemd-resolved, in the file of what is behind it, as kubelet does.
fn servers_and_text(path: &Path) -> Result<(Vec<ServerAddress>, String), ResolvConfError> {
    let unreadable = |error| ResolvConfError::Unreadable { path: path.to_owned(), error };
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let named = parse(&text);
    if !named.is_empty()
        && named.iter().all(|server| RESOLVED.contains(&server.address.ip()))
        && let Ok(text) = fs::read_to_string(BEHIND_RESOLVED)
        && let behind = parse(&text)
        && !behind.is_empty()
    {
        return Ok((behind, text));
    }
    Ok((named, text))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| line.split(['#', ';']).next().unwrap_or_default())
}

fn parse(text: &str) -> Vec<ServerAddress> {
    let words = |line: &'static str| {
        lines(text).filter_map(move |text| {
            let mut words = text.split_whitespace();
            (words.next() == Some(line)).then_some(words)
        })
    };
    let tcp = words("options").flatten().any(|option| option == "use-vc");
    let mut servers: Vec<ServerAddress> = Vec::new();
    for word in words("nameserver").filter_map(|mut words| words.next()) {
        let Some(address) = address(word) else {
            tracing::warn!("resolv.conf: {word:?} is left out: it is no address");
            continue;
        };
        let server = ServerAddress { address, tcp };
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

/// An address, with the number of its interface if it is of one link.
fn address(word: &str) -> Option<SocketAddr> {
    if let Some((ip, scope)) = word.split_once('%') {
        let scope = scope.parse().ok()?;
        return Some(SocketAddrV6::new(ip.parse().ok()?, 53, 0, scope).into());
    }
    word.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 53))
}

/// Reads anything.
pub(super) fn fuzz(text: &str) {
    let (servers, domains) = (parse(text), searched(text));
    assert!(servers.len() + domains.len() <= text.len(), "there is no more than was written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_their_order_and_once() {
        let text = "# generated\nsearch example.com\n nameserver 192.0.2.1 # first\nnameserver\t2001:db8::1\n\
                    nameserver 192.0.2.1\nnameserver fe80::1%2\nnameserver nonsense\nnameserver\n;nameserver 192.0.2.9\n";
        let servers: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%2]:53"]);
        assert!(parse("options edns0 use-vc\nnameserver 192.0.2.1").iter().all(|server| server.tcp));
    }

    #[test]
    fn a_file_without_servers_says_what_to_do() {
        let error = read(Path::new("/nonexistent/resolv.conf")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/resolv.conf") && error.contains("dns.upstreams"), "{error}");
    }

    #[test]
    fn the_last_line_of_search_domains_counts() {
        let folder = weft_scratch::folder();
        let file = folder.path().join("resolv.conf");
        fs::write(&file, "nameserver 192.0.2.1\nsearch a.example\nsearch B.example c.example. .\n").unwrap();
        assert_eq!(search_domains(&file), ["b.example", "c.example"]);
        assert!(search_domains(Path::new("/nonexistent/resolv.conf")).is_empty());
    }
}
