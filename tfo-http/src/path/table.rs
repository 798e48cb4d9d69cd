//! The phases of a path and the ways between them: the one list of what may follow what.

/// A phase's name. The phase itself, with what it owns, is [`super::controller::State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is known: at most two unanswered rides at a time.
    Unknown,
    /// Rides arrive.
    Capable,
    /// Rides are lost: not even the option, until the back-off is over.
    Failed,
    /// Rides are not lost but wasted: the option without data, until the back-off is over.
    Resting,
    /// A back-off is over: one canary at a time.
    Probing,
}

/// What moves a path from one phase to another. One event of the caller's may be a [`Step::Strike`]
/// or the [`Step::Out`] that it completes: which, is counted by the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A ride was acked.
    Acked,
    /// A ride was not acked, and more such are allowed.
    Wasted,
    /// A ride was not acked, and no more such are allowed.
    WastedOut,
    /// A SYN came to nothing, and more such are allowed.
    Strike,
    /// A SYN came to nothing, and no more such are allowed.
    Out,
    /// The back-off is over, and a canary goes.
    Due,
    /// The canary proved nothing: it went without data, or not at all.
    Vacated,
    /// What was known is too old, or was learnt on another network.
    Expired,
}

/// The table. `None`: the step does not occur in the phase, or changes nothing.
pub(super) const fn next(phase: Phase, step: Step) -> Option<Phase> {
    use {Phase as P, Step as S};
    Some(match (phase, step) {
        // Whichever ride it was: it is proof.
        (_, S::Acked) => P::Capable,
        (P::Unknown, S::Wasted | S::Strike) => P::Unknown,
        (P::Capable, S::Wasted | S::Strike) => P::Capable,
        (P::Resting, S::Strike) => P::Resting,
        (P::Unknown | P::Capable | P::Probing, S::WastedOut) => P::Resting,
        (P::Unknown | P::Capable | P::Resting | P::Probing, S::Out) => P::Failed,
        (P::Failed | P::Resting, S::Due) => P::Probing,
        (P::Probing, S::Vacated) => P::Probing,
        (P::Capable | P::Failed | P::Resting | P::Probing, S::Expired) => P::Unknown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const PHASES: [Phase; 5] =
        [Phase::Unknown, Phase::Capable, Phase::Failed, Phase::Resting, Phase::Probing];
    const STEPS: [Step; 8] = [
        Step::Acked,
        Step::Wasted,
        Step::WastedOut,
        Step::Strike,
        Step::Out,
        Step::Due,
        Step::Vacated,
        Step::Expired,
    ];

    /// Every phase with every step, as it is committed.
    #[test]
    fn the_matrix_is_the_committed_one() {
        let mut lines = vec![row("", PHASES.map(|phase| format!("{phase:?}")))];
        for step in STEPS {
            let to =
                PHASES.map(|phase| next(phase, step).map_or_else(|| "-".to_owned(), |to| format!("{to:?}")));
            lines.push(row(&format!("{step:?}"), to));
        }
        let committed: Vec<_> = include_str!("phases.txt").lines().collect();
        assert_eq!(committed, lines, "\n{}", lines.join("\n"));
    }

    fn row(name: &str, cells: [String; 5]) -> String {
        let mut line = format!("{name:<11}");
        cells.iter().for_each(|cell| write!(line, "{cell:<10}").unwrap());
        line.trim_end().to_owned()
    }

    /// The picture in the module's documentation has exactly the table's arrows.
    #[test]
    fn the_picture_is_the_table() {
        let drawn: Vec<_> = include_str!("phases.mmd")
            .lines()
            .filter_map(|line| line.trim().split_once(" --> "))
            .filter(|(from, _)| *from != "[*]")
            .map(|(from, rest)| format!("{from} --> {rest}"))
            .collect();
        let mut arrows = Vec::new();
        for from in PHASES {
            for step in STEPS {
                if let Some(to) = next(from, step) {
                    arrows.push(format!("{from:?} --> {to:?} : {step:?}"));
                }
            }
        }
        assert_eq!(drawn, arrows, "\n{}", arrows.join("\n"));
    }

    #[test]
    fn every_phase_leads_to_capable_and_only_a_canary_leaves_a_back_off_early() {
        for phase in PHASES {
            assert_eq!(next(phase, Step::Acked), Some(Phase::Capable));
        }
        assert_eq!(next(Phase::Failed, Step::Strike), None, "what was under way counts no more");
        assert_eq!(next(Phase::Failed, Step::Out), None);
    }
}
