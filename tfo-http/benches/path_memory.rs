//! What it costs to ask the path memory, and to report to it.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use tfo_http::path::{Event, MemoryStore, NullStore, Path, PathMemory, Settings};

/// A memory with 4,096 Capable paths.
fn full(now: Instant) -> (PathMemory, Vec<Path>) {
    let memory = PathMemory::new();
    let paths: Vec<_> = (0..4096_u32)
        .map(|i| Path::new(SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0001 + i * 0x100), 80))))
        .collect();
    for path in &paths {
        memory.report(&mut memory.ask(path, now), Event::Acked, now);
    }
    (memory, paths)
}

fn path_memory(criterion: &mut Criterion) {
    let now = Instant::now();
    let (memory, paths) = full(now);
    let mut group = criterion.benchmark_group("path_memory");
    let mut next = paths.iter().cycle();
    group.bench_function("ask_one_capable", |bencher| {
        bencher.iter(|| memory.ask(black_box(&paths[7]), now).advice());
    });
    group.bench_function("ask_of_4096_capable", |bencher| {
        bencher.iter(|| memory.ask(next.next().expect("a cycle"), now).advice());
    });
    group.bench_function("ask_and_report_acked", |bencher| {
        bencher.iter(|| memory.report(&mut memory.ask(black_box(&paths[7]), now), Event::Acked, now));
    });
    let failed = Path::new(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 80)));
    memory.report(&mut memory.ask(&failed, now), Event::Refused, now);
    group.bench_function("ask_failed", |bencher| {
        bencher.iter(|| memory.ask(black_box(&failed), now).advice());
    });
    let v6 = Path::new(SocketAddr::from((Ipv6Addr::LOCALHOST, 80)))
        .with_local(Ipv6Addr::LOCALHOST.into())
        .with_interface("eth0");
    memory.report(&mut memory.ask(&v6, now), Event::Acked, now);
    group.bench_function("ask_capable_v6_bound", |bencher| {
        bencher.iter(|| memory.ask(black_box(&v6), now).advice());
    });
    group.bench_function("unknown_ask_and_report_unused", |bencher| {
        let unknown = Path::new(SocketAddr::from((Ipv4Addr::new(203, 0, 113, 1), 80)));
        bencher.iter(|| memory.report(&mut memory.ask(black_box(&unknown), now), Event::Unused, now));
    });
    let null = PathMemory::with_store(NullStore::default(), Settings::default());
    group.bench_function("null_ask_and_report_acked", |bencher| {
        bencher.iter(|| null.report(&mut null.ask(black_box(&paths[7]), now), Event::Acked, now));
    });
    // Every put of a new path makes a full shelf give one up.
    let crowded = PathMemory::with_store(MemoryStore::default(), Settings::default());
    let mut host = 0_u64;
    group.bench_function("new_path_into_a_full_store", |bencher| {
        bencher.iter(|| {
            host = host.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let address = Ipv6Addr::from_bits(u128::from(host) << 64 | 1);
            let path = Path::new(SocketAddr::from((address, 80)));
            crowded.report(&mut crowded.ask(&path, now), Event::Acked, now);
        });
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                black_box(memory.ask(&paths[9], now).advice());
            }
        });
        group.bench_function("ask_one_capable_contended", |bencher| {
            bencher.iter(|| memory.ask(black_box(&paths[7]), now).advice());
        });
        stop.store(true, Ordering::Relaxed);
    });
    group.finish();
}

criterion_group!(benches, path_memory);
criterion_main!(benches);
