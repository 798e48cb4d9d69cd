//! Who may make a lab, and what those are told who may not.
//!
//! `tests/rootless` runs this binary, and the others, as an ordinary user.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::env;
use std::process::{Command, ExitCode};
use std::thread;

use tfo_lab::{Lab, LabError, check, enter_user_namespace};

/// Makes the binary try something before the tests' `main` has entered a namespace, and print what came of it.
const PROBE: &str = "TFO_LAB_PROBE";

fn main() -> ExitCode {
    match env::var(PROBE).as_deref() {
        Ok("with-threads") => {
            let (_sender, receiver) = std::sync::mpsc::channel::<()>();
            thread::spawn(move || receiver.recv());
            report(enter_user_namespace())
        }
        Ok("without-entering") => report(Lab::builder().build().map(drop)),
        Ok("entering") => report(enter_user_namespace().and_then(|()| check())),
        _ => tfo_lab::test::main(&[
            ("entering_again_is_harmless", entering_again_is_harmless),
            ("a_child_says_what_happened", a_child_says_what_happened),
        ]),
    }
}

fn report(result: Result<(), LabError>) -> ExitCode {
    match result {
        Ok(()) => println!("ok"),
        Err(error) => println!("{error}"),
    }
    ExitCode::SUCCESS
}

fn entering_again_is_harmless() {
    enter_user_namespace().unwrap();
    thread::spawn(|| enter_user_namespace().unwrap()).join().unwrap();
    check().unwrap();
}

fn a_child_says_what_happened() {
    // Whoever runs this may make labs by now, and so may a child.
    let output = Command::new(env::current_exe().unwrap()).env(PROBE, "entering").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok");
}
