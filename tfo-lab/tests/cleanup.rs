//! A lab leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;
use std::time::{Duration, Instant};

use common::{Server, request};
use tfo_lab::{DropSynData, Lab};

/// Descriptors and threads of this process.
fn held() -> (usize, usize) {
    let count = |dir: &str| fs::read_dir(dir).unwrap().count();
    (count("/proc/self/fd"), count("/proc/self/task"))
}

fn use_a_lab(panics: bool) {
    let lab = Lab::builder().build().unwrap();
    let server = lab.host("server");
    let _serving = Server::start(&server, server.addr(80));
    lab.middlebox(DropSynData::new());
    request(&lab.host("client"), server.addr(80), b"x").unwrap();
    if panics {
        // Without the hook, which would print a backtrace.
        resume_unwind(Box::new("on purpose"));
    }
}

tfo_lab::lab_tests! {
    fn fifty_labs_leave_nothing_behind() {
        use_a_lab(false);
        // A thread that has been joined may take a moment to vanish from /proc.
        thread::sleep(Duration::from_millis(50));
        let before = held();
        let start = Instant::now();
        for round in 0..50 {
            let panics = round % 3 == 0;
            let result = catch_unwind(AssertUnwindSafe(|| use_a_lab(panics)));
            assert_eq!(result.is_err(), panics);
        }
        println!("50 labs in {:?}", start.elapsed());
        let deadline = Instant::now() + Duration::from_secs(5);
        while held() != before && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(held(), before);
    }

    fn a_host_that_outlives_its_lab_has_no_device() {
        let lab = Lab::builder().build().unwrap();
        let client = lab.host("client");
        let devices = || client.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        assert!(devices().contains("tun0"));
        drop(lab);
        assert!(!devices().contains("tun0"));
        assert!(devices().contains("lo:"));
    }
}
