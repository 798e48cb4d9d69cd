//! What a set of samples says, and how sure it is.

use serde::{Deserialize, Serialize};

/// Fewer samples than this have no bounds: not even their extremes hold the median with 95 %. Their spread
/// says nothing either.
const FEWEST: usize = 6;

/// A figure of a run: measured, or the reason why it is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[expect(clippy::exhaustive_enums, reason = "matched by the pages of this crate only")]
pub enum Figure {
    /// It was measured.
    Measured(Summary),
    /// It was not.
    Missing {
        /// Why not, to be printed in the place of the number.
        not_measured: String,
    },
}

/// Samples, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "the result file's own fields")]
pub struct Summary {
    /// How many samples.
    pub n: usize,
    /// Half of them are below.
    pub median: f64,
    /// The median's 95 % bounds, by order statistics: no distribution is assumed. Fewer than six
    /// samples have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<[f64; 2]>,
    /// 99 % of them are below; the largest where there are fewer than a hundred.
    pub p99: f64,
    /// The distance between the quartiles, as a share of the median.
    pub spread: f64,
}

impl Figure {
    /// Sums samples up. A spread above `bound` is a noisy machine, and no figure.
    pub fn of(samples: &[f64], bound: f64) -> Self {
        match Summary::of(samples) {
            None => Self::missing("no sample was taken"),
            Some(summary) if summary.n >= FEWEST && summary.spread > bound => Self::missing(format!(
                "noisy machine: the quartiles of {} samples are {:.0} % of the median apart, the bound is {:.0} %",
                summary.n,
                summary.spread * 100.0,
                bound * 100.0
            )),
            Some(summary) => Self::Measured(summary),
        }
    }

    /// The median of the ratios of samples that were taken as pairs, one beside the other.
    ///
    /// Its bounds say how far it can be trusted, so no spread makes it void.
    pub fn ratio(ours: &[f64], theirs: &[f64]) -> Self {
        let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        Self::of(&ratios, f64::INFINITY)
    }

    /// No figure.
    pub fn missing(why: impl Into<String>) -> Self {
        Self::Missing { not_measured: why.into() }
    }

    /// The summary, if it was measured.
    pub fn measured(&self) -> Option<&Summary> {
        match self {
            Self::Measured(summary) => Some(summary),
            Self::Missing { .. } => None,
        }
    }

    /// The median, if it was measured.
    pub fn median(&self) -> Option<f64> {
        self.measured().map(|summary| summary.median)
    }
}

impl Summary {
    /// `None` of no samples, and where one is no number.
    pub fn of(samples: &[f64]) -> Option<Self> {
        if samples.is_empty() || samples.iter().any(|sample| !sample.is_finite()) {
            return None;
        }
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let median = quantile(&sorted, 0.5);
        let spread = if median == 0.0 {
            0.0
        } else {
            (quantile(&sorted, 0.75) - quantile(&sorted, 0.25)) / median.abs()
        };
        let bounds = rank(n).map(|low| [sorted[low], sorted[n - 1 - low]]);
        // Nearest rank.
        let p99 = sorted[((n as f64 * 0.99).ceil() as usize).clamp(1, n) - 1];
        Some(Self { n, median, bounds, p99, spread })
    }
}

/// Linear between the two samples around it.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// The largest index such that the median is between it and its mirror with at least 95 %.
///
/// The number of samples below the median is binomial (n, ½), whatever they are drawn from.
fn rank(n: usize) -> Option<usize> {
    if n < FEWEST {
        return None;
    }
    // P(at most k of n are below), summed in logarithms: 2^-1000 is no number.
    let mut log = -(n as f64) * 2.0_f64.ln();
    let mut below = 0.0;
    for k in 0..n {
        below += log.exp();
        if below > 0.025 {
            return k.checked_sub(1);
        }
        log += ((n - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_known_samples() {
        let samples: Vec<_> = (1..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&samples).unwrap();
        assert_eq!((summary.n, summary.median, summary.p99), (100, 50.5, 99.0));
        // Tables of the sign test: ranks 40 and 61 of 100.
        assert_eq!(summary.bounds, Some([40.0, 61.0]));
        assert!((summary.spread - 49.5 / 50.5).abs() < 1e-12);
        // 10 and 21 of 30, 2 and 9 of 10, 1 and 6 of 6; five have none.
        for (n, low) in [(30, Some(9)), (10, Some(1)), (6, Some(0)), (5, None), (1, None), (5000, Some(2430))]
        {
            assert_eq!(rank(n), low, "{n}");
        }
    }

    #[test]
    fn the_bounds_hold_the_median_as_often_as_they_say() {
        // A skewed distribution whose median is 1, drawn 2,000 times.
        let mut state = 7413_u64;
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            -uniform.ln() / 2.0_f64.ln()
        };
        let held = (0..2000)
            .filter(|_| {
                let samples: Vec<_> = (0..30).map(|_| draw()).collect();
                let [low, high] = Summary::of(&samples).unwrap().bounds.unwrap();
                low <= 1.0 && 1.0 <= high
            })
            .count();
        assert!((1890..=1980).contains(&held), "{held} of 2000");
    }

    #[test]
    fn noise_is_no_figure_and_neither_is_nothing() {
        let noisy = Figure::of(&[1.0, 1.0, 2.0, 3.0, 3.0, 9.0], 0.25);
        let Figure::Missing { not_measured } = noisy else { panic!("{noisy:?}") };
        assert!(not_measured.starts_with("noisy machine: the quartiles of 6 samples"), "{not_measured}");
        assert_eq!(Figure::of(&[], 1.0).median(), None);
        assert_eq!(Figure::of(&[1.0, f64::NAN], 1.0).median(), None);
        assert_eq!(Figure::ratio(&[1.0, 4.0, 9.0], &[2.0, 2.0, 2.0]).median(), Some(2.0));
    }
}
