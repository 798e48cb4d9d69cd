//! Times that no clock can leave.

use std::time::Duration;

use tokio::time::Instant;

/// A deadline, a century hence at most: clocks and timers reach that far.
pub(crate) fn later(since: Instant, duration: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    since + duration.min(CENTURY)
}
