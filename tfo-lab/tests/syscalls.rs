//! The counter counts: exactly, per thread, and one call more is seen.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};

use tfo_lab::{lab_tests, syscalls};

lab_tests! {
    fn calls_of_a_section_are_counted_exactly() {
        let trace = syscalls::trace_test("calls_of_a_section_are_counted_exactly", || {
            syscalls::section("one", || drop(File::open("/dev/null")));
            syscalls::section("two", || (drop(File::open("/dev/null")), drop(File::open("/dev/null"))));
            let thread = std::thread::spawn(|| {
                syscalls::section("thread", || drop(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))));
            });
            drop(File::open("/dev/null"));
            thread.join().unwrap();
        });
        assert_eq!(trace.section("one").unwrap().counts().to_string(), "close 1, openat 1");
        assert_eq!(trace.section("two").unwrap().counts().to_string(), "close 2, openat 2");
        let thread = trace.section("thread").unwrap();
        assert_eq!(thread.counts().to_string(), "bind 1, close 1, socket 1", "{thread}");
        assert!(trace.section("three").is_none());
    }
}
