//! Programs of Pods' interfaces: two blocks, one for each direction.

use std::collections::BTreeSet;

use weft_abi::programs;
use weft_netns::{
    Netlink,
    netlink::{Blocks, or_gone},
};

use super::{LoadError, Programs};

/// Numbers of the two blocks; a block belongs to a network namespace.
const BLOCKS: Blocks = Blocks { ingress: 0x7765_0001, egress: 0x7765_0002 };

const PROGRAMS: [(u32, &str); 2] =
    [(BLOCKS.ingress, programs::POD_EGRESS), (BLOCKS.egress, programs::POD_INGRESS)];

impl Programs {
    /// Puts the programs on a Pod's new interface, which must still be down.
    pub(crate) fn bind_pod(&mut self, netlink: &mut Netlink, index: u32) -> Result<(), LoadError> {
        netlink.bind_blocks(index, BLOCKS)?;
        self.fill_blocks(netlink)?;
        Ok(())
    }

    /// Puts the programs back on those of these interfaces that somebody took them from, and into the blocks. Says on how
    /// many interfaces and into how many blocks it had to.
    pub(crate) fn bind_pods(
        &mut self,
        netlink: &mut Netlink,
        pods: &BTreeSet<u32>,
    ) -> Result<(usize, usize), LoadError> {
        if pods.is_empty() {
            return Ok((0, 0));
        }
        let bound: BTreeSet<u32> = (netlink.bound_blocks()?.into_iter())
            .filter(|(_, blocks)| *blocks == BLOCKS)
            .map(|(index, _)| index)
            .collect();
        let mut put_back = 0;
        for index in pods.difference(&bound) {
            // A clsact of somebody else's, without our blocks, is in the way.
            or_gone(netlink.unbind_blocks(*index))
                .or_else(|error| if error.errno() == Some(libc::EINVAL) { Ok(()) } else { Err(error) })?;
            netlink.bind_blocks(*index, BLOCKS)?;
            put_back += 1;
        }
        Ok((put_back, self.fill_blocks(netlink)?))
    }

    /// Puts the loaded programs into the blocks unless they are there. Says into how many.
    fn fill_blocks(&mut self, netlink: &mut Netlink) -> Result<usize, LoadError> {
        let mut filled = 0;
        for (block, name) in PROGRAMS {
            let at = |source| LoadError::Program { name: name.to_owned(), source };
            let program = self.program(name)?;
            if netlink.block_programs(block)? != [program.info().map_err(at)?.id()] {
                use std::os::fd::AsFd;
                netlink.set_block_program(block, name, program.fd().map_err(at)?.as_fd())?;
                filled += 1;
            }
        }
        Ok(filled)
    }
}
