//! On a kernel that lacks something: a clear word of what, and nothing half done.

use std::{io, os::unix::process::CommandExt as _, process::Command};

use weft_tests::{Lab, assert_nothing_left, machine_state, run, weft_path};

/// What a kernel may lack, played by a filter of system calls (seccomp): the calls fail as they do where the feature is not
/// built in.
#[derive(Clone, Copy, Debug)]
struct Lack {
    /// Number of the call.
    call: libc::c_long,
    /// Which of its arguments are looked at, and what they must be; none is any.
    arguments: [Option<(u32, u32)>; 2],
    /// What the call answers.
    errno: i32,
}

const NO_EBPF: Lack = Lack { call: libc::SYS_bpf, arguments: [None, None], errno: libc::ENOSYS };
/// `BPF_LINK_CREATE`: tcx came with Linux 6.6.
const NO_TCX: Lack = Lack { call: libc::SYS_bpf, arguments: [Some((0, 28)), None], errno: libc::EINVAL };
/// `socket(AF_NETLINK, _, NETLINK_NETFILTER)`.
const NO_NFTABLES: Lack = Lack {
    call: libc::SYS_socket,
    arguments: [Some((0, libc::AF_NETLINK as u32)), Some((2, libc::NETLINK_NETFILTER as u32))],
    errno: libc::EPROTONOSUPPORT,
};

impl Lack {
    fn filter(self) -> Vec<libc::sock_filter> {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
        // struct seccomp_data: the number at 0, arguments of 8 bytes from 16.
        let mut tests = vec![(0, self.call as u32)];
        tests.extend(self.arguments.into_iter().flatten().map(|(place, value)| (16 + 8 * place, value)));
        let mut filter = Vec::new();
        for (index, (offset, value)) in tests.iter().enumerate() {
            let to_the_end = (2 * (tests.len() - index) - 1) as u8;
            filter.push(statement(LOAD, *offset));
            filter.push(libc::sock_filter { code: EQUAL, jt: 0, jf: to_the_end, k: *value });
        }
        filter.push(statement(RETURN, libc::SECCOMP_RET_ERRNO | self.errno as u32));
        filter.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
        filter
    }

    /// `weft` on such a kernel.
    fn weft(self, arguments: &[&str]) -> weft_tests::Output {
        let mut command = Command::new(weft_path());
        command.args(arguments).env_remove("WEFT_LAB");
        let mut filter = self.filter();
        // SAFETY: prctl(2) alone, with memory that was made before.
        unsafe {
            command.pre_exec(move || {
                let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
                if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                    || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
                {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        run(&mut command)
    }
}

#[test]
fn doctor_names_what_the_kernel_lacks_and_a_lab_is_refused_before_anything_is_made() {
    for (lack, words) in [
        (NO_EBPF, ["ebpf", "not implemented"]),
        (NO_TCX, ["tcx", "linux 6.6"]),
        (NO_NFTABLES, ["nftables", "protocol not supported"]),
    ] {
        let output = lack.weft(&["doctor"]);
        assert_eq!(output.code, Some(3), "{lack:?}\n{}{}", output.stdout, output.stderr);
        let missing: Vec<&str> = output.stdout.lines().filter(|line| line.contains("MISSING")).collect();
        let names = |text: &str| words.iter().all(|word| text.to_lowercase().contains(word));
        assert!(missing.iter().any(|line| names(line)), "{lack:?}\n{}", output.stdout);

        let name = Lab::random_name();
        let before = machine_state();
        let said = lack.weft(&["lab", "up", "--nodes", "1", "--name", &name]).fails_with(3);
        assert!(names(&said) && said.contains("weft doctor"), "{lack:?}: {said}");
        assert_nothing_left(&name);
        assert_eq!(machine_state(), before);
    }
}
