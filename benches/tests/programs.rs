//! The programs, run as their users run them.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use benches::instructions::Committed;
use benches::result::{Results, SCHEMA, Set};
use tfo_lab::lab_tests;
use tfo_lab::test::need;

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

fn report(sets: &str, directory: &Path) -> (Results, String) {
    let out = directory.to_str().unwrap();
    let output = run(env!("CARGO_BIN_EXE_report"), &["--smoke", "--set", sets, "--out", out]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json = fs::read_to_string(directory.join("results.json")).unwrap();
    let schema = jsonschema::validator_for(&serde_json::from_str(SCHEMA).unwrap()).unwrap();
    let value = serde_json::from_str(&json).unwrap();
    let errors: Vec<_> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    (serde_json::from_str(&json).unwrap(), fs::read_to_string(directory.join("report.html")).unwrap())
}

/// The figures of one thing, by who was measured.
fn median(results: &Results, set: Set, what: &str, subject: &str) -> f64 {
    let entry = results.of(set, what).find(|entry| entry.subject == subject).unwrap();
    entry.value.median().unwrap_or_else(|| panic!("{what}, {subject}: {:?}", entry.value))
}

lab_tests! {
    fn a_run_measures_what_it_says() {
        need("curl");
        let directory = tempfile::tempdir().unwrap();
        let (results, page) = report("request_latency,hostile,memory", directory.path());
        let latency = |who| median(&results, Set::RequestLatency, "time of a request", who);
        // Wide: the machine may be busy. At 10 ms the one takes one round trip and the other two.
        assert!((9.5..19.0).contains(&latency("TFO warm")), "{}", latency("TFO warm"));
        assert!(latency("plain") > 19.5 && latency("TFO cold") > 19.5);
        let dropped = |who| {
            let mut entries = results.of(Set::Hostile, "following requests");
            entries.find(|entry| entry.at("path") == "SYN data dropped" && entry.subject == who).unwrap().value.median().unwrap()
        };
        assert!(dropped("curl --tcp-fastopen") > 1000.0, "the kernel learns nothing");
        assert!(dropped("tfo-http") < 900.0, "{}", dropped("tfo-http"));
        assert!(median(&results, Set::Memory, "remembered path", "tfo-http") > 50.0);
        assert!(page.contains("<svg") && page.contains("one round trip"));
        // Sets that were not asked for are nowhere.
        assert!(results.entries.iter().all(|entry| ![Set::Micro, Set::ConnectionCost].contains(&entry.set)));
        assert!(!page.contains("What a connection costs"));
    }

    fn costs_are_of_connections_that_rode() {
        let directory = tempfile::tempdir().unwrap();
        let (results, _) = report("connection_cost", directory.path());
        for who in ["tfo-http-server", "naive hyper"] {
            assert!(median(&results, Set::ConnectionCost, "server CPU", who) > 1.0);
        }
        for who in ["tfo-http", "HttpConnector", "tokio-tfo"] {
            assert!(median(&results, Set::ConnectionCost, "client CPU", who) > 1.0);
        }
        need("strace");
        let calls = median(&results, Set::ConnectionCost, "system calls", "tfo-http-server");
        assert!((4.0..20.0).contains(&calls), "{calls}");
        let calls = |who| median(&results, Set::ConnectionCost, "system calls of a client", who);
        assert!(calls("blocking sockets, TFO") < calls("tfo-http"));
    }

    fn restarts_fail_no_request() {
        let directory = tempfile::tempdir().unwrap();
        let (results, page) = report("restart", directory.path());
        if !Path::new(env!("CARGO_BIN_EXE_report")).with_file_name("tfo").is_file() {
            assert!(page.contains("not measured: the command is not there"));
            return;
        }
        let seen = |what, who| median(&results, Set::Restart, what, who);
        for (who, rides) in [("plain", false), ("TFO", true)] {
            assert!(seen("requests", who) > 10.0 && seen("failed", who) == 0.0, "{who}");
            assert_eq!(seen("in the SYN", who) > 0.0, rides, "{who}");
            // At least the round trip.
            assert!(seen("worst latency", who) >= 40.0, "{who}");
        }
        assert!(page.contains("2 restarts") && page.contains("Requests that fail while the server is restarted"));
    }

    fn what_is_missing_is_said_in_the_place_of_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let empty = directory.path().join("empty");
        fs::create_dir(&empty).unwrap();
        let out = directory.path().to_str().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_report"))
            .args(["--smoke", "--set", "micro", "--out", out])
            .env("PATH", &empty)
            .output()
            .unwrap();
        assert!(output.status.success());
        let results: Results =
            serde_json::from_str(&fs::read_to_string(directory.path().join("results.json")).unwrap()).unwrap();
        let counted: Vec<_> = results.of(Set::Micro, "instructions").collect();
        assert!(!counted.is_empty());
        for entry in counted {
            assert_eq!(entry.value.median(), None);
        }
        let page = fs::read_to_string(directory.path().join("report.html")).unwrap();
        assert!(page.contains("not measured: valgrind is not installed"));
    }

    fn the_gate_fails_at_a_doctored_number() {
        need("valgrind");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("instructions.json");
        let gate = |more: &[&str]| {
            // One of them: built for tests they take their time.
            let args = [&["--only", "ask_path", "--committed", file.to_str().unwrap()], more].concat();
            let output = run(env!("CARGO_BIN_EXE_gate"), &args);
            (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        // Numbers of this very build, whatever its profile.
        assert!(gate(&["--write"]).0);
        let (passes, said) = gate(&[]);
        assert!(passes, "{said}");
        let mut committed: Committed = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        // As if the operation had become 6 % dearer since.
        *committed.instructions.get_mut("ask_path").unwrap() /= 1.06;
        fs::write(&file, serde_json::to_string(&committed).unwrap()).unwrap();
        let (passes, said) = gate(&[]);
        assert!(!passes && said.contains("more than 5 % above"), "{said}");
        assert_eq!(said.matches("more than 5 % above").count(), 1, "{said}");
    }
}
