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
    /// The first flight is complete: its SYN goes out, with data or without.
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
        (P::Corked, E::Release) => P::Delivering,
        (P::Delivering, E::Won) => P::Open,
        (P::Delivering, E::WonWithRest) => P::Draining,
        (P::Draining, E::Drained) => P::Open,
        (P::Idle | P::Corked | P::Delivering | P::Draining, E::Fail) => P::Closed,
        // Nothing was sent, so nothing is: elsewhere a shutdown waits for Open, where it is the
        // socket's business.
        (P::Idle, E::Shutdown) => P::Closed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

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

    /// Every state with every event, as it is committed.
    #[test]
    fn the_matrix_is_the_committed_one() {
        let mut lines = vec![row("", PHASES.map(|phase| format!("{phase:?}")))];
        for event in EVENTS {
            let to =
                PHASES.map(|phase| next(phase, event).map_or_else(|| "-".to_owned(), |to| format!("{to:?}")));
            lines.push(row(&format!("{event:?}"), to));
        }
        let committed: Vec<_> = include_str!("states.txt").lines().collect();
        assert_eq!(committed, lines, "\n{}", lines.join("\n"));
    }

    fn row(name: &str, cells: [String; 6]) -> String {
        let mut line = format!("{name:<13}");
        cells.iter().for_each(|cell| write!(line, "{cell:<12}").unwrap());
        line.trim_end().to_owned()
    }

    /// The picture in the crate's documentation has exactly the table's arrows.
    #[test]
    fn the_picture_is_the_table() {
        let drawn: Vec<_> = include_str!("states.mmd")
            .lines()
            .filter_map(|line| line.trim().split_once(" --> "))
            .filter(|(from, _)| *from != "[*]")
            .map(|(from, rest)| format!("{from} --> {rest}"))
            .collect();
        let mut arrows = Vec::new();
        for from in PHASES {
            for event in EVENTS {
                if let Some(to) = next(from, event) {
                    arrows.push(format!("{from:?} --> {to:?} : {event:?}"));
                }
            }
        }
        assert_eq!(drawn, arrows, "\n{}", arrows.join("\n"));
    }

    #[test]
    fn nothing_leaves_closed_and_every_state_can_be_left_or_is_final() {
        for event in EVENTS {
            assert_eq!(next(Phase::Closed, event), None);
            assert_eq!(next(Phase::Open, event), None, "what comes after Open is the socket's business");
        }
    }
}
