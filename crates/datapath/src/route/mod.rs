//! The kernel's own routes, which carry what the host's stack sends: to the Pods of this node, to other nodes' Pods, and
//! what is too large for the fast path.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_netns::{
    Netlink, NetlinkError,
    netlink::{RouteSpec, or_gone},
};

use crate::table::Store;

/// `RTPROT_*` number of Weft's routes: how they are told from everybody else's.
pub(crate) const PROTOCOL: u8 = 119;

/// Metric of Weft's routes; the kernel gives IPv6 routes without one the same.
const METRIC: u32 = 1024;

/// What leads to a prefix. The prefix is the key of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteTo {
    /// Index of the outgoing interface.
    pub(crate) index: u32,
    /// Next hop; it is on the link, whatever other routes say.
    pub(crate) gateway: Option<IpAddr>,
    /// Source of what this host itself sends.
    pub(crate) source: Option<IpAddr>,
}

/// Weft's routes in the main table of one namespace.
#[derive(Debug)]
pub(crate) struct KernelRoutes {
    netlink: Netlink,
}

impl KernelRoutes {
    /// The routes of the calling thread's namespace.
    pub(crate) fn open() -> Result<KernelRoutes, NetlinkError> {
        Ok(KernelRoutes { netlink: Netlink::open()? })
    }
}

impl Store<IpNet, RouteTo> for KernelRoutes {
    type Error = NetlinkError;

    fn upsert(&mut self, prefix: &IpNet, route: &RouteTo) -> Result<(), NetlinkError> {
        self.netlink.set_route(&spec(prefix, route))
    }

    fn remove(&mut self, prefix: &IpNet) -> Result<(), NetlinkError> {
        // By destination, metric and origin alone: the interface may be gone.
        let route = RouteTo { index: 0, gateway: None, source: None };
        or_gone(self.netlink.delete_route(&spec(prefix, &route)))
    }

    fn dump(&mut self) -> Result<Vec<(IpNet, RouteTo)>, NetlinkError> {
        let routes = self.netlink.routes()?;
        Ok(routes
            .into_iter()
            .filter(|route| route.protocol == PROTOCOL && route.metric == METRIC)
            .filter_map(|route| {
                let prefix = IpNet::new(route.destination, route.prefix_len).ok()?;
                Some((prefix, RouteTo { index: route.index, gateway: route.gateway, source: route.source }))
            })
            .collect())
    }
}

fn spec(prefix: &IpNet, route: &RouteTo) -> RouteSpec {
    RouteSpec {
        gateway: route.gateway,
        source: route.source,
        onlink: route.gateway.is_some(),
        metric: METRIC,
        protocol: PROTOCOL,
        ..RouteSpec::new(prefix.network(), prefix.prefix_len(), route.index)
    }
}
