//! Connections from one place to many, all at once.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{
    Outcome, Reply, Target,
    place::{Found, run_in},
};

/// For each of the three probes of a target.
const DEADLINE: Duration = Duration::from_secs(3);
/// A packet may be lost, the first ones above all while neighbours are being found.
const AGAIN: Duration = Duration::from_millis(300);
/// The loopback device promises more than an IPv4 packet can hold.
const MOST: u32 = 65535;

/// Probes every target from a place. Blocks until the last one has an outcome, a few seconds at most.
///
/// # Errors
/// When the place cannot be entered.
pub(crate) fn probe(from: &Found, targets: &[Target]) -> io::Result<Vec<Outcome>> {
    run_in(from.netns.as_deref(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut running = tokio::task::JoinSet::new();
            for (index, &target) in targets.iter().enumerate() {
                running.spawn(async move { (index, one(target).await) });
            }
            let mut outcomes = running.join_all().await;
            outcomes.sort_by_key(|(index, _)| *index);
            Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
        })
    })?
}

async fn one(target: Target) -> Outcome {
    let (tcp, udp, (full_size, mtu)) = tokio::join!(tcp(target), udp(target), full_size(target));
    Outcome { target, tcp, udp, full_size, mtu }
}

async fn tcp(target: Target) -> Reply {
    let asked = async {
        let mut stream = TcpStream::connect((target.address, target.tcp_port)).await?;
        let mut answer = String::new();
        (&mut stream).take(64).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    reply(timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())), None)
}

async fn udp(target: Target) -> Reply {
    let asked = async {
        let socket = connected(target).await?;
        exchange(&socket, b"weft").await
    };
    reply(timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())), Some(4))
}

/// A packet as large as the path takes. The kernel's opinion of that may fall while it is being tried.
async fn full_size(target: Target) -> (Reply, Option<u32>) {
    let mut mtu = None;
    let headers = if target.address.is_ipv4() { 28 } else { 48 };
    let asked = async {
        let socket = connected(target).await?;
        dont_fragment(&socket, target.address)?;
        loop {
            let size = path_mtu(&socket, target.address)?;
            mtu = Some(size);
            let payload = vec![b'w'; (size as usize).saturating_sub(headers)];
            match exchange(&socket, &payload).await {
                Err(error)
                    if error.raw_os_error() == Some(libc::EMSGSIZE)
                        && path_mtu(&socket, target.address)? < size => {}
                done => return done.map(|answer| (answer, payload.len())),
            }
        }
    };
    let outcome = timeout(DEADLINE, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let length = outcome.as_ref().ok().map(|(_, length)| *length);
    (reply(outcome.map(|(answer, _)| answer), length), mtu)
}

async fn connected(target: Target) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if target.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect((target.address, target.udp_port)).await?;
    Ok(socket)
}

/// Sends until something comes back.
async fn exchange(socket: &UdpSocket, payload: &[u8]) -> io::Result<String> {
    let mut buffer = [0; 128];
    loop {
        socket.send(payload).await?;
        if let Ok(received) = timeout(AGAIN, socket.recv(&mut buffer)).await {
            let answer = buffer.get(..received?).unwrap_or_default();
            return Ok(String::from_utf8_lossy(answer).into_owned());
        }
    }
}

/// What the far side saw, when it saw what was sent.
fn reply(answer: io::Result<String>, length: Option<usize>) -> Reply {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Reply::Failed(format!("no answer within {} s", DEADLINE.as_secs()));
        }
        Err(error) => return Reply::Failed(error.to_string()),
    };
    let mut words = answer.split(' ');
    let seen = words.next().and_then(|word| word.parse().ok());
    let arrived = words.next().and_then(|word| word.parse().ok());
    match seen {
        Some(address) if arrived == length => Reply::Seen(address),
        _ => Reply::Failed(format!("an answer that makes no sense: {answer:?}")),
    }
}

fn dont_fragment(socket: &UdpSocket, to: IpAddr) -> io::Result<()> {
    if to.is_ipv4() {
        set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
    } else {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)?;
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
    }
}

/// What the kernel takes for the MTU of the path to where the socket is connected, in bytes.
fn path_mtu(socket: &UdpSocket, to: IpAddr) -> io::Result<u32> {
    let (level, name) =
        if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    let mut mtu: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to values on this stack, and the length is that of the first.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut mtu).cast(), &raw mut length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(mtu.unsigned_abs().min(MOST)) }
}

fn set(socket: &UdpSocket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a value on this stack, and the length is its.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
