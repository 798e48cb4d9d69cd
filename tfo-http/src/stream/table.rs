//! The states of a stream and the ways between them: the one list of what may follow what.

/// A state's name. The state itself, with what it owns, is [`super::State`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    Corked,
    Delivering,
    Draining,
    Open,
    Closed,
}

/// What moves a stream from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The application wrote bytes.
    Write,
    /// The first flight is complete, or waited for in vain: its SYN goes out, with data or without.
    Release,
    /// One attempt is the connection, and has all of the first flight.
    Won,
    /// One attempt is the connection, and the rest of the first flight has to follow.
    WonWithRest,
    /// The last byte of the first flight is in the kernel.
    Drained,
    /// The handshake, or what follows it, has failed; or a deadline has passed.
    Fail,
    /// The application has nothing more to write.
    Shutdown,
}

/// The table. `None`: the event does not occur in the state.
///
/// Reads and flushes that move nothing, the cork's arming and timers that have not fired are no
/// events. What happens within `Delivering` (SynSent, Guarded, Racing) is
/// [`Delivery`](super::delivery::Delivery)'s.
pub(super) const fn next(phase: Phase, event: Event) -> Option<Phase> {
    use {Event as E, Phase as P};
    Some(match (phase, event) {
        (P::Idle | P::Corked, E::Write) => P::Corked,
        // Of Idle: nobody has written, and somebody reads.
        (P::Idle | P::Corked, E::Release) => P::Delivering,
        (P::Delivering, E::Won) => P::Open,
        (P::Delivering, E::WonWithRest) => P::Draining,
        (P::Draining, E::Drained) => P::Open,
        (P::Delivering | P::Draining, E::Fail) => P::Closed,
        // Nothing was sent, so nothing is: elsewhere a shutdown waits for Open, where it is the
        // socket's business.
        (P::Idle, E::Shutdown) => P::Closed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix;

    const PHASES: [Phase; 6] =
        [Phase::Idle, Phase::Corked, Phase::Delivering, Phase::Draining, Phase::Open, Phase::Closed];
    const EVENTS: [Event; 7] = [
        Event::Write,
        Event::Release,
        Event::Won,
        Event::WonWithRest,
        Event::Drained,
        Event::Fail,
        Event::Shutdown,
    ];

    #[test]
    fn matrix_and_picture_are_the_committed_ones() {
        let next = |from: &_, event: &_| -> Vec<_> {
            next(*from, *event).map(|to| format!("{to:?}")).into_iter().collect()
        };
        matrix::check(include_str!("states.txt"), (13, 12), &PHASES, &EVENTS, next);
        matrix::check_picture(include_str!("states.mmd"), &PHASES, &EVENTS, next);
    }

    #[test]
    fn nothing_leaves_closed_and_every_state_can_be_left_or_is_final() {
        for event in EVENTS {
            assert_eq!(next(Phase::Closed, event), None);
            assert_eq!(next(Phase::Open, event), None, "what comes after Open is the socket's business");
        }
    }
}
