//! Systems without network namespaces: the same items as `linux`, none of which can be made.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use crate::error::LabError;

/// Cannot be made here.
#[derive(Debug)]
pub(crate) struct Namespace(Infallible);

impl Namespace {
    pub(crate) fn enter(&self) -> io::Result<()> {
        match self.0 {}
    }
}

/// Cannot be made here.
#[derive(Debug)]
pub(crate) struct Tun(Infallible);

impl Tun {
    pub(crate) fn recv(&self, _buffer: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub(crate) fn send(&self, _packet: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

/// Cannot be made here.
#[derive(Debug)]
pub(crate) struct Bell(Infallible);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn ring(&self) {
        match self.0 {}
    }
}

pub(crate) fn make_host(_mtu: u16) -> Result<(Namespace, Tun), LabError> {
    Err(LabError::NotLinux)
}

pub(crate) fn enter_user_namespace() -> Result<(), LabError> {
    Err(LabError::NotLinux)
}

pub(crate) fn precise_timers() {}

pub(crate) fn wait(_tuns: &[Tun], bell: &Bell, _timeout: Option<Duration>) -> io::Result<()> {
    match bell.0 {}
}

pub(crate) fn add_address(_ip: IpAddr) -> Result<(), LabError> {
    Err(LabError::NotLinux)
}

pub(crate) fn remove_address(_ip: IpAddr) -> Result<(), LabError> {
    Err(LabError::NotLinux)
}

pub(crate) fn flush_cookies() -> Result<(), LabError> {
    Err(LabError::NotLinux)
}
