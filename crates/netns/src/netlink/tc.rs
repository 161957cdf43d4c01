//! Traffic control: eBPF programs in blocks that many interfaces share.
//!
//! A block is a list of filters. Interfaces bind their clsact qdisc to two of them, so that one program serves any
//! number of interfaces, is replaced for all of them in one step, and a new interface needs no attachment of its own.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Nla};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{Netlink, NetlinkError};

const INGRESS_BLOCK: u16 = 13;
const EGRESS_BLOCK: u16 = 14;
/// `TCM_IFINDEX_MAGIC_BLOCK`: the message is about a block, whose index stands in the parent's place.
const IS_BLOCK: i32 = -1;
const CLSACT: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
/// The one filter of a block: handle 1, preference 1, every protocol (`ETH_P_ALL`, network order).
const HANDLE: TcHandle = TcHandle { major: 0, minor: 1 };
const INFO: u32 = 1 << 16 | (3_u16.to_be() as u32);

/// Blocks that an interface is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// What the host receives from the interface goes through this one.
    pub ingress: u32,
    /// What the host sends to it goes through this one.
    pub egress: u32,
}

impl Netlink {
    /// Binds an interface to two blocks, which come to be with the first interface and go with the last.
    pub fn bind_blocks(&mut self, index: u32, blocks: Blocks) -> Result<(), NetlinkError> {
        let mut message = TcMessage::with_index(index as i32);
        message.header.handle = CLSACT;
        message.header.parent = TcHandle::CLSACT;
        message.attributes = vec![
            TcAttribute::Kind("clsact".to_owned()),
            number(INGRESS_BLOCK, blocks.ingress),
            number(EGRESS_BLOCK, blocks.egress),
        ];
        let what = || format!("bind interface {index} to its programs");
        self.change(&what, RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Limits what an interface sends, by a token bucket (tbf) as its root queue: `rate` in bytes a second, `burst` in bytes.
    /// Packets wait for up to 50 ms, then are dropped.
    pub fn set_token_bucket(&mut self, index: u32, rate: u64, burst: u32) -> Result<(), NetlinkError> {
        const PARAMETERS: u16 = 1;
        const RATE64: u16 = 4;
        const BURST: u16 = 6;
        /// `TC_LINKLAYER_ETHERNET`.
        const ETHERNET: u8 = 1;
        let queued = u32::try_from(rate / 20).unwrap_or(u32::MAX);
        // struct tc_tbf_qopt: two tc_ratespec of 12 bytes (the second, the peak rate, is not used), limit, buffer, mtu.
        let mut parameters = Vec::with_capacity(36);
        parameters.extend([0, ETHERNET, 0, 0, 0, 0, 0, 0]);
        parameters.extend(u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
        parameters.extend([0; 12]);
        parameters.extend(burst.saturating_add(queued).to_ne_bytes());
        parameters.extend([0; 8]);
        let mut options = vec![
            TcOption::Other(DefaultNla::new(PARAMETERS, parameters)),
            TcOption::Other(DefaultNla::new(BURST, burst.to_ne_bytes().to_vec())),
        ];
        if rate > u64::from(u32::MAX) {
            options.push(TcOption::Other(DefaultNla::new(RATE64, rate.to_ne_bytes().to_vec())));
        }
        let mut message = TcMessage::with_index(index as i32);
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options)];
        let what = || format!("limit the rate of interface {index}");
        self.change(&what, RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// The blocks of every interface that is bound to some.
    pub fn bound_blocks(&mut self) -> Result<Vec<(u32, Blocks)>, NetlinkError> {
        let message = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let answers = self.dump("list queueing disciplines", message)?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewQueueDiscipline(message) => {
                    let blocks = Blocks {
                        ingress: read_number(message, INGRESS_BLOCK)?,
                        egress: read_number(message, EGRESS_BLOCK)?,
                    };
                    Some((message.header.index as u32, blocks))
                }
                _ => None,
            })
            .collect())
    }

    /// Takes the blocks (and everything else of clsact) from an interface.
    pub fn unbind_blocks(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut message = TcMessage::with_index(index as i32);
        message.header.handle = CLSACT;
        message.header.parent = TcHandle::CLSACT;
        let what = || format!("take clsact from interface {index}");
        self.change(&what, RouteNetlinkMessage::DelQueueDiscipline(message), 0)
    }

    /// Puts a program into a block, in place of the one that is there, in one step. The block must be in use.
    pub fn set_block_program(
        &mut self,
        block: u32,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> Result<(), NetlinkError> {
        let mut message = block_message(block);
        message.header.handle = HANDLE;
        message.header.info = INFO;
        message.attributes = vec![
            TcAttribute::Kind("bpf".to_owned()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        let what = || format!("put program {name} into block {block}");
        self.change(&what, RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE)
    }

    /// The ids of the programs in a block, in order; none if nobody uses the block.
    pub fn block_programs(&mut self, block: u32) -> Result<Vec<u32>, NetlinkError> {
        let message = RouteNetlinkMessage::GetTrafficFilter(block_message(block));
        let answers = self.socket.request(&|| format!("list block {block}"), message, NLM_F_DUMP)?;
        let options = |message: &TcMessage| -> Vec<TcOption> {
            let lists = message.attributes.iter().filter_map(|attribute| match attribute {
                TcAttribute::Options(options) => Some(options.clone()),
                _ => None,
            });
            lists.flatten().collect()
        };
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewTrafficFilter(message) => Some(options(message)),
                _ => None,
            })
            .flatten()
            .filter_map(|option| match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(id),
                _ => None,
            })
            .collect())
    }
}

fn block_message(block: u32) -> TcMessage {
    let mut message = TcMessage::with_index(IS_BLOCK);
    message.header.parent = TcHandle::from(block);
    message
}

fn number(kind: u16, value: u32) -> TcAttribute {
    TcAttribute::Other(DefaultNla::new(kind, value.to_ne_bytes().to_vec()))
}

fn read_number(message: &TcMessage, kind: u16) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Other(nla) if nla.kind() == kind => {
            let mut bytes = [0; 4];
            (nla.value_len() == bytes.len()).then(|| nla.emit_value(&mut bytes))?;
            Some(u32::from_ne_bytes(bytes))
        }
        _ => None,
    })
}
