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
    use super::*;
    use crate::matrix;

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

    #[test]
    fn matrix_and_picture_are_the_committed_ones() {
        let next = |from: &_, event: &_| -> Vec<_> {
            next(*from, *event).map(|to| format!("{to:?}")).into_iter().collect()
        };
        matrix::check(include_str!("phases.txt"), (11, 10), &PHASES, &STEPS, next);
        matrix::check_picture(include_str!("phases.mmd"), &PHASES, &STEPS, next);
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
