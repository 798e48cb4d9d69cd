//! Loss is not a middlebox: a path that loses packets goes on carrying rides, and is no slower than plain TCP.
//!
//! With `TFO_HOSTILE=full` the figures of 20 seeds go to `docs/results/`.

#![expect(clippy::unwrap_used, reason = "tests")]
#![cfg_attr(not(target_os = "linux"), allow(unused, reason = "no lab elsewhere"))]

mod support;

use std::fmt::Write as _;
use std::time::Duration;

use support::paths::{KINDS, Net, ROWS};
use support::report::{at_once, full, section};
use support::visits::{Visit, on_client, visit};
use tfo_http::{SynData, SynOutcome, TfoConnector};
use tfo_lab::lab_tests;

lab_tests! {
    /// Packets are lost in both directions, so a SYN goes unanswered nearly twice as often as they are. Four in a
    /// row, at 5 % once in 11,000 rides, put the path off for two seconds: that is a hundred of these requests, and
    /// a seed in which it happens falls short.
    fn lossy_paths_go_on_carrying_rides() {
        let (seeds, count) = if full() { (20, 300) } else { (3, 100) };
        let rates: [(f64, usize); 2] = [(0.01, 95), (0.05, 80)];
        let work: Vec<_> = rates.iter().flat_map(|rate| (0..seeds).map(move |seed| (*rate, seed))).collect();
        let results = at_once(8, &work, |((loss, _), seed)| {
            let (net, visits) = warm(*loss, *seed, count, false);
            let flows = net.lab.tap().flows();
            let rides = visits.iter().filter(|(tfo, _)| {
                let claimed = tfo.info.as_ref().unwrap().outcome() == SynOutcome::SynDataAcked;
                let seen = tfo.flows(&flows).iter().any(|flow| !flow.syn().payload().is_empty());
                assert!(!claimed || seen, "{tfo:?}");
                claimed
            });
            rides.count()
        });
        let mut text = format!("{count} connections on a warm path, {seeds} seeds; how many rode.\n\n\
            | lost | promised | least | each seed |\n|---|---|---|---|\n");
        for (loss, promised) in rates {
            let rides: Vec<_> = results.iter().zip(&work).filter(|(_, ((rate, _), _))| *rate == loss).map(|(rides, _)| *rides).collect();
            let least = *rides.iter().min().unwrap();
            let percent = 100.0 * least as f64 / count as f64;
            let each: Vec<_> = rides.iter().map(ToString::to_string).collect();
            writeln!(text, "| {} % | {promised} % | {percent:.1} % | {} |", loss * 100.0, each.join(", ")).unwrap();
        }
        section("Loss is not a middlebox", &text);
        for (rides, ((loss, promised), seed)) in results.iter().zip(&work) {
            // A hundred are fewer than the promise is made for: three standard deviations are allowed them.
            let share = if full() { *promised } else { promised - 10 };
            assert!(rides * 100 >= share * count as usize, "loss {loss}, seed {seed}: {rides} of {count}");
        }
    }

    /// All seeds together: with one, a second more or less is chance.
    fn a_fifth_lost_costs_no_more_than_plain_tcp() {
        let (seeds, count) = if full() { (20, 60) } else { (10, 10) };
        let work: Vec<u64> = (0..seeds).collect();
        let times = at_once(20, &work, |seed| {
            let (net, visits) = warm(0.2, *seed, count, true);
            let flows = net.lab.tap().flows();
            // Seven lost in a row are a minute: nobody waits for it.
            let took = |visit: &Visit| visit.took(&flows).unwrap_or(net.patience);
            visits.iter().map(|(tfo, plain)| (took(tfo), took(plain.as_ref().unwrap()))).collect::<Vec<_>>()
        });
        let (mut tfo, mut plain): (Vec<_>, Vec<_>) = times.into_iter().flatten().unzip();
        tfo.sort();
        plain.sort();
        let at = |times: &[Duration], percent: usize| times[times.len() * percent / 100];
        let mut text = format!("20 % lost; {} connections each, {seeds} seeds, in turn.\n\n\
            | | with TCP Fast Open | plain TCP |\n|---|---|---|\n", tfo.len());
        for percent in [50, 90] {
            writeln!(text, "| p{percent} | {:.1} ms | {:.1} ms |", at(&tfo, percent).as_secs_f64() * 1e3, at(&plain, percent).as_secs_f64() * 1e3).unwrap();
        }
        section("A fifth lost", &text);
        for percent in [50, 90] {
            // Few are mostly chance.
            let margin = if full() { Duration::ZERO } else { Duration::from_millis(1500) };
            assert!(at(&tfo, percent) <= at(&plain, percent) + margin, "{text}");
        }
    }
}

/// Requests on a path that was proven before it began to lose packets, and plain ones in turn if wanted.
fn warm(loss: f64, seed: u64, count: u64, with_plain: bool) -> (Net, Vec<(Visit, Option<Visit>)>) {
    let mut net = Net::new(&ROWS[0], false, seed);
    if !with_plain {
        // If both the answer and the ACK of the SYN-ACK are lost, a ride takes very long: the SYN-ACK goes again after
        // one second and three, and the kernel's timer of the answer has doubled as often.
        net.patience = Duration::from_secs(60);
    }
    net.lab.set_rtt(Duration::from_millis(10));
    let (tfo, mut plain) = (TfoConnector::new(), TfoConnector::new());
    plain.set_syn_data(SynData::Never);
    let visits = on_client(&net.lab.host("client"), |runtime| {
        let one = |connector, name: &str| {
            let visit = runtime.block_on(visit(&net, connector, &KINDS[0], name));
            if visit.result.is_err() && !with_plain {
                let flows = net.lab.tap().flows();
                let ladders: String = visit.flows(&flows).iter().map(ToString::to_string).collect();
                panic!("loss {loss}, seed {seed}: {visit:?}\n{ladders}");
            }
            visit
        };
        (0..3).for_each(|number| drop(one(&tfo, &format!("warm-{number}"))));
        net.lab.set_loss("client", "server", loss);
        net.lab.set_loss("server", "client", loss);
        let pair = |number| {
            let plain = with_plain.then(|| one(&plain, &format!("plain-{number}")));
            (one(&tfo, &format!("tfo-{number}")), plain)
        };
        (0..count).map(pair).collect()
    });
    (net, visits)
}
