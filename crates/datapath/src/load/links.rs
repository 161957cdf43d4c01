//! Programs in their hooks: pinned tcx links.

use std::path::PathBuf;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::TcAttachOptions,
};

use super::{LoadError, Programs, pins, sockets::is_socket_program};

/// Side of an interface, as the host sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// What the host receives from it.
    Ingress,
    /// What the host sends to it.
    Egress,
}

impl From<Direction> for TcAttachType {
    fn from(direction: Direction) -> TcAttachType {
        match direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        }
    }
}

impl Programs {
    /// Attaches a program to an interface of the calling thread's namespace and pins the link, unless it is attached
    /// already. Says whether it did anything.
    pub(crate) fn attach(
        &mut self,
        program: &'static str,
        interface: &str,
        direction: Direction,
    ) -> Result<bool, LoadError> {
        if self.is_attached(program, interface, direction)? {
            return Ok(false);
        }
        let pin = self.link_pin(program, interface);
        // What is pinned under this name belonged to an interface that is gone.
        pins::remove_if_there(&pin)?;
        let at = |source| LoadError::Program { name: format!("{program} on {interface}"), source };
        let loaded = self.program(program)?;
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = loaded.attach_with_options(interface, direction.into(), first).map_err(at)?;
        let name = format!("{program}-{interface}");
        let link: FdLink = loaded
            .take_link(id)
            .map_err(at)?
            .try_into()
            .map_err(|source| LoadError::Link { name: name.clone(), source })?;
        link.pin(pin).map_err(|source| LoadError::Pin { name, source })?;
        Ok(true)
    }

    /// Whether this very program runs in that hook and its link is pinned.
    fn is_attached(
        &mut self,
        program: &str,
        interface: &str,
        direction: Direction,
    ) -> Result<bool, LoadError> {
        if !self.link_pin(program, interface).exists() {
            return Ok(false);
        }
        let at = |source| LoadError::Program { name: format!("{program} on {interface}"), source };
        let id = self.program(program)?.info().map_err(at)?.id();
        let (_, there) = SchedClassifier::query_tcx(interface, direction.into()).map_err(at)?;
        Ok(there.iter().any(|info| info.id() == id))
    }

    /// Puts the loaded programs into every pinned link in place of older ones. Links of interfaces that are gone are
    /// removed.
    pub(super) fn replace_in_links(&mut self) -> Result<(), LoadError> {
        for name in pins::link_names(&self.folder)? {
            let Some((program, _)) = name.split_once('-') else { continue };
            if is_socket_program(program) {
                continue;
            }
            let path = self.folder.join("links").join(&name);
            let pinned = PinnedLink::from_pin(&path)
                .map_err(|source| LoadError::Link { name: name.clone(), source })?;
            let link = FdLink::from(pinned)
                .try_into()
                .map_err(|source| LoadError::Link { name: name.clone(), source })?;
            let Ok(loaded) = self.program(program) else {
                // A hook that this build no longer has.
                pins::remove_if_there(&path)?;
                continue;
            };
            match loaded.attach_to_link(link) {
                Ok(id) => drop(loaded.take_link(id).map_err(|source| LoadError::Program { name, source })?),
                Err(ProgramError::SyscallError(error))
                    if error.io_error.raw_os_error() == Some(libc::ENOLINK) =>
                {
                    pins::remove_if_there(&path)?;
                }
                Err(source) => return Err(LoadError::Program { name, source }),
            }
        }
        Ok(())
    }

    /// Interface names may have dots, which bpffs does not allow.
    fn link_pin(&self, program: &str, interface: &str) -> PathBuf {
        self.folder.join("links").join(format!("{program}-{}", interface.replace('.', "_")))
    }
}
