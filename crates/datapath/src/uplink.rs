//! The interface towards the other nodes.

use std::net::IpAddr;

use weft_netns::{Netlink, NetlinkError};

/// The uplink as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Name of the interface.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Its hardware address; all zero if it has none of Ethernet's length.
    pub mac: [u8; 6],
}

/// No interface to reach other nodes by.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The one that was asked for.
    #[error("no uplink {0}: there is no such interface; name another one with --uplink")]
    Missing(String),
    /// None was asked for and none fits.
    #[error("no interface has one of this node's addresses {0:?}; name the uplink with --uplink")]
    NoneHas(Vec<IpAddr>),
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Finds the uplink: the one asked for, else the one that has a node address.
pub(crate) fn find(
    netlink: &mut Netlink,
    asked: Option<&str>,
    node_addresses: &[IpAddr],
) -> Result<Uplink, UplinkError> {
    let link = match asked {
        Some(name) => match netlink.link(name) {
            Err(error) if error.is_not_found() => return Err(UplinkError::Missing(name.to_owned())),
            other => other?,
        },
        None => {
            let addresses = netlink.addresses(None)?;
            let index = node_addresses
                .iter()
                .find_map(|wanted| addresses.iter().find(|found| found.address == *wanted))
                .map(|found| found.index)
                .ok_or_else(|| UplinkError::NoneHas(node_addresses.to_vec()))?;
            netlink.link_by_index(index)?
        }
    };
    let mac = <[u8; 6]>::try_from(link.mac.as_slice()).unwrap_or_default();
    Ok(Uplink { name: link.name, index: link.index, mtu: link.mtu, mac })
}
