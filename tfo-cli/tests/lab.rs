//! `tfo` on a network with a round trip: what rides, what may not, and what everybody says of it.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{NO_STATE, PATIENCE, Ran, TFO, read_head, tfo};
use tfo_lab::test::Program;
use tfo_lab::{DropSynData, Flow, Host, Lab, Packet, Verdict, lab_tests};

const RTT: Duration = Duration::from_millis(20);
const PORT: u16 = 8080;

lab_tests! {
    fn repeat_visits_ride() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        // Three processes: the cookie is in the kernel, not in the program.
        let runs = [(); 3].map(|()| get(&lab, &["--json"]));
        let records: Vec<_> = runs.iter().flat_map(Ran::records).collect();
        assert_ridden(&records, &flows(&lab));
        // One process, three visits more: all ride.
        let records = get(&lab, &["--json", "-n", "3"]).records();
        assert!(records.iter().all(|record| record["outcome"] == "syn_data_acked"), "{records:?}");
    }

    fn with_tfo_off_the_same_questions_are_answered_by_no() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        get(&lab, &["-n", "2"]); // there is a cookie
        lab.tap().wait_quiet(Duration::from_millis(50), PATIENCE);
        lab.tap().clear();
        let records = get(&lab, &["--json", "-n", "3", "--tfo", "off"]).records();
        let flows = flows(&lab);
        assert_eq!((records.len(), flows.len()), (3, 3));
        for (record, flow) in records.iter().zip(&flows) {
            assert_eq!((&record["outcome"], &record["reason"]), (&"plain".into(), &"off".into()));
            assert_eq!((&record["saved_rtts"], &record["syn_data_bytes"]), (&0.into(), &0.into()));
            assert!(flow.syn().fast_open().is_none(), "not even a cookie is sent\n{flow}");
            assert!(ridden(record, flow).is_err());
        }
    }

    fn http2_rides_and_so_does_what_the_caller_allows() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        get(&lab, &[]);
        for (args, rides, saves) in [
            (&["--http2"] as &[_], true, true),
            (&["--http2", "--tfo", "off"], false, false),
            (&["--http2", "-X", "POST"], false, false),
            (&["--http2", "-d", "x", "--syn-data", "all"], true, false),
            (&["-X", "PUT", "--syn-data", "safe"], false, false),
            (&["-X", "PUT", "-d", "x", "--syn-data", "idempotent"], true, false),
            (&["-d", "x", "--syn-data", "idempotent"], false, false),
            (&["-d", "x", "--syn-data", "all"], true, false),
            (&["--syn-data", "never"], false, false),
        ] {
            let record = &get(&lab, &[&["--json"], args].concat()).records()[0];
            let flow = flows(&lab).pop().unwrap();
            let what = format!("{args:?}: {record}\n{flow}");
            assert_eq!(record["outcome"] == "syn_data_acked", rides, "{what}");
            assert_eq!((flow.request_delivered_in_syn(), flow.syn().payload().is_empty()), (rides, !rides), "{what}");
            assert!(record["saved_rtts"] == 1 || !saves, "{what}");
            assert!(!rides || saves || record["reason"] == "held" || record["handshake_rtt_us"].as_u64() > Some(30_000), "{what}");
            let version = if args[0] == "--http2" { "HTTP/2.0" } else { "HTTP/1.1" };
            assert_eq!(record["version"], version, "{what}");
        }
    }

    fn without_a_cookie_the_first_visit_rides_where_that_is_allowed() {
        for (network, rides) in [("10.0.0.0/8", true), ("192.0.2.0/24", false)] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let _serve = Serve::with(&lab, "0.0.0.0", &["--no-cookie"]);
            let record = &get(&lab, &["--json", "--no-cookie", network]).records()[0];
            let flow = flows(&lab).pop().unwrap();
            assert_eq!(record["outcome"] == "syn_data_acked", rides, "{record}");
            assert_eq!((flow.request_delivered_in_syn(), flow.syn().fast_open().is_none()), (rides, rides), "{flow}");
        }
    }

    fn the_environment_switches_it_off() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        get(&lab, &[]);
        let command = lab.host("client").command(TFO);
        let mut command = command.args(["get", "--json", &url(&lab)]).env("TFO_HTTP", "off");
        let record = &Ran::from(command.output().unwrap()).records()[0];
        assert_eq!((&record["outcome"], &record["reason"]), (&"plain".into(), &"off".into()));
        assert!(flows(&lab).pop().unwrap().syn().fast_open().is_none());
    }

    fn a_refused_request_that_must_not_be_repeated_says_that_it_may_have_been_executed() {
        for http2 in [false, true] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let serve = Serve::start(&lab);
            get(&lab, &[]);
            drop(serve);
            let mut args = vec!["-d", "pay=1", "--syn-data", "all"];
            args.extend(http2.then_some("--http2"));
            get(&lab, &args).assert_failed(7, "the server may have acted on the request");
            assert_eq!(flows(&lab).len(), 2, "it is not tried again");
        }
    }

    fn a_post_does_not_ride() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let server = echo(&lab.host("server"), 3);
        let runs = [&["--json"] as &[_], &["--json"], &["--json", "-d", "pay=1"]].map(|args| get(&lab, args));
        let record = &runs[2].records()[0];
        assert_eq!((&record["outcome"], &record["reason"]), (&"data_less".into(), &"not_replay_safe".into()), "{record}");
        assert_eq!((&record["saved_rtts"], &record["syn_data_bytes"]), (&0.into(), &0.into()), "{record}");
        let flow = &flows(&lab)[2];
        assert!(flow.syn().payload().is_empty() && flow.syn().fast_open().is_some(), "{flow}");
        let requests = server.join().unwrap();
        assert!(requests[2].starts_with(b"POST ") && requests[2].ends_with(b"pay=1"));
    }

    fn a_large_request_fills_the_syn_and_saves_nothing() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        get(&lab, &[]);
        let header = format!("X-Large: {}", "x".repeat(3000));
        let record = &get(&lab, &["--json", "-H", &header]).records()[0];
        assert_eq!((&record["outcome"], &record["reason"]), (&"syn_data_acked".into(), &"too_large".into()), "{record}");
        assert_eq!((&record["syn_data_bytes"], &record["saved_rtts"]), (&1420.into(), &0.into()), "{record}");
        assert!(record["first_flight_bytes"].as_u64() > Some(3000) && record["saved_us"] == 0, "{record}");
        assert_eq!(flows(&lab)[1].syn_data_acked(), 1420);
    }

    fn a_reused_connection_saves_once() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        get(&lab, &[]);
        let ran = get(&lab, &["--json", "--reuse", "-n", "3"]);
        let told: Vec<_> = ran.records().iter().map(|record| {
            (record["reused"].as_bool().unwrap(), record["saved_rtts"].as_u64().unwrap(), record["saved_us"] == 0)
        }).collect();
        assert_eq!(told, [(false, 1, false), (true, 0, true), (true, 0, true)], "{ran:?}");
        assert_eq!(flows(&lab).len(), 2);
    }

    fn lines_for_people_say_it_too() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        let ran = get(&lab, &["-n", "2"]);
        let lines: Vec<_> = ran.stderr.lines().collect();
        assert!(lines[0].contains("nothing in the SYN") && lines[0].contains("no cookie"), "{ran:?}");
        assert!(lines[1].contains("request in the SYN") && lines[1].contains("saved 1 round trip ("), "{ran:?}");
        assert_eq!(ran.stdout, "hellohello");
        assert!(!ran.stderr.contains("may have"), "{ran:?}");
    }

    fn a_server_that_gives_no_cookie_is_hinted_at() {
        let lab = Lab::builder().rtt(RTT).fastopen("server", 1).build().unwrap();
        let _serve = Serve::start(&lab);
        let hinted: Vec<_> = get(&lab, &["-n", "3"]).stderr.lines().map(|line| line.contains("may have TCP Fast Open off")).collect();
        assert_eq!(hinted, [false, true, true]);
    }

    fn what_was_learnt_of_a_path_survives_the_process() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("paths.json");
        let chosen: &[&str] = &["--json", "--path-memory", file.to_str().unwrap()];
        for (args, remembers) in [(chosen, true), (&["--json"], true), (&["--json", "--path-memory", "off"], false)] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let _serve = Serve::start(&lab);
            let state = tempfile::tempdir().unwrap();
            let get = || {
                let mut command = lab.host("client").command(TFO);
                command = command.env("XDG_STATE_HOME", state.path()).arg("get").args(args).arg(url(&lab));
                let ran: Ran = command.output().unwrap().into();
                let record = ran.records().remove(0);
                assert_eq!((record["status"].as_u64(), ran.stderr.as_str()), (Some(200), ""), "{ran:?}");
                record["reason"].as_str().unwrap_or_default().to_owned()
            };
            assert_eq!((get(), get()), ("no_cookie".to_owned(), String::new()), "{args:?}");
            lab.middlebox(DropSynData::new());
            let reasons: Vec<_> = (0..6).map(|_| get()).collect();
            // Capable after one ride: four may be lost in a row.
            let expected = |number| if remembers && number >= 4 { "avoided" } else { "silent" };
            assert!(reasons.iter().enumerate().all(|(number, reason)| reason == expected(number)), "{args:?}: {reasons:?}");
        }
    }

    fn a_hedge_goes_when_it_is_told_to() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        get(&lab, &[]);
        lab.middlebox(DropSynData::new());
        for (args, least, reason) in [
            (&["--hedge-delay", "600ms"] as &[_], 600, "silent"),
            (&["--no-hedge"], 1000, "retransmitted"), // by the kernel
            (&["--hedge-delay", "10ms"], 10, "silent"),
        ] {
            lab.tap().wait_quiet(Duration::from_millis(50), PATIENCE);
            lab.tap().clear();
            let record = get(&lab, &[&["--json"], args].concat()).records().remove(0);
            assert_eq!(record["reason"], reason, "{record}");
            assert_eq!(record["hedged"], reason == "silent", "{record}");
            let syns: Vec<_> = lab.tap().sent_by("client").into_iter().filter(|record| record.packet().is_syn()).map(|record| record.time()).collect();
            let gap = syns[1] - syns[0];
            assert!(gap >= Duration::from_millis(least) && (least > 500 || gap < Duration::from_millis(500)), "{gap:?}");
        }
    }

    fn silent_and_refused_addresses_end_in_time() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let serve = Serve::start(&lab);
        get(&lab, &[]);
        // No host has this address: its packets are lost.
        let begun = Instant::now();
        let client = lab.host("client");
        run(&client, &["get", "--connect-timeout", "300ms", "http://10.0.0.99/"]).assert_failed(28, "--connect-timeout");
        run(&client, &["get", "--max-time", "300ms", "http://10.0.0.99/"]).assert_failed(28, "--max-time");
        // With a cookie in the cache the failure shows when the request is sent.
        drop(serve);
        get(&lab, &["--json"]).assert_failed(7, "refused");
        lab.set_loss("client", "server", 1.0);
        let silent = get(&lab, &["--json", "--connect-timeout", "300ms"]);
        silent.assert_failed(28, "--connect-timeout");
        assert_eq!(silent.records()[0]["outcome"], "failed");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    fn a_name_that_nobody_answers_for_ends_in_time() {
        // In a lab nobody answers for names at all, or the system says so at once.
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let begun = Instant::now();
        let ran = run(&lab.host("client"), &["get", "--connect-timeout", "500ms", "http://name.example/"]);
        assert!([6, 28].contains(&ran.code), "{ran:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{ran:?}");
    }

    fn get_rides_to_nginx() {
        for (listen, rides) in [("fastopen=64", true), ("", false)] {
            let lab = Lab::builder().rtt(RTT).build().unwrap();
            let (server, files) = (lab.host("server"), tempfile::tempdir().unwrap());
            let served = format!("listen {PORT} {listen}; return 200 hello;");
            let _nginx = Program::nginx(&server, server.addr(PORT), files, &served);
            let records = get(&lab, &["--json", "-n", "3"]).records();
            let from_client = |flow: &Flow| flow.client().ip() == lab.host("client").ipv4();
            let flows: Vec<_> = flows(&lab).into_iter().filter(from_client).collect();
            if rides {
                assert_ridden(&records, &flows);
            } else {
                assert!(records.iter().all(|record| record["outcome"] == "cookie_requested"), "{records:?}");
                assert!(flows.iter().all(|flow| !flow.answered_before_any_further_client_packet()));
            }
        }
    }

    fn curl_rides_to_serve() {
        if !there("curl") {
            return;
        }
        for (args, rides) in [(&["--tcp-fastopen"] as &[_], true), (&[], false)] {
            let lab = Lab::builder().rtt(5 * RTT).build().unwrap();
            let _serve = Serve::start(&lab);
            for _ in 0..2 {
                let curl = lab.host("client").command("curl").args(["-sS"]).args(args).arg(url(&lab)).output().unwrap();
                assert_eq!(String::from_utf8_lossy(&curl.stdout), "hello", "{curl:?}");
            }
            let flow = &flows(&lab)[1];
            assert_eq!(flow.request_delivered_in_syn(), rides, "{flow}");
            assert_eq!(flow.answered_before_any_further_client_packet(), rides, "{flow}");
        }
    }

    fn a_request_that_is_withheld_when_serve_shall_end_is_answered() {
        if !there("curl") {
            return;
        }
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let serve = Serve::start(&lab);
        let (post, proof) = withheld_post(&lab);
        serve.terminate();
        std::thread::sleep(Duration::from_millis(500));
        // Nobody else is let in meanwhile.
        get(&lab, &["--tfo", "off"]).assert_failed(7, "refused");
        proof.store(true, Relaxed);
        // The SYN-ACK is repeated after a second at most, and so is its ACK.
        let post = post.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&post.stdout), "405", "{post:?}\n{}", lab.tap().ladder());
        assert_eq!(serve.exit_code(), Some(0));
    }

    fn a_client_that_is_never_proven_holds_up_the_end_of_serve_for_its_deadline() {
        if !there("curl") {
            return;
        }
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let serve = Serve::start(&lab);
        let begun = Instant::now();
        let (post, _) = withheld_post(&lab);
        serve.terminate();
        assert_eq!(serve.exit_code(), Some(0));
        let took = begun.elapsed();
        assert!((9..15).contains(&took.as_secs()), "{took:?}");
        let post = post.wait_with_output().unwrap();
        assert_eq!(post.status.code(), Some(56), "curl sees the reset: {post:?}");
    }

    fn serve_says_what_will_become_of_it() {
        for (bits, says) in [(3, "works"), (1, "fix: sysctl -w net.ipv4.tcp_fastopen=3"), (0, "fix: sysctl -w net.ipv4.tcp_fastopen=2")] {
            let lab = Lab::builder().fastopen("server", bits).build().unwrap();
            let serve = Serve::start(&lab);
            // Whatever it says, it serves, and says it once.
            assert_eq!(get(&lab, &["-n", "2"]).stdout, "hellohello");
            let said = serve.end();
            assert_eq!(said.matches(says).count(), 1, "{bits}: {said}");
        }
    }

    fn every_setting_of_both_sides_works_and_is_told() {
        for client in 0..4 {
            for server in 0..4 {
                let lab = Lab::builder().rtt(RTT).fastopen("client", client).fastopen("server", server).build().unwrap();
                let _serve = Serve::start(&lab);
                let ran = get(&lab, &["--json", "-n", "3"]);
                assert_eq!(ran.code, 0, "{client} {server}: {ran:?}");
                let told: Vec<_> = ran.records().iter().map(|record| {
                    assert_eq!(record["status"], 200);
                    let text = |name: &str| record[name].as_str().unwrap_or("").to_owned();
                    (text("outcome"), text("reason"), record["saved_rtts"].as_u64().unwrap())
                }).collect();
                let all = |outcome: &str, reason: &str, saved| (outcome.to_owned(), reason.to_owned(), saved);
                let asked = all("cookie_requested", "no_cookie", 0);
                let expected = match (client & 1 != 0, server & 2 != 0) {
                    (false, _) => vec![all("plain", "unsupported", 0); 3],
                    (true, false) => vec![asked; 3],
                    (true, true) => vec![asked, all("syn_data_acked", "", 1), all("syn_data_acked", "", 1)],
                };
                assert_eq!(told, expected, "client {client}, server {server}");
            }
        }
    }

    fn a_server_that_switches_off_is_told_of() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let _serve = Serve::start(&lab);
        get(&lab, &[]);
        lab.host("server").set_sysctl("net.ipv4.tcp_fastopen", 0).unwrap();
        let ran = get(&lab, &["--json"]);
        let record = &ran.records()[0];
        assert_eq!((ran.code, &record["outcome"], &record["reason"]), (0, &"syn_data_not_acked".into(), &"not_acked".into()));
        assert_eq!((&record["saved_rtts"], &record["saved_us"]), (&0.into(), &0.into()));
    }

    fn a_key_change_costs_no_ride_and_a_bad_file_is_loud() {
        const OLD: &str = "00000001-00000002-00000003-00000004";
        const NEW: &str = "00000005-00000006-00000007-00000008";
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys");
        fs::write(&file, OLD).unwrap();
        let mut serve = Serve::with(&lab, "0.0.0.0", &["--key-file", file.to_str().unwrap()]);
        get(&lab, &["-n", "2"]);

        // The cookie of before rides, and brings the new one.
        fs::write(&file, NEW).unwrap();
        serve.hang_up("cookie keys: read again");
        let alt = || lab.host("server").run(tfo_core::Counters::read).unwrap().passive_alt_key.unwrap();
        let before = alt();
        let records = get(&lab, &["--json", "-n", "2"]).records();
        assert!(records.iter().all(|record| record["outcome"] == "syn_data_acked"), "{records:?}");
        assert_eq!(alt() - before, 1, "the first with the old key, the second with the new one");

        // What is no key changes nothing, and is said at each time of asking.
        for bad in ["no key", &NEW[1..]] {
            fs::write(&file, bad).unwrap();
            serve.hang_up("cookie keys: the keys stay as they were");
            assert_eq!(get(&lab, &["--json"]).records()[0]["outcome"], "syn_data_acked");
        }
        fs::remove_file(&file).unwrap();
        serve.hang_up("the file cannot be read");
        assert_eq!(get(&lab, &["--json"]).records()[0]["outcome"], "syn_data_acked");

        // Another key, twice: the cookie is two changes old, and refused without harm.
        for key in ["00000009-00000009-00000009-00000009", "0000000a-0000000a-0000000a-0000000a"] {
            fs::write(&file, key).unwrap();
            serve.hang_up("cookie keys: read again");
        }
        let records = get(&lab, &["--json", "-n", "2"]).records();
        assert_eq!(records[0]["outcome"], "syn_data_not_acked", "{records:?}");
        assert_eq!(records[1]["outcome"], "syn_data_acked", "{records:?}");
        let said = serve.end();
        assert!(!said.contains("00000005") && !said.contains("00000001"), "no key is told: {said}");
    }

    fn derived_keys_are_shared_by_who_has_the_secret() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("secret");
        fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        let args = ["--key-secret-file", file.to_str().unwrap()];
        let serve = Serve::with(&lab, "0.0.0.0", &args);
        get(&lab, &[]);
        drop(serve);
        // Another process, the same keys: the cookie still rides.
        let serve = Serve::with(&lab, "0.0.0.0", &args);
        assert_eq!(get(&lab, &["--json"]).records()[0]["outcome"], "syn_data_acked");
        assert_eq!(serve.end().matches("cookie keys: cookies are made with ").count(), 1);
    }

    fn without_cookies_it_is_said_what_that_means() {
        let lab = Lab::builder().rtt(RTT).build().unwrap();
        let said = Serve::with(&lab, "0.0.0.0", &["--no-cookie"]).end();
        assert!(said.contains("answers wait") && said.contains("riding saves no round trip"), "{said}");
        let private = lab.host("server").ipv4().to_string();
        let said = Serve::with(&lab, &private, &["--no-cookie"]).end();
        assert!(said.contains("DANGER: no cookie is required here") && !said.contains("strangers"), "{said}");
    }

    fn the_demo_shows_what_it_claims() {
        let ran = tfo(&["demo", "--rtt", "20ms", "--requests", "3", "--json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let demo = ran.demo();
        assert_eq!((&demo["network"], &demo["requests"]), (&"lab".into(), &3.into()), "{demo}");
        assert_eq!((&demo["evidence_agrees"], &demo["summary"]["saved_visits"]), (&true.into(), &3.into()), "{demo}");
        let visits = demo["visits"].as_array().unwrap();
        assert_eq!(visits.len(), 8);
        for visit in visits {
            let rides = visit["repeat"] == true && visit["mode"] == "tfo";
            assert_eq!(visit["saved_rtts"], u64::from(rides), "{visit}");
            assert_eq!(visit["packets"]["delivered_in_syn"], rides, "{visit}");
            assert_eq!(visit["server_saw_syn_data"], rides, "{visit}");
        }
        let saved = demo["summary"]["saved_rtt_median_us"].as_i64().unwrap();
        assert!((10_000..40_000).contains(&saved), "about one round trip: {saved}");
        assert!(demo["claim"].as_str().unwrap().ends_with("saved on each of 3 repeat visits"), "{demo}");
    }

    fn the_demo_for_people_ends_with_its_claim() {
        let ran = tfo(&["demo", "--rtt", "10ms", "--requests", "1"]);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{ran:?}");
        let last = ran.stdout.lines().last().unwrap();
        assert!(last.starts_with("one round trip (1") && last.ends_with("saved on the repeat visit"), "{ran:?}");
        assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    }

    fn the_demo_makes_a_lab_for_ordinary_users_too() {
        let Some(ran) = as_ordinary_user(&["demo", "--json", "--rtt", "10ms", "--requests", "1"]) else { return };
        assert_eq!(ran.code, 0, "{ran:?}");
        let demo = ran.demo();
        if demo["network"] == "loopback" && !required() {
            eprintln!("\n!!! SKIPPED: {}\n", demo["why_loopback"]);
            return;
        }
        assert_eq!((&demo["network"], &demo["summary"]["saved_visits"]), (&"lab".into(), &1.into()), "{demo}");
    }

    fn the_demo_changes_no_setting_and_runs_without_a_lab() {
        // A host of a lab, as a machine on which the demo may not make a lab of its own.
        for (bits, rides) in [(1, false), (3, true)] {
            let lab = Lab::builder().fastopen("client", bits).build().unwrap();
            let host = lab.host("client");
            let before = host.sysctl("net.ipv4.tcp_fastopen").unwrap();
            let Some(ran) = without_tun(&host, &["demo", "--json", "--requests", "2"]) else { return };
            assert_eq!(ran.code, 0, "{ran:?}");
            let demo = ran.demo();
            assert_eq!(demo["network"], "loopback", "{demo}");
            assert!(demo["why_loopback"].as_str().unwrap().contains("/dev/net/tun") && demo["rtt_us"].is_null(), "{demo}");
            assert_eq!(demo["summary"]["saved_visits"], if rides { 2 } else { 0 }, "{demo}");
            let fixes = demo["problems"].as_array().unwrap().iter().filter_map(|problem| problem["fix"].as_str());
            assert_eq!(fixes.into_iter().any(|fix| fix == "sysctl -w net.ipv4.tcp_fastopen=3"), !rides, "{demo}");
            assert!(demo["claim"].as_str().unwrap().contains("loopback has no round trip worth saving"), "{demo}");
            assert_eq!(host.sysctl("net.ipv4.tcp_fastopen").unwrap(), before);
        }
    }
}

/// Runs `tfo` in a host.
fn run(host: &Host, args: &[&str]) -> Ran {
    host.command(TFO).env(NO_STATE.0, NO_STATE.1).args(args).output().unwrap().into()
}

/// Runs `tfo` as an ordinary user to whom `/dev/net/tun` is open; `None` where that cannot be arranged,
/// as for those who are ordinary users themselves.
fn as_ordinary_user(args: &[&str]) -> Option<Ran> {
    let arrange = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 || exit 99
        exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    if !there("unshare") || !there("setpriv") {
        return None;
    }
    // A user that may not read this directory cannot run the binary either.
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("tfo");
    fs::copy(TFO, &binary).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", arrange, "sh"]).arg(&binary).args(args);
    let ran: Ran = command.output().unwrap().into();
    (![1, 99].contains(&ran.code) || ran.stdout.starts_with('{')).then_some(ran)
}

/// Runs `tfo` where there is no `/dev/net/tun`, as in most containers; `None` where that cannot be
/// arranged.
fn without_tun(host: &Host, args: &[&str]) -> Option<Ran> {
    if !there("unshare") {
        return None;
    }
    let hide = "mount -t tmpfs none /dev/net && exec \"$@\"";
    let command =
        host.command("unshare").args(["--mount", "--propagation", "private", "sh", "-c", hide, "sh", TFO]);
    Some(command.args(args).output().unwrap().into())
}

fn url(lab: &Lab) -> String {
    format!("http://{}/", lab.host("server").addr(PORT))
}

/// `tfo get`, from the client to the server.
fn get(lab: &Lab, args: &[&str]) -> Ran {
    run(&lab.host("client"), &[&["get"], args, &[&url(lab)]].concat())
}

/// The connections so far, when all is quiet.
fn flows(lab: &Lab) -> Vec<Flow> {
    assert!(lab.tap().wait_quiet(Duration::from_millis(50), PATIENCE), "{}", lab.tap().ladder());
    lab.tap().flows_of(PORT)
}

/// The first visit asked for a cookie, the later ones rode.
fn assert_ridden(records: &[Value], flows: &[Flow]) {
    assert_eq!(records.len(), flows.len());
    assert_eq!((&records[0]["outcome"], &records[0]["saved_rtts"]), (&"cookie_requested".into(), &0.into()));
    assert!(!flows[0].answered_before_any_further_client_packet(), "{}", flows[0]);
    for (record, flow) in records.iter().zip(flows).skip(1) {
        ridden(record, flow).unwrap();
    }
}

/// Everybody's word for it, and that they mean the same connection.
fn ridden(record: &Value, flow: &Flow) -> Result<(), String> {
    let rtt = record["handshake_rtt_us"].as_u64().unwrap_or_default();
    let questions = [
        ("outcome", record["outcome"] == "syn_data_acked"),
        ("reason", record["reason"].is_null()),
        ("saved_rtts", record["saved_rtts"] == 1),
        ("saved_us", record["saved_us"] == rtt && rtt >= 20_000),
        ("first_flight_bytes", record["first_flight_bytes"] == record["syn_data_bytes"]),
        ("local_addr", record["local_addr"] == flow.client().to_string()),
        ("remote_addr", record["remote_addr"] == flow.server().to_string()),
        ("bytes in the SYN", record["syn_data_bytes"] == flow.syn().payload().len()),
        ("a request in the SYN", flow.syn().payload().starts_with(b"GET / HTTP/1.1\r\n")),
        ("delivered", flow.request_delivered_in_syn()),
        ("nothing but the SYN caused the answer", flow.answered_before_any_further_client_packet()),
    ];
    match questions.iter().find(|(_, yes)| !yes) {
        None => Ok(()),
        Some((question, _)) => Err(format!("not so: {question}\n{record}\n{flow}")),
    }
}

/// A running `tfo serve` with a page that says hello.
struct Serve {
    process: Child,
    /// What was read of it so far.
    said: String,
    _root: tempfile::TempDir,
}

impl Serve {
    fn start(lab: &Lab) -> Self {
        Self::with(lab, "0.0.0.0", &[])
    }

    fn with(lab: &Lab, ip: &str, args: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("index.html"), "hello").unwrap();
        let listen = format!("{ip}:{PORT}");
        let command = lab.host("server").command(TFO).args(["serve", "--listen", &listen]);
        let command = command.args(args).arg("--root").arg(root.path());
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, format!("listening on http://{listen}\n"));
        Self { process, said: String::new(), _root: root }
    }

    /// Sends SIGHUP, and waits until it says so.
    fn hang_up(&mut self, says: &str) {
        let kill = Command::new("sh").arg("-c").arg(format!("kill -HUP {}", self.process.id())).status();
        assert!(kill.unwrap().success());
        let stderr = self.process.stderr.as_mut().unwrap();
        let before = self.said.len();
        while !self.said[before..].contains(says) || !self.said.ends_with('\n') {
            // One at a time: what follows stays where it is.
            let mut byte = [0];
            stderr.read_exact(&mut byte).unwrap();
            self.said.push(byte[0].into());
        }
    }

    fn terminate(&self) {
        let kill = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.process.id())).status();
        assert!(kill.unwrap().success());
    }

    /// When it has ended by itself.
    fn exit_code(mut self) -> Option<i32> {
        self.process.wait().unwrap().code()
    }

    /// What it said on standard error.
    fn end(mut self) -> String {
        let _ = self.process.kill();
        let mut said = std::mem::take(&mut self.said);
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A POST in a SYN that serve has accepted, from a client whose further packets get through when the flag says
/// so. It prints the status.
fn withheld_post(lab: &Lab) -> (Child, Arc<AtomicBool>) {
    let curl = || {
        let command = lab.host("client").command("curl").args(["-sS", "--tcp-fastopen", "--max-time", "60"]);
        command.args(["-o", "/dev/null", "-w", "%{http_code}"]).arg(url(lab))
    };
    assert!(curl().output().unwrap().status.success(), "it brings the cookie");
    let before = flows(lab).len();
    let proof = Arc::new(AtomicBool::new(false));
    let proven = Arc::clone(&proof);
    lab.middlebox(move |packet: &Packet| {
        let further = packet.from_host() == Some("client") && packet.payload().is_empty() && !packet.is_syn();
        if further && !proven.load(Relaxed) { Verdict::Drop } else { Verdict::Pass }
    });
    let post = curl().args(["-d", "pay=1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let in_syn = |flow: &Flow| flow.syn_data_acked() > 0 && flow.syn().payload().starts_with(b"POST ");
    let came = lab.tap().wait_until(PATIENCE, |tap| tap.flows_of(PORT).iter().skip(before).any(in_syn));
    assert!(came, "{}", lab.tap().ladder());
    std::thread::sleep(Duration::from_millis(200));
    (post, proof)
}

/// A server that answers so many requests, and keeps what it was asked.
fn echo(host: &Host, connections: usize) -> JoinHandle<Vec<Vec<u8>>> {
    let listener = host.run(|| TcpListener::bind(("0.0.0.0", PORT))).unwrap();
    tfo_core::sockopt::set_fastopen(&listener, 16).unwrap();
    host.spawn(move || {
        let answer = |mut stream: TcpStream| {
            let mut request = read_head(&mut stream);
            let body = request.ends_with(b"pay=1") || !request.starts_with(b"POST");
            if !body {
                let mut rest = [0; 5];
                stream.read_exact(&mut rest).unwrap();
                request.extend_from_slice(&rest);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            request
        };
        (0..connections).map(|_| answer(listener.accept().unwrap().0)).collect()
    })
}

/// Whether the program is installed. Where the lab is required, its peers are too.
fn there(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin".into(), "/sbin".into()];
    let found = std::env::split_paths(&paths).chain(sbin).any(|path| path.join(program).exists());
    assert!(found || !required(), "{program} is not installed (TFO_LAB=require)");
    if !found {
        eprintln!("\n!!! SKIPPED: {program} is not installed\n");
    }
    found
}

fn required() -> bool {
    std::env::var_os("TFO_LAB").is_some_and(|value| value == "require")
}
