//! Pcap files.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};

/// Writes IP packets (link type RAW) with their times, to the nanosecond.
pub(super) fn write<'a>(
    path: &Path,
    packets: impl Iterator<Item = (SystemTime, &'a [u8])>,
) -> io::Result<()> {
    let header =
        PcapHeader { datalink: DataLink::RAW, ts_resolution: TsResolution::NanoSecond, ..Default::default() };
    let file = BufWriter::new(File::create(path)?);
    let mut writer = PcapWriter::with_header(file, header).map_err(io::Error::other)?;
    for (time, bytes) in packets {
        let packet = PcapPacket {
            timestamp: time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO),
            orig_len: bytes.len() as u32,
            data: Cow::Borrowed(bytes),
        };
        writer.write_packet(&packet).map_err(io::Error::other)?;
    }
    writer.into_writer().flush()
}
