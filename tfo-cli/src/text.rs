//! Numbers for people.

use std::time::Duration;

/// Milliseconds, one decimal: `50.9 ms`.
pub(crate) fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// A time that was saved. On loopback it rounds to nothing, but nothing it is not.
pub(crate) fn saved(time: Duration) -> String {
    match time.as_micros() {
        0..50 => "under 0.1 ms".to_owned(),
        _ => millis(time),
    }
}

/// A size: `5 B`, `12.3 kB`, `1.5 MB`.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(millis(Duration::from_micros(50_940)), "50.9 ms");
        assert_eq!(saved(Duration::from_micros(20)), "under 0.1 ms");
        assert_eq!(saved(Duration::from_micros(50)), "0.1 ms");
        let sizes = [0, 9_999, 10_000, 1_500_000, 2_000_000_000].map(bytes);
        assert_eq!(sizes, ["0 B", "9999 B", "10.0 kB", "1.5 MB", "2.0 GB"]);
    }
}
