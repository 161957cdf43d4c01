//! Programs of sockets: pinned links to a cgroup.

use std::{
    fs::File,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSock, CgroupSockAddr, CgroupSockAddrAttachType, CgroupSockAttachType,
        Program, ProgramError, ProgramFd, links::FdLink,
    },
};
use weft_abi::programs;

use super::{LoadError, Programs, bpf_call, pins};

/// Where the programs of socket addresses run.
const ADDRESSES: [(&str, CgroupSockAddrAttachType); 8] = [
    (programs::SOCK_CONNECT4, CgroupSockAddrAttachType::Connect4),
    (programs::SOCK_CONNECT6, CgroupSockAddrAttachType::Connect6),
    (programs::SOCK_SENDMSG4, CgroupSockAddrAttachType::UDPSendMsg4),
    (programs::SOCK_SENDMSG6, CgroupSockAddrAttachType::UDPSendMsg6),
    (programs::SOCK_RECVMSG4, CgroupSockAddrAttachType::UDPRecvMsg4),
    (programs::SOCK_RECVMSG6, CgroupSockAddrAttachType::UDPRecvMsg6),
    (programs::SOCK_GETPEERNAME4, CgroupSockAddrAttachType::GetPeerName4),
    (programs::SOCK_GETPEERNAME6, CgroupSockAddrAttachType::GetPeerName6),
];

/// What the names of the links' pins end in.
const SUFFIX: &str = "-cgroup";

/// A loaded program of sockets.
pub(super) struct SocketProgram {
    name: &'static str,
    program: Kind,
}

enum Kind {
    Address(CgroupSockAddr),
    Release(CgroupSock),
}

/// Whether a program is one of sockets.
pub(super) fn is_socket_program(name: &str) -> bool {
    name == programs::SOCK_RELEASE || ADDRESSES.iter().any(|(known, _)| *known == name)
}

/// Loads and pins the programs of sockets, in place of older ones.
pub(super) fn load(object: &mut Ebpf, folder: &Path) -> Result<Vec<SocketProgram>, LoadError> {
    for name in names() {
        let at = |source| LoadError::Program { name: name.to_owned(), source };
        match object.program_mut(name) {
            Some(Program::CgroupSockAddr(program)) => {
                program.load().map_err(at)?;
                pins::pin_program(folder, name, |path| program.pin(path))?;
            }
            Some(Program::CgroupSock(program)) => {
                program.load().map_err(at)?;
                pins::pin_program(folder, name, |path| program.pin(path))?;
            }
            _ => return Err(LoadError::Missing(name.to_owned())),
        }
    }
    open(folder)?.ok_or_else(|| LoadError::Missing(programs::SOCK_CONNECT4.to_owned()))
}

/// The programs of sockets from their pins; nothing if one is missing.
pub(super) fn open(folder: &Path) -> Result<Option<Vec<SocketProgram>>, LoadError> {
    let mut opened = Vec::new();
    for name in names() {
        let path = folder.join("programs").join(name);
        if !path.exists() {
            return Ok(None);
        }
        let at = |source| LoadError::Program { name: name.to_owned(), source };
        let attach_type = ADDRESSES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
        let program = match attach_type {
            Some(kind) => Kind::Address(CgroupSockAddr::from_pin(&path, kind).map_err(at)?),
            None => {
                Kind::Release(CgroupSock::from_pin(&path, CgroupSockAttachType::SockRelease).map_err(at)?)
            }
        };
        opened.push(SocketProgram { name, program });
    }
    Ok(Some(opened))
}

fn names() -> impl Iterator<Item = &'static str> {
    ADDRESSES.into_iter().map(|(name, _)| name).chain([programs::SOCK_RELEASE])
}

impl Programs {
    /// Runs the programs of sockets for the processes of a cgroup and all below it, by pinned links. Says how many had to be
    /// attached, or were replaced.
    pub(crate) fn attach_sockets(&mut self, cgroup: &Path) -> Result<usize, LoadError> {
        let at = |source| LoadError::File { path: cgroup.to_owned(), source };
        let folder = File::open(cgroup).map_err(at)?;
        let id = folder.metadata().map_err(at)?.ino();
        let mut changed = 0;
        for index in 0..self.sockets.len() {
            let pin = self.socket_pin(self.sockets[index].name);
            let program = &mut self.sockets[index];
            if !program.is_attached(&pin, id)? {
                program.attach(&folder, &pin)?;
                changed += 1;
            }
        }
        Ok(changed)
    }

    fn socket_pin(&self, name: &str) -> PathBuf {
        self.folder.join("links").join(format!("{name}{SUFFIX}"))
    }
}

// === impl SocketProgram ===

impl SocketProgram {
    /// Whether the pinned link leads this very program to that cgroup; puts it into a link that does with another program.
    fn is_attached(&self, pin: &Path, cgroup: u64) -> Result<bool, LoadError> {
        if !pin.exists() {
            return Ok(false);
        }
        let at = |source| LoadError::File { path: pin.to_owned(), source };
        let link = bpf_call::open_pin(pin).map_err(at)?;
        let found = bpf_call::cgroup_link(link.as_fd()).map_err(at)?;
        if found.cgroup != cgroup {
            return Ok(false);
        }
        if found.program != self.id()? {
            bpf_call::update_link(link.as_fd(), self.descriptor()?.as_fd()).map_err(at)?;
        }
        Ok(true)
    }

    /// Attaches and pins; an older pin led to a cgroup that is gone or another.
    fn attach(&mut self, cgroup: &File, pin: &Path) -> Result<(), LoadError> {
        let name = self.name;
        let at = |source| LoadError::Program { name: name.to_owned(), source };
        let unlinked = |source| LoadError::Link { name: name.to_owned(), source };
        let link: FdLink = match &mut self.program {
            Kind::Address(program) => {
                let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(at)?;
                program.take_link(id).map_err(at)?.try_into().map_err(unlinked)?
            }
            Kind::Release(program) => {
                let id = program.attach(cgroup, CgroupAttachMode::Single).map_err(at)?;
                program.take_link(id).map_err(at)?.try_into().map_err(unlinked)?
            }
        };
        pins::remove_if_there(pin)?;
        link.pin(pin).map_err(|source| LoadError::Pin { name: name.to_owned(), source })?;
        Ok(())
    }

    fn id(&self) -> Result<u32, LoadError> {
        let info = match &self.program {
            Kind::Address(program) => program.info(),
            Kind::Release(program) => program.info(),
        };
        info.map(|info| info.id()).map_err(|source| self.error(source))
    }

    fn descriptor(&self) -> Result<&ProgramFd, LoadError> {
        let descriptor = match &self.program {
            Kind::Address(program) => program.fd(),
            Kind::Release(program) => program.fd(),
        };
        descriptor.map_err(|source| self.error(source))
    }

    fn error(&self, source: ProgramError) -> LoadError {
        LoadError::Program { name: self.name.to_owned(), source }
    }
}
