//! The few calls of bpf(2) that aya does not offer: links of cgroups, and reading maps in one go.

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;

/// `BPF_PROG_TYPE_SCHED_CLS` and `BPF_TCX_INGRESS` (linux/bpf.h).
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;

/// What a link of a cgroup holds together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CgroupLink {
    /// Identifier of the program.
    pub(crate) program: u32,
    /// Identifier of the cgroup: the inode number of its folder; 0 once that is gone.
    pub(crate) cgroup: u64,
}

/// # Safety
/// `attributes` is what the command takes, and whatever it points to outlives the call.
unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller promises the rest.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Loads the least of programs for interfaces: it lets every packet pass.
pub(crate) fn load_trivial() -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    // r0 = TCX_NEXT; exit
    let instructions: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    let mut attributes = Attributes {
        kind: SCHED_CLS,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: instructions and licence outlive the call.
    let descriptor = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// Attaches a program to what an interface of the calling thread's namespace receives, by tcx.
pub(crate) fn link_tcx(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program: u32,
        interface: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        padding: u32,
        revision: u64,
    }
    let mut attributes = Attributes {
        program: program.as_raw_fd() as u32,
        interface,
        attach_type: TCX_INGRESS,
        flags: 0,
        relative: 0,
        padding: 0,
        revision: 0,
    };
    // SAFETY: descriptors and numbers alone.
    let descriptor = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// Opens what is pinned at a path.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attributes = Attributes { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    // SAFETY: the path outlives the call.
    let descriptor = unsafe { bpf(BPF_OBJ_GET, &mut attributes) }?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// What a cgroup's link holds together.
pub(crate) fn cgroup_link(link: BorrowedFd<'_>) -> io::Result<CgroupLink> {
    #[repr(C)]
    struct Attributes {
        descriptor: u32,
        length: u32,
        info: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        cgroup: u64,
        attach_type: u32,
        rest: u32,
    }
    let mut info = Info::default();
    let mut attributes = Attributes {
        descriptor: link.as_raw_fd() as u32,
        length: size_of::<Info>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: the information outlives the call, and its size is given.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(CgroupLink { program: info.program, cgroup: info.cgroup })
}

/// Puts another program into a link, without a gap.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attributes {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let mut attributes = Attributes {
        link: link.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    // SAFETY: descriptors alone.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attributes) }.map(drop)
}

/// `BPF_MAP_LOOKUP_BATCH`.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// At most `most` entries of a map, and whether its end was reached.
///
/// # Safety
/// `K` and `V` are as large as the map's keys and values, and any bytes are one of them. `from` is zero or where such a place as the map's
/// kind has is, and `next` where there is room for one.
unsafe fn read_batch<K, V>(
    map: BorrowedFd<'_>,
    from: u64,
    next: u64,
    most: u32,
) -> io::Result<(Vec<(K, V)>, bool)> {
    let mut keys: Vec<K> = Vec::with_capacity(most as usize);
    let mut values: Vec<V> = Vec::with_capacity(most as usize);
    let mut attributes = Batch {
        in_batch: from,
        out_batch: next,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: most,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: keys and values have room for `most` entries; the caller promises the rest.
    let ended = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) } {
        Ok(_) => false,
        // The end of the map.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    let read = attributes.count.min(most) as usize;
    // SAFETY: the kernel filled that many of each.
    unsafe {
        keys.set_len(read);
        values.set_len(read);
    }
    Ok((keys.into_iter().zip(values).collect(), ended))
}

/// Some entries of a hash map, at most `most`, from where `place` says (absent: from the beginning); `place` becomes where to go
/// on, absent at the end. Entries that come and go meanwhile may be seen or not.
pub(crate) fn read_hash<K: weft_abi::Plain, V: weft_abi::Plain>(
    map: BorrowedFd<'_>,
    place: &mut Option<u32>,
    most: u32,
) -> io::Result<Vec<(K, V)>> {
    let (mut from, mut next) = (place.unwrap_or(0), 0_u32);
    let from = if place.is_some() { &raw mut from as u64 } else { 0 };
    // SAFETY: keys and values are the map's and plain; a place in a hash map is a number, and both outlive the call.
    let (entries, ended) = unsafe { read_batch(map, from, &raw mut next as u64, most) }?;
    *place = (!ended).then_some(next);
    Ok(entries)
}

/// All entries of a longest-prefix table that has room for `room`: data and length of each prefix, and its value. One call, where
/// asking for one key after the other takes two for each entry and several times as long.
pub(crate) fn read_trie<K: weft_abi::Plain, V: weft_abi::Plain>(
    map: BorrowedFd<'_>,
    room: u32,
) -> io::Result<Vec<((K, u32), V)>> {
    /// `bpf_lpm_trie_key`.
    #[repr(C)]
    struct Key<K> {
        bits: u32,
        data: K,
    }
    const { assert!(size_of::<Key<K>>() == size_of::<u32>() + size_of::<K>(), "padding") };
    let mut last = MaybeUninit::<Key<K>>::uninit();
    // SAFETY: keys and values are the map's and plain; a place in such a table is a key, and outlives the call.
    let (entries, _) = unsafe { read_batch::<Key<K>, V>(map, 0, last.as_mut_ptr() as u64, room) }?;
    Ok(entries.into_iter().map(|(key, value)| ((key.data, key.bits), value)).collect())
}

/// The first `count` elements of an array map.
pub(crate) fn read_array<V: weft_abi::Plain>(map: BorrowedFd<'_>, count: u32) -> io::Result<Vec<V>> {
    let mut values: Vec<V> = Vec::with_capacity(count as usize);
    let mut keys: Vec<u32> = Vec::with_capacity(count as usize);
    let mut next = 0_u32;
    let mut read = 0_usize;
    while read < count as usize {
        let mut attributes = Batch {
            in_batch: if read == 0 { 0 } else { &raw mut next as u64 },
            out_batch: &raw mut next as u64,
            // SAFETY: `read` elements were filled, and there is room for `count`.
            keys: unsafe { keys.as_mut_ptr().add(read) } as u64,
            // SAFETY: as above.
            values: unsafe { values.as_mut_ptr().add(read) } as u64,
            count: count - read as u32,
            map: map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: keys and values have room for `count` elements of their sizes, which are the map's.
        let ended = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut attributes) } {
            Ok(_) => false,
            // The end of the map.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        read += attributes.count as usize;
        if ended || attributes.count == 0 {
            break;
        }
    }
    // SAFETY: the kernel filled that many, each of which is plain data.
    unsafe { values.set_len(read.min(count as usize)) };
    Ok(values)
}
