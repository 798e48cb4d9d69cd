//! A `main` for test binaries that need a lab.
//!
//! A rootless lab must be entered before the process has a second thread, which the ordinary test harness
//! does not allow: such tests have `harness = false`, and [`lab_tests!`](crate::lab_tests).

use std::env;
use std::error::Error;
use std::iter;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::error::LabError;
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
/// in the environment they fail.
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
    let obstacle = possible.err().map(|error| reason(&error));
    if let Some(reason) = obstacle.as_ref().filter(|_| !args.list) {
        eprintln!(
            "\n!!! NO LAB, NOTHING IS TESTED: {reason}\n!!! set {SWITCH}=require to make this a failure\n"
        );
    }
    let trials = tests.iter().map(|&(name, test)| trial(name, test, obstacle.clone())).collect();
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(name: &'static str, test: fn(), obstacle: Option<String>) -> Trial {
    let required = env::var_os(SWITCH).is_some_and(|value| value == "require");
    Trial::ignorable_test(name, move || match obstacle {
        None => {
            test();
            Ok(Completion::Completed)
        }
        Some(reason) if required => Err(Failed::from(reason)),
        Some(reason) => Ok(Completion::ignored_with(reason)),
    })
}

/// The error with all its causes.
fn reason(error: &LabError) -> String {
    let causes = iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text} ({cause})"))
}
