use std::fmt;
use std::net::SocketAddr;

use tfo_core::{Ability, Problem, Side, sockopt};

use super::TfoListener;

/// What TCP Fast Open will do for a listener; [`TfoListener::effect`]. `Display` is for the log of a
/// program that starts: one line, and one more for each problem, with the command that mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    address: SocketAddr,
    asked: bool,
    ability: Ability,
    queue: u32,
    gate: bool,
    cookie_less: bool,
    mute: bool,
    problems: Vec<Problem>,
}

impl Effect {
    pub(super) fn of(listener: &TfoListener) -> Self {
        let (support, rules) = (&listener.support, listener.admission.rules);
        let queue = sockopt::fastopen(&listener.listener).unwrap_or(0);
        let ability = match support.server {
            Ability::Unsupported => Ability::Unsupported,
            _ if queue == 0 => Ability::Off,
            ability => ability,
        };
        Self {
            address: listener.admission.address,
            asked: rules.fastopen,
            ability,
            queue,
            gate: rules.gate,
            cookie_less: rules.cookie_less,
            mute: rules.unproven_response == 0,
            problems: support.problems_of(Side::Server).copied().collect(),
        }
    }

    /// Whether data in the SYN is taken.
    pub fn ability(&self) -> Ability {
        self.ability
    }

    /// How many connections may be incomplete at a time, as the kernel has cut it; 0 if it is off.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Whether data is taken in a SYN without a cookie: by
    /// [`no_cookie`](crate::ListenerBuilder::no_cookie), or as the namespace says.
    pub fn is_cookie_less(&self) -> bool {
        self.cookie_less
    }

    /// Whether something may be answered before a connection is proven.
    pub fn answers_unproven(&self) -> bool {
        !self.mute
    }

    /// What stands in the way, or is worth knowing; [`Problem::fix`] is the command that mends it.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, queue, .. } = self;
        match self.ability {
            _ if !self.asked => {
                return write!(f, "{address}: TCP Fast Open is switched off for this listener");
            }
            Ability::Works => write!(f, "{address}: TCP Fast Open works, queue {queue}")?,
            Ability::Unknown => write!(f, "{address}: TCP Fast Open may work, queue {queue}")?,
            _ => write!(f, "{address}: TCP Fast Open does not work, all connections will be ordinary ones")?,
        }
        if !self.gate {
            write!(f, "\n  DANGER: the replay gate is off, whatever came in a SYN may be a replay")?;
        }
        if self.cookie_less && self.mute {
            write!(
                f,
                "\n  no cookie is required here: answers wait until the client has proven its address"
            )?;
        } else if self.cookie_less {
            write!(f, "\n  DANGER: no cookie is required here, and forged addresses are answered")?;
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
            if let Some(command) = problem.fix() {
                write!(f, "\n  fix: {command}")?;
            }
        }
        Ok(())
    }
}
