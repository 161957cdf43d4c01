//! The plugin `loopback`, which runtimes want for every container beside its network: the container's own loopback interface is
//! up. No agent is needed for it.

use std::{
    ffi::{c_char, c_int, c_short, c_ulong},
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    thread,
};

use super::{Call, Failure, SpecVersion, Verb, call::quote, failure::code};

/// The configuration's `type` that is answered here; also the file's name that runtimes look for.
pub const TYPE: &str = "loopback";

const NAME: &[u8; 3] = b"lo\0";

// As the kernel's headers have them, on every architecture that Weft is built for.
const CLONE_NEWNET: c_int = 0x4000_0000;
const AF_INET: c_int = 2;
const SOCK_DGRAM: c_int = 2;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
const SIOCGIFFLAGS: c_ulong = 0x8913;
const SIOCSIFFLAGS: c_ulong = 0x8914;
const IFF_UP: c_short = 1;

/// `struct ifreq`, as far as flags need it.
#[repr(C)]
struct InterfaceRequest {
    name: [c_char; 16],
    flags: c_short,
    rest: [u8; 22],
}

unsafe extern "C" {
    fn setns(fd: c_int, kind: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

/// Answers a call.
///
/// # Errors
/// Code 4 when the namespace cannot be entered, 101 when the kernel refuses, 102 from CHECK when the interface is not up.
pub fn answer(call: &Call, version: SpecVersion) -> Result<String, Failure> {
    let netns = Path::new(&call.netns);
    match call.verb {
        Verb::Add => {
            let ipv6 = within(netns, || bring_up().map(|()| has_ipv6()))?.map_err(refused)?;
            Ok(result(call, version, ipv6))
        }
        Verb::Check => {
            let up =
                within(netns, || Ok::<_, io::Error>(flags(&socket_of_namespace()?)?.flags & IFF_UP != 0))?;
            if up.map_err(refused)? {
                return Ok(String::new());
            }
            Err(Failure::new(code::BROKEN, "the loopback interface is down", call.netns.clone()))
        }
        // It goes with its namespace.
        Verb::Del | Verb::Gc | Verb::Status | Verb::Version => Ok(String::new()),
    }
}

/// Runs `task` in a namespace, on a thread of its own: the namespace of this one stays what it is.
fn within<T: Send>(netns: &Path, task: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    let outside = |error: io::Error| {
        let details = format!("CNI_NETNS {:?} cannot be entered: {error}", netns.display());
        Failure::new(code::ENVIRONMENT, "invalid environment", details)
    };
    let file = File::open(netns).map_err(outside)?;
    let ran = thread::scope(|scope| {
        let entered = scope.spawn(|| {
            // SAFETY: a call without pointers; the descriptor is open.
            if unsafe { setns(file.as_raw_fd(), CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(task())
        });
        entered.join()
    });
    ran.map_err(|_| outside(io::Error::other("the thread ended")))?.map_err(outside)
}

fn bring_up() -> io::Result<()> {
    let socket = socket_of_namespace()?;
    let mut request = flags(&socket)?;
    request.flags |= IFF_UP;
    // SAFETY: the kernel reads a structure of the size and shape that it has for this request.
    if unsafe { ioctl(socket.as_raw_fd(), SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn socket_of_namespace() -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers.
    let fd = unsafe { socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn flags(socket: &OwnedFd) -> io::Result<InterfaceRequest> {
    let mut request = InterfaceRequest { name: [0; 16], flags: 0, rest: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(NAME) {
        *to = from.cast_signed() as c_char;
    }
    // SAFETY: the kernel reads and writes a structure of the size and shape that it has for this request.
    if unsafe { ioctl(socket.as_raw_fd(), SIOCGIFFLAGS, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request)
}

/// Whether the interface has its IPv6 address: a kernel, or a namespace, may be without.
fn has_ipv6() -> bool {
    let addresses = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    addresses.lines().any(|line| line.ends_with(" lo"))
}

fn refused(error: io::Error) -> Failure {
    Failure::new(code::KERNEL, "the kernel refused", format!("loopback interface: {error}"))
}

fn result(call: &Call, version: SpecVersion, ipv6: bool) -> String {
    let families =
        if ipv6 { vec![("4", "127.0.0.1/8"), ("6", "::1/128")] } else { vec![("4", "127.0.0.1/8")] };
    let addresses: Vec<String> = families
        .iter()
        .map(|(family, address)| {
            // Until 1.0.0 an address said its family.
            let family = if version < SpecVersion::V1_0_0 {
                format!("\"version\":{},", quote(family))
            } else {
                String::new()
            };
            format!("{{{family}\"interface\":0,\"address\":{}}}", quote(address))
        })
        .collect();
    format!(
        "{{\"cniVersion\":{},\"interfaces\":[{{\"name\":\"lo\",\"mac\":\"00:00:00:00:00:00\",\"sandbox\":{}}}],\"ips\":[{}],\"dns\":{{}}}}\n",
        quote(version.as_str()),
        quote(&call.netns),
        addresses.join(",")
    )
}
