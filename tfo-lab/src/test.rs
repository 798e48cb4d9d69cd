//! A `main` for test binaries that need a lab.
//!
//! A rootless lab must be entered before the process has a second thread, which the ordinary test harness
//! does not allow: such tests have `harness = false`, and [`lab_tests!`](crate::lab_tests).

mod program;

use std::any::Any;
use std::env;
use std::panic::{catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

pub use program::Program;

use crate::{check, enter_user_namespace};

/// The environment variable that turns a missing lab from ignored tests into failed ones: `TFO_LAB=require`.
const SWITCH: &str = "TFO_LAB";

/// Functions as tests, each in a lab of its own making; it writes the `main` of a test binary.
///
/// ```no_run
/// tfo_lab::lab_tests! {
///     /// Documentation is allowed.
///     fn hosts_have_names() {
///         let lab = tfo_lab::Lab::builder().build().expect("a lab");
///         assert_eq!(lab.host("client").name(), "client");
///     }
/// }
/// ```
///
/// They run one after the other unless `--test-threads` says otherwise: several labs at once disturb each
/// other's times. If no lab can be made they are ignored, with the reason on stderr; with `TFO_LAB=require`
/// in the environment they fail. So does one that [needs](crate::test::need) a program that is missing.
#[macro_export]
macro_rules! lab_tests {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$attribute])* fn $name() $body)*

        fn main() -> ::std::process::ExitCode {
            $crate::test::main(&[$((stringify!($name), $name as fn())),*])
        }
    };
}

/// Runs the tests; what [`lab_tests!`](crate::lab_tests) calls. It must be the first thing in `main`.
pub fn main(tests: &[(&'static str, fn())]) -> ExitCode {
    let possible = enter_user_namespace().and_then(|()| check());
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(1);
    let obstacle = possible.err().map(|error| format!("{error:?}"));
    if let Some(reason) = obstacle.as_ref().filter(|_| !args.list) {
        eprintln!(
            "\n!!! NO LAB, NOTHING IS TESTED: {reason}\n!!! set {SWITCH}=require to make this a failure\n"
        );
    }
    let trials = tests.iter().map(|&(name, test)| trial(name, test, obstacle.clone())).collect();
    libtest_mimic::run(&args, trials).exit_code()
}

/// Ends the calling test as ignored, with a reason; with `TFO_LAB=require` in the environment it fails.
///
/// Only for tests of [`lab_tests!`](crate::lab_tests); elsewhere it is a panic.
pub fn skip(reason: impl Into<String>) -> ! {
    // No message of a panic: the outcome says it.
    resume_unwind(Box::new(Skip(reason.into())))
}

/// The path of a program that the calling test needs; without the program the test is [skipped](skip).
///
/// `/usr/sbin` and `/sbin` are looked at too, which are not in every user's `PATH`.
pub fn need(program: &str) -> PathBuf {
    let paths = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&paths).chain(["/usr/sbin".into(), "/sbin".into()]);
    // An absolute path stays what it is when it is joined.
    let found = places.map(|place| place.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| skip(format!("{program} is not installed")))
}

struct Skip(String);

fn trial(name: &'static str, test: fn(), obstacle: Option<String>) -> Trial {
    Trial::ignorable_test(name, move || {
        let obstacle = match obstacle {
            None => catch_unwind(test).err(),
            Some(reason) => Some(Box::new(Skip(reason)) as Box<dyn Any + Send>),
        };
        match obstacle.map(|panic| panic.downcast::<Skip>()) {
            None => Ok(Completion::Completed),
            Some(Ok(skip)) if is_required() => Err(Failed::from(format!("{} ({SWITCH}=require)", skip.0))),
            Some(Ok(skip)) => Ok(Completion::ignored_with(skip.0)),
            Some(Err(panic)) => resume_unwind(panic),
        }
    })
}

fn is_required() -> bool {
    env::var_os(SWITCH).is_some_and(|value| value == "require")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_a_skip_and_says_so() {
        assert!(need("sh").is_file() && need("/bin/sh").is_file());
        let panic = catch_unwind(|| need("no-such-program")).unwrap_err();
        assert_eq!(panic.downcast::<Skip>().unwrap().0, "no-such-program is not installed");
    }
}
