use std::collections::HashMap;
use std::io;

use proptest::prelude::*;

use super::*;

/// A host that is made up.
struct Made {
    linux: bool,
    release: &'static str,
    sysctls: HashMap<&'static str, String>,
    refused: HashMap<&'static str, io::ErrorKind>,
}

impl Made {
    fn with(fastopen: &str) -> Self {
        let sysctls = HashMap::from([("net.ipv4.tcp_fastopen", fastopen.to_owned())]);
        Self { linux: true, release: "6.18.44", sysctls, refused: HashMap::new() }
    }

    fn sysctl(mut self, name: &'static str, value: &str) -> Self {
        self.sysctls.insert(name, value.to_owned());
        self
    }

    fn refuse(mut self, option: &'static str, kind: io::ErrorKind) -> Self {
        self.refused.insert(option, kind);
        self
    }

    fn probe(&self) -> Support {
        Support::probe_host(self)
    }
}

impl Host for Made {
    fn is_linux(&self) -> bool {
        self.linux
    }

    fn kernel_release(&self) -> io::Result<String> {
        Ok(self.release.to_owned())
    }

    fn sysctl(&self, name: &str) -> io::Result<String> {
        self.sysctls.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn try_option(&self, option: &str) -> io::Result<()> {
        self.refused.get(option).map_or(Ok(()), |kind| Err((*kind).into()))
    }
}

fn fixes(support: &Support) -> Vec<String> {
    support.problems().iter().filter_map(Problem::fix).collect()
}

#[test]
fn both_bits_on_is_no_problem() {
    let support = Made::with("3\n").probe();
    assert_eq!((support.client, support.server), (Ability::Works, Ability::Works));
    assert_eq!(support.problems(), []);
    assert!(support.tells_client_fail && support.tells_tfo_child);
}

#[test]
fn each_bit_that_is_off_is_said_with_its_command() {
    use Ability::{Off, Works};
    for (value, client, server, fix) in [
        ("0", Off, Off, &["tcp_fastopen=1", "tcp_fastopen=2"][..]),
        ("1", Works, Off, &["tcp_fastopen=3"]),
        ("2", Off, Works, &["tcp_fastopen=3"]),
        ("1024", Off, Off, &["tcp_fastopen=1025", "tcp_fastopen=1026"]),
    ] {
        // The kernel's own answer with the client bit off.
        let mut host = Made::with(value);
        if client == Off {
            host = host.refuse("TCP_FASTOPEN_CONNECT", io::ErrorKind::Unsupported);
        }
        let support = host.probe();
        assert_eq!((support.client, support.server), (client, server), "{value}");
        let found = fixes(&support);
        assert_eq!(found.len(), fix.len(), "{value}: {found:?}");
        assert!(found.iter().zip(fix).all(|(found, fix)| found.ends_with(fix)), "{value}: {found:?}");
        assert_eq!(support.problems_of(Side::Client).count(), usize::from(client == Off), "{value}");
    }
}

/// The kernel keeps a signed number, and shows one.
#[test]
fn minus_one_is_all_bits() {
    let support = Made::with("-1\n").probe();
    assert_eq!(support.fastopen, Some(FastOpenBits::new(u32::MAX)));
    assert_eq!((support.client, support.server), (Ability::Works, Ability::Works));
    assert!(matches!(support.problems(), [Problem::CookieLessServer { .. }]), "{support:?}");
    for text in ["-2147483649", "4294967296", "--1", "-", ""] {
        assert_eq!(FastOpenBits::parse(text), None, "{text:?}");
    }
}

#[test]
fn settings_that_spoil_it_are_said() {
    let support = Made::with("515")
        .sysctl("net.ipv4.tcp_fastopen_blackhole_timeout_sec", "3600\n")
        .sysctl("net.ipv4.tcp_syncookies", "2")
        .probe();
    assert_eq!((support.client, support.server), (Ability::Works, Ability::Off));
    assert_eq!(support.problems()[0], Problem::SynCookiesAlways, "what blocks comes first");
    let fixes = fixes(&support).join("; ");
    assert!(fixes.contains("tcp_fastopen=3") && fixes.contains("timeout_sec=0"), "{fixes}");
}

#[test]
fn what_cannot_be_read_is_unknown_not_off() {
    let mut host = Made::with("3");
    host.sysctls.clear();
    let support = host.probe();
    assert_eq!((support.client, support.server), (Ability::Unknown, Ability::Unknown));
    assert!(support.client.may_work());
    assert_eq!(support.problems().len(), 1);
    assert_eq!(support.problems()[0], Problem::SysctlUnreadable { name: "net.ipv4.tcp_fastopen" });
    let support = Made::with("gibberish").probe();
    assert_eq!((support.client, support.server), (Ability::Unknown, Ability::Unknown));
    assert_eq!(support.problems(), [Problem::SysctlNotUnderstood { name: "net.ipv4.tcp_fastopen" }]);
}

#[test]
fn old_kernels_and_filters() {
    let mut host = Made::with("3").refuse("TCP_FASTOPEN_CONNECT", io::ErrorKind::Other);
    host.release = "4.9.0-19-amd64";
    let support = host.probe();
    assert_eq!((support.client, support.server), (Ability::Unsupported, Ability::Works));
    assert!(support.problems()[0].to_string().contains("Linux 4.9 is too old"));
    assert!(!support.tells_client_fail && !support.tells_tfo_child);

    let filtered = Made::with("3").refuse("TCP_FASTOPEN", io::ErrorKind::PermissionDenied).probe();
    assert_eq!((filtered.client, filtered.server), (Ability::Works, Ability::Unsupported));
    assert!(filtered.problems()[0].to_string().contains("TCP_FASTOPEN is refused"));
}

#[test]
fn other_systems() {
    let mut host = Made::with("3");
    host.linux = false;
    let support = host.probe();
    assert_eq!((support.client, support.server), (Ability::Unsupported, Ability::Unsupported));
    assert_eq!(support.problems(), [Problem::NotLinux]);
}

#[test]
fn kernel_versions() {
    let parse = |text| KernelVersion::parse(text).map(|version| (version.major, version.minor));
    assert_eq!(parse("6.18.44-generic\n"), Some((6, 18)));
    assert_eq!(parse("5.5-rc1"), Some((5, 5)));
    assert_eq!(parse("4.4.302+"), Some((4, 4)));
    for text in ["", "6", "6.", "six.two", ".5", "99999999.1"] {
        assert_eq!(parse(text), None, "{text:?}");
    }
    assert!(KernelVersion::new(6, 2) > KernelVersion::new(5, 19));
}

#[test]
fn this_host() {
    let support = Support::probe();
    if crate::sys::IS_LINUX {
        assert!(support.kernel.is_some() && support.fastopen.is_some(), "{support:?}");
    } else {
        assert_eq!(support.problems(), [Problem::NotLinux]);
    }
}

proptest! {
    #[test]
    fn any_host_has_an_answer(fastopen in "\\PC{0,12}", release in "\\PC{0,20}") {
        let mut host = Made::with(&fastopen);
        host.sysctls.insert("net.ipv4.tcp_syncookies", fastopen.clone());
        let _ = host.probe();
        let _ = KernelVersion::parse(&release);
    }

    #[test]
    fn a_fix_sets_the_bit_and_keeps_the_others(bits in 0_u32..0x800) {
        let support = Made::with(&bits.to_string()).probe();
        for problem in support.problems() {
            let Some(fix) = problem.fix() else { continue };
            let value: u32 = fix.rsplit('=').next().unwrap().parse().unwrap();
            let changed = bits ^ value;
            prop_assert_eq!(changed.count_ones(), 1);
            let again = Made::with(&value.to_string()).probe();
            prop_assert!(!again.problems().iter().any(|other| std::mem::discriminant(other) == std::mem::discriminant(problem)));
        }
    }
}
