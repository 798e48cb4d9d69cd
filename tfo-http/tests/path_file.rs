//! The file store: it outlives the process, is shared, and takes nothing from a bad file.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use tfo_http::path::{
    Advice, Event, FileStore, FileWarning, NetworkId, Path, PathMemory, PathState, Settings,
};

struct Process {
    memory: PathMemory,
    store: FileStore,
    warning: Option<FileWarning>,
    now: Instant,
    wall: SystemTime,
}

impl Process {
    fn start(file: &PathBuf, wall: SystemTime) -> Self {
        let now = Instant::now() + Duration::from_secs(100_000);
        let (store, warning) = FileStore::open(file, now, wall);
        let memory = PathMemory::with_store(store.clone(), Settings::default());
        Self { memory, store, warning, now, wall }
    }

    fn request(&self, path: &Path, event: Event) -> Advice {
        let mut ticket = self.memory.ask(path, self.now);
        self.memory.report(&mut ticket, event, self.now);
        ticket.advice()
    }

    fn state(&self, path: &Path) -> Option<PathState> {
        self.memory.snapshot(self.now).paths.iter().find(|one| one.path == *path).map(|one| one.state)
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.wall += time;
    }

    fn sync(&self) -> Option<FileWarning> {
        self.store.sync(self.now, self.wall).expect("written")
    }
}

fn path(i: u32) -> Path {
    Path::new(SocketAddr::from((Ipv4Addr::from_bits(0xc000_0200 + i * 0x100), 80)))
}

fn scene() -> (tempfile::TempDir, PathBuf, SystemTime) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("paths.json");
    (directory, file, SystemTime::now())
}

#[test]
fn short_processes_learn_together() {
    let (_directory, file, wall) = scene();
    let odd = Path::new("[fe80::1%7]:8080".parse().unwrap())
        .with_local("fe80::2".parse().unwrap())
        .with_interface("eth0")
        .with_network(NetworkId::new(u64::MAX));
    for (second, expected) in [(0, Advice::Ride), (1, Advice::Ride), (2, Advice::Avoid), (3, Advice::Ride)] {
        let process = Process::start(&file, wall + Duration::from_secs(second));
        assert!(process.warning.is_none());
        // One request in each: the strikes are counted over processes, and so is the back-off.
        assert_eq!(process.request(&path(1), Event::Silent), expected, "{second}");
        process.request(&odd, Event::Acked);
        assert!(process.sync().is_none());
    }
    let process = Process::start(&file, wall + Duration::from_secs(60));
    assert_eq!(process.state(&odd), Some(PathState::Capable));
    assert_eq!(process.state(&path(1)), Some(PathState::Failed));
    // After an hour it is not Capable any more.
    let process = Process::start(&file, wall + Duration::from_secs(3700));
    assert_eq!(process.state(&odd), Some(PathState::Unknown));
}

/// The file of a memory that is only dropped; with it, the round-trip time.
#[test]
fn a_memory_in_a_file_survives_by_itself() {
    let (_directory, file, _) = scene();
    for process in 0..2 {
        let (memory, warning) = PathMemory::in_file(&file);
        assert!(warning.is_none());
        let now = Instant::now();
        let mut ticket = memory.ask(&path(1), now);
        let rtt = Duration::from_millis(70);
        assert_eq!((ticket.is_proven(), ticket.rtt()), (process > 0, (process > 0).then_some(rtt)));
        memory.report(&mut ticket, Event::Acked, now);
        memory.report_rtt(&ticket, rtt, now);
        drop(memory.clone());
        assert_eq!(file.exists(), process > 0, "only the last clone writes");
    }
    fs::write(&file, "not a path memory").unwrap();
    let (memory, warning) = PathMemory::in_file(&file);
    assert!(matches!(warning, Some(FileWarning::Corrupt(_))));
    drop(memory);
    assert!(PathMemory::in_file(&file).1.is_none(), "rewritten");
}

#[test]
fn a_round_trip_is_kept_within_bounds_and_a_file_without_one_is_read() {
    let (_directory, file, wall) = scene();
    let write = |rtt: &str| {
        let at = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let text = format!(
            r#"{{"format":"tfo-http path memory","version":1,"paths":[{{"remote":"192.0.3.0:80","state":"capable","at":{at},"time":{at}{rtt}}}]}}"#
        );
        fs::write(&file, text).unwrap();
        let process = Process::start(&file, wall);
        assert!(process.warning.is_none());
        assert_eq!(process.state(&path(1)), Some(PathState::Capable));
        process.memory.snapshot(process.now).paths[0].rtt
    };
    assert_eq!(write(""), None);
    assert_eq!(write(r#","rtt":70000"#), Some(Duration::from_millis(70)));
    assert_eq!(write(r#","rtt":4294967295"#), Some(Duration::from_secs(1)));
    // After an hour it may be another.
    assert_eq!(Process::start(&file, wall).memory.snapshot(Instant::now()).paths.len(), 1);
    let later = Process::start(&file, wall + Duration::from_secs(3700));
    assert_eq!(later.memory.ask(&path(1), later.now).rtt(), None);
}

#[test]
fn concurrent_processes_lose_nothing_and_the_newer_report_wins() {
    let (_directory, file, wall) = scene();
    let (one, mut two) = (Process::start(&file, wall), Process::start(&file, wall));
    one.request(&path(1), Event::Acked);
    one.request(&path(3), Event::Acked);
    two.wait(Duration::from_secs(1));
    two.request(&path(2), Event::Refused);
    two.request(&path(3), Event::Refused);
    two.sync();
    one.sync();
    assert_eq!(one.state(&path(2)), Some(PathState::Failed), "taken over");
    assert_eq!(one.state(&path(3)), Some(PathState::Failed), "the newer");
    two.sync();
    assert_eq!(two.state(&path(1)), Some(PathState::Capable));
    let three = Process::start(&file, wall + Duration::from_secs(1));
    assert_eq!(three.memory.snapshot(three.now).paths.len(), 3);

    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let file = file.clone();
            std::thread::spawn(move || {
                for i in 0..10 {
                    let process = Process::start(&file, wall + Duration::from_secs(2));
                    assert!(process.warning.is_none(), "never seen half written");
                    process.request(&path(100 + thread * 10 + i), Event::Acked);
                    process.sync();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let last = Process::start(&file, wall + Duration::from_secs(2));
    assert_eq!(last.memory.snapshot(last.now).paths.len(), 83, "none is lost");
}

#[test]
fn what_was_forgotten_stays_forgotten() {
    let (_directory, file, wall) = scene();
    let mut process = Process::start(&file, wall);
    process.request(&path(1), Event::Refused);
    process.request(&path(2), Event::Refused);
    process.sync();
    process.wait(Duration::from_millis(500));
    process.memory.forget_path(&path(1), process.now);
    process.sync();
    let other = Process::start(&file, process.wall);
    assert_eq!((other.state(&path(1)), other.state(&path(2))), (None, Some(PathState::Failed)));
    process.memory.forget();
    process.request(&path(3), Event::Acked);
    process.sync();
    let other = Process::start(&file, process.wall);
    assert_eq!((other.state(&path(2)), other.state(&path(3))), (None, Some(PathState::Capable)));
    // What another process learns after that is taken over.
    other.request(&path(4), Event::Refused);
    other.sync();
    process.wait(Duration::from_millis(500));
    process.sync();
    assert_eq!(process.state(&path(4)), Some(PathState::Failed));
}

#[test]
fn a_clock_that_was_set_makes_no_back_off_longer() {
    let (_directory, file, wall) = scene();
    let year = Duration::from_secs(365 * 86_400);
    let process = Process::start(&file, wall);
    process.request(&path(1), Event::Refused);
    process.request(&path(2), Event::Acked);
    process.sync();
    let mut back = Process::start(&file, wall - year);
    assert_eq!(back.request(&path(1), Event::Acked), Advice::Avoid);
    assert_eq!(back.state(&path(2)), Some(PathState::Unknown), "it was ridden in the future");
    back.wait(Duration::from_secs(2));
    assert_eq!(back.request(&path(1), Event::Acked), Advice::Ride);
    // What is learnt now wins over what comes from the future.
    back.sync();
    assert_eq!(Process::start(&file, back.wall).state(&path(1)), Some(PathState::Capable));
    let ahead = Process::start(&file, wall + year);
    assert_eq!(ahead.request(&path(1), Event::Acked), Advice::Ride);
    let before_1970 = Process::start(&file, SystemTime::UNIX_EPOCH - year);
    assert_eq!(before_1970.request(&path(3), Event::Acked), Advice::Ride);
    before_1970.sync();
}

#[test]
fn a_bad_file_is_ignored_told_of_and_rewritten() {
    let (_directory, file, wall) = scene();
    let good = Process::start(&file, wall);
    good.request(&path(1), Event::Refused);
    good.sync();
    let whole = fs::read(&file).unwrap();
    let until = format!(
        "{{\"format\":\"tfo-http path memory\",\"version\":1,\"paths\":[{}]}}",
        "{\"remote\":\"192.0.2.1:80\",\"state\":\"failed\",\"at\":1,\"time\":18446744073709551615}"
    );
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("truncated", whole[..whole.len() / 2].to_vec()),
        ("foreign", b"[section]\nkey=value\n".to_vec()),
        ("foreign json", br#"{"format":"something else","version":1,"paths":[]}"#.to_vec()),
        ("newer", br#"{"format":"tfo-http path memory","version":2,"trails":{}}"#.to_vec()),
        ("binary", (0..=255).collect()),
        ("deep", vec![b'['; 100_000]),
        ("too large", vec![b' '; 9 << 20]),
    ];
    for (name, bytes) in cases {
        fs::write(&file, bytes).unwrap();
        let process = Process::start(&file, wall);
        let warning = process.warning.as_ref().unwrap_or_else(|| panic!("{name}: no warning"));
        assert!(warning.to_string().starts_with("the path memory's file "), "{name}: {warning}");
        assert_eq!(matches!(warning, FileWarning::Version(2)), name == "newer");
        assert_eq!(process.request(&path(1), Event::Acked), Advice::Ride, "{name}");
        assert!(process.sync().is_some(), "{name}: told again");
        let next = Process::start(&file, wall);
        assert!(next.warning.is_none(), "{name}: rewritten");
        assert_eq!(next.state(&path(1)), Some(PathState::Capable), "{name}");
    }
    fs::write(&file, until).unwrap();
    let process = Process::start(&file, wall);
    assert!(process.memory.snapshot(process.now).paths[0].retry_in <= Some(Duration::from_secs(2)));
    // Numbers at their end are counted on.
    let most = r#""at":1,"silent":255,"wasted":255,"history":65535,"results":255,"failures":255,"rests":255"#;
    for state in ["unknown", "capable", "failed", "resting"] {
        let paths = format!(r#"[{{"remote":"{}","state":"{state}",{most}}}]"#, path(1).remote());
        fs::write(&file, format!(r#"{{"format":"tfo-http path memory","version":1,"paths":{paths}}}"#))
            .unwrap();
        for event in [Event::Acked, Event::NotAcked, Event::Silent] {
            assert_eq!(
                Process::start(&file, wall).request(&path(1), event),
                Advice::Ride,
                "{state} {event:?}"
            );
        }
    }
}

#[test]
fn only_files_are_replaced() {
    let (directory, file, wall) = scene();
    let process = Process::start(&directory.path().to_path_buf(), wall);
    assert!(matches!(process.warning, Some(FileWarning::Unreadable(_))));
    assert!(process.store.sync(process.now, wall).is_err());
    let nowhere = Process::start(&directory.path().join("no/such/directory"), wall);
    assert!(nowhere.warning.is_none());
    nowhere.request(&path(1), Event::Acked);
    assert!(nowhere.store.sync(nowhere.now, wall).is_err());
    assert_eq!(nowhere.state(&path(1)), Some(PathState::Capable), "nothing is lost");
    #[cfg(unix)]
    {
        let null = Process::start(&PathBuf::from("/dev/null"), wall);
        assert!(null.store.sync(null.now, wall).is_err());
        let link = directory.path().join("link");
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let process = Process::start(&link, wall);
        process.request(&path(1), Event::Acked);
        process.sync();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(Process::start(&file, wall).state(&path(1)), Some(PathState::Capable));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "it tells which addresses were visited");
    }
}

#[test]
fn a_full_file_is_bounded() {
    let (_directory, file, wall) = scene();
    for round in 0..2 {
        let process = Process::start(&file, wall + Duration::from_secs(round));
        for i in 0..10_000 {
            process.request(&path(round as u32 * 10_000 + i), Event::Acked);
        }
        process.sync();
    }
    let size = fs::metadata(&file).unwrap().len();
    println!("{size} bytes");
    assert!(size < 2 << 20);
    let last = Process::start(&file, wall + Duration::from_secs(2));
    assert!(last.memory.snapshot(last.now).paths.len() <= 8192);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A file that was damaged, or made by somebody who wants to harm.
    #[test]
    fn no_file_breaks_anything(
        at in any::<proptest::sample::Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..8),
        numbers in any::<(u64, u64, u8, u8, u16, u8, u8, u8)>(),
        state in proptest::sample::select(&["unknown", "capable", "failed", "resting"][..]),
    ) {
        let (_directory, file, wall) = scene();
        let (moment, time, silent, wasted, history, results, failures, rests) = numbers;
        let mut text = format!(
            r#"{{"format":"tfo-http path memory","version":1,"paths":[{{"remote":"192.0.3.0:80","state":"{state}","at":{moment},"time":{time},"silent":{silent},"wasted":{wasted},"history":{history},"results":{results},"failures":{failures},"rests":{rests}}}]}}"#
        ).into_bytes();
        let at = at.index(text.len());
        let end = (at + bytes.len()).min(text.len());
        text.splice(at..end, bytes);
        fs::write(&file, &text).unwrap();
        let mut process = Process::start(&file, wall);
        for event in [Event::NotAcked, Event::Silent, Event::Acked] {
            process.request(&path(1), event);
        }
        process.sync();
        prop_assert!(Process::start(&file, wall).warning.is_none());
        process.wait(Duration::from_secs(2 * 86_400));
        prop_assert_eq!(process.request(&path(1), Event::Acked), Advice::Ride);
    }
}
