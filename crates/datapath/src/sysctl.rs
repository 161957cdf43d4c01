//! The kernel settings that matter, per interface of the calling thread's network namespace.

use std::{fs, io, path::PathBuf};

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct SysctlError {
    path: PathBuf,
    source: io::Error,
}

/// Writes a setting unless it has the value already; says whether it wrote. `name` is a path below `/proc/sys/net`.
pub(crate) fn set(name: &str, value: &str) -> Result<bool, SysctlError> {
    let path = PathBuf::from(format!("/proc/sys/net/{name}"));
    let at = |source| SysctlError { path: path.clone(), source };
    if fs::read_to_string(&path).map_err(at)?.trim() == value {
        return Ok(false);
    }
    fs::write(&path, value).map_err(at)?;
    Ok(true)
}

/// The value of a setting.
pub(crate) fn get(name: &str) -> Result<String, SysctlError> {
    let path = PathBuf::from(format!("/proc/sys/net/{name}"));
    let value = fs::read_to_string(&path).map_err(|source| SysctlError { path, source })?;
    Ok(value.trim().to_owned())
}

/// Whether this kernel has IPv6 (it can be switched off at boot).
pub(crate) fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6/conf/all").unwrap_or(false)
}

/// What an interface needs that the host's stack forwards from and to. Returns how many settings it wrote.
pub(crate) fn forward(interface: &str, ipv6: bool) -> Result<usize, SysctlError> {
    let mut written = usize::from(set(&format!("ipv4/conf/{interface}/forwarding"), "1")?);
    if ipv6 {
        written += usize::from(set(&format!("ipv6/conf/{interface}/forwarding"), "1")?);
    }
    Ok(written)
}

/// Switches IPv6 forwarding on. Unlike IPv4's it only works for all interfaces at once, and makes a host deaf to router
/// advertisements; an uplink that listened to them goes on doing so.
pub(crate) fn forward_ipv6(uplink: &str) -> Result<usize, SysctlError> {
    let accept = format!("ipv6/conf/{uplink}/accept_ra");
    let mut written = 0;
    if get("ipv6/conf/all/forwarding")? != "1" && get(&accept)? == "1" {
        written += usize::from(set(&accept, "2")?);
    }
    Ok(written + usize::from(set("ipv6/conf/all/forwarding", "1")?))
}

/// Lets packets of any source that is routed at all in by an interface, however strict the host is otherwise. Says whether it had
/// to.
pub(crate) fn any_source(interface: &str) -> Result<bool, SysctlError> {
    set(&format!("ipv4/conf/{interface}/rp_filter"), "2")
}

/// Keeps the kernel from configuring IPv6 on an interface by itself.
pub(crate) fn no_autoconfiguration(interface: &str) -> Result<usize, SysctlError> {
    let mut written = usize::from(set(&format!("ipv6/conf/{interface}/addr_gen_mode"), "1")?);
    written += usize::from(set(&format!("ipv6/conf/{interface}/accept_ra"), "0")?);
    Ok(written)
}
