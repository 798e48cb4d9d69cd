use std::fmt;

/// `net.ipv4.tcp_fastopen`: the bits of `ip-sysctl.rst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FastOpenBits(u32);

impl FastOpenBits {
    /// The bits as a number.
    pub const fn new(bits: u32) -> Self {
        Self(bits)
    }

    /// The value as the file shows it: a decimal number, signed (-1 has all bits), or hexadecimal with `0x`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok().or_else(|| text.parse().ok().map(i32::cast_unsigned)),
        }
        .map(Self)
    }

    /// The number.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// 0x1: clients may send data in a SYN.
    pub const fn client(self) -> bool {
        self.0 & 1 != 0
    }

    /// 0x2: listeners may accept data in a SYN.
    pub const fn server(self) -> bool {
        self.0 & 2 != 0
    }

    /// 0x4: clients send data in a SYN without a cookie.
    pub const fn client_no_cookie(self) -> bool {
        self.client() && self.0 & 0x4 != 0
    }

    /// 0x200: listeners accept data in a SYN without a cookie.
    pub const fn server_no_cookie(self) -> bool {
        self.server() && self.0 & 0x200 != 0
    }

    /// 0x400: every listener has TCP Fast Open, without asking for it.
    pub const fn every_listener(self) -> bool {
        self.server() && self.0 & 0x400 != 0
    }
}

impl fmt::Display for FastOpenBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 8 { write!(f, "{}", self.0) } else { write!(f, "{:#x}", self.0) }
    }
}

/// A Linux version: major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct KernelVersion {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

impl KernelVersion {
    /// `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// The version at the front of a release string: `6.18.44-generic` is 6.18.
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.trim().splitn(3, '.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?;
        let digits = minor.bytes().take_while(u8::is_ascii_digit).count();
        Some(Self { major, minor: minor[..digits].parse().ok()? })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
