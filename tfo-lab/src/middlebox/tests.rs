//! All of them, on whatever may come.

use etherparse::PacketBuilder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A plain SYN of a client with many ports.
pub(super) fn syn(from: u16, to: u16) -> Packet {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(from, to, 1000, 65_535).syn();
    builder.write(&mut bytes, &[]).unwrap();
    bytes.into()
}

/// Every middlebox with all its switches on, each behind the one before.
fn all() -> Vec<Box<dyn Middlebox>> {
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let option = FastOpenSign::Option;
    vec![
        Box::new(Reorder::one_of_every(3, Duration::from_millis(1), 1)),
        Box::new(HoldProof::new()),
        Box::new(DuplicateSyn::after(Duration::ZERO)),
        Box::new(AfterFastOpen::connections(1, StripFastOpen::new().experimental()).sign(option)),
        Box::new(CorruptCookie::new()),
        Box::new(CorruptCookie::granted()),
        Box::new(RewriteSynAck::denying_data()),
        Box::new(RewriteSynAck::claiming_data()),
        Box::new(ProxySynData::new()),
        Box::new(StripSynData::new()),
        Box::new(RotateClient::new([ip("192.0.2.1"), ip("2001:db8::1")])),
        Box::new(BalanceServers::translating(ip("10.0.0.2"), [ip("10.0.0.3"), ip("fd00::3")])),
        Box::new(BalanceServers::translating(ip("10.0.0.2"), [])),
        Box::new(BalanceServers::forwarding(ip("fd00::2"), ["server"])),
        Box::new(DelayFastOpen::by(Duration::from_millis(1)).sign(option)),
        Box::new(DropOversize::above(60).with_icmp()),
        Box::new(ResetSyn::with_option().both_ends()),
        Box::new(ResetSyn::any().deliver()),
        Box::new(DropNthSyn::every(5).first().sign(option)),
        Box::new(DropNthSyn::every(0)),
        Box::new(DropFastOpen::new().experimental().spare_requests().grants()),
        Box::new(DropSynData::new()),
        Box::new(DropDataSynAck::new()),
        Box::new(BlackholeAnswers::new().sign(option).both_ways()),
        Box::new(BlackholeClient::new().sign(option).per_pair().later_flows_only().lasting(Duration::ZERO)),
    ]
}

/// What a packet becomes, on its own way through each and through all.
fn offer(boxes: &mut [Box<dyn Middlebox>], packet: &Packet) {
    let mut through_all = packet.clone();
    for middlebox in boxes {
        look_at(&middlebox.handle(packet));
        if let Verdict::Replace(other) = middlebox.handle(&through_all) {
            through_all = other;
        }
    }
}

/// What leaves a middlebox has to be what it says: lengths and checksums too.
fn look_at(verdict: &Verdict) {
    match verdict {
        Verdict::Replace(packet) => assert_eq!(packet.rewrite(|_| ()).unwrap().bytes(), packet.bytes()),
        Verdict::Also(verdict, extras) => {
            look_at(verdict);
            assert!(extras.iter().all(|extra| extra.packet.src().is_some()));
        }
        _ => {}
    }
}

/// TCP between a few hosts and ports, so that connections come about.
fn tcp() -> impl Strategy<Value = Vec<u8>> {
    let options = prop_oneof![
        Just(vec![]),
        Just(vec![34, 2, 1, 1]),
        Just(vec![34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1]),
        Just(vec![254, 12, 0xF9, 0x89, 1, 2, 3, 4, 5, 6, 7, 8]),
        vec(any::<u8>(), 0..=40),
    ];
    let ends = (any::<bool>(), 1..4_u8, 1..4_u8, 79..82_u16, 79..82_u16);
    (ends, any::<u8>(), 0..3_u32, 0..9_u32, options, vec(any::<u8>(), 0..9)).prop_map(
        |((ipv6, from, to, from_port, to_port), flags, seq, ack, options, payload)| {
            let address = |host: u8| [0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
            let builder = match ipv6 {
                false => PacketBuilder::ipv4([10, 0, 0, from], [10, 0, 0, to], 64),
                true => PacketBuilder::ipv6(address(from), address(to), 64),
            };
            let mut builder = builder.tcp(from_port, to_port, seq, 65_535);
            if flags & 1 != 0 {
                builder = builder.syn();
            }
            if flags & 6 == 6 {
                builder = builder.ack(ack);
            }
            if flags & 56 == 56 {
                builder = builder.rst();
            }
            let mut bytes = Vec::new();
            let builder = builder.options_raw(&options).expect("40 bytes fit");
            builder.write(&mut bytes, &payload).unwrap();
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn garbage_does_no_harm(packets in vec(vec(any::<u8>(), 0..120), 1..20)) {
        let mut boxes = all();
        packets.into_iter().for_each(|bytes| offer(&mut boxes, &bytes.into()));
    }

    #[test]
    fn no_sequence_of_segments_does_harm(packets in vec(tcp(), 1..60)) {
        let mut boxes = all();
        packets.into_iter().for_each(|bytes| offer(&mut boxes, &bytes.into()));
    }

    #[test]
    fn damaged_segments_do_no_harm(
        packets in vec(tcp(), 1..20),
        damage in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..20),
        cut in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let mut packets = packets;
        for (which, place, value) in damage {
            let packet: &mut Vec<u8> = which.get_mut(&mut packets);
            *place.get_mut(packet) = value;
        }
        let short = cut.0.get_mut(&mut packets);
        short.truncate(cut.1.index(short.len() + 1));
        let mut boxes = all();
        // A damaged packet may be one whose checksum was wrong to begin with: only no panic is asked.
        for packet in packets.into_iter().map(Packet::from) {
            boxes.iter_mut().for_each(|middlebox| drop(middlebox.handle(&packet)));
        }
    }
}
