//! Single operations: nanoseconds, and instructions where valgrind is there to count them.

use crate::instructions;
use crate::ops::Op;
use crate::result::{Entry, Set};
use crate::run::{Effort, Progress};
use crate::stats::Figure;

/// A wider middle half than this share of the median is noise.
const NOISE: f64 = 0.25;

/// Runs the set.
pub fn run(effort: Effort, progress: &Progress) -> Vec<Entry> {
    let (rounds, times) = match effort {
        Effort::Smoke => (6, 100),
        Effort::Quick => (50, 2000),
        Effort::Full => (200, 5000),
    };
    progress.begin("micro", (rounds + Op::ALL.len()) as u64);
    let mut samples = vec![Vec::new(); Op::ALL.len()];
    // In each round every operation once.
    for round in 0..=rounds {
        for (op, taken) in Op::ALL.into_iter().zip(&mut samples) {
            let nanos = op.run(times).as_secs_f64() * 1e9 / f64::from(times);
            // The first round warms up.
            if round > 0 {
                taken.push(nanos);
            }
        }
        progress.step();
    }
    let mut entries = Vec::new();
    for (op, taken) in Op::ALL.into_iter().zip(&samples) {
        entries.push(Entry::new(Set::Micro, "time", op.name(), "ns", Figure::of(taken, NOISE)));
    }
    let program = std::env::current_exe().map_err(|error| format!("no path of this program: {error}"));
    for op in Op::ALL {
        let counted =
            program.as_ref().map_err(Clone::clone).and_then(|program| instructions::count(program, op));
        let value = counted.map_or_else(Figure::missing, |count| Figure::of(&[count], f64::INFINITY));
        entries.push(Entry::new(Set::Micro, "instructions", op.name(), "instructions", value));
        progress.step();
    }
    entries
}
