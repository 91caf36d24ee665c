//! Medians, percentiles and the verdicts of the benchmark. Pure.

use std::time::Duration;

use crate::report::Case;

/// The most that a switchover's median may be, in bare hand-overs.
pub const RATIO_LIMIT: f64 = 4.0;
/// Above this the machine is too busy for the comparison to mean anything.
const BARE_LIMIT: Duration = Duration::from_millis(100);

/// The middle value; of an even number, the mean of the middle two.
#[must_use]
pub fn median(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let middle = sorted.len() / 2;
    match (sorted.get(middle), sorted.len() % 2) {
        (None, _) => Duration::ZERO,
        (Some(value), 1) => *value,
        (Some(value), _) => (*value + sorted[middle - 1]) / 2,
    }
}

/// The value that 95 of 100 do not exceed, by nearest rank.
#[must_use]
pub fn p95(values: &[Duration]) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * 95).div_ceil(100);
    rank.checked_sub(1).and_then(|i| sorted.get(i)).copied().unwrap_or_default()
}

fn ms(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

fn series(name: &str, values: &[Duration]) -> Case {
    let mut case = Case::new(name).figure("median", ms(median(values)), "ms").figure(
        "p95",
        ms(p95(values)),
        "ms",
    );
    for (i, value) in values.iter().enumerate() {
        case = case.figure(&format!("run-{}", i + 1), ms(*value), "ms");
    }
    case.require(!values.is_empty(), || "nothing was measured".to_owned())
}

/// The report of pairs of write outages.
#[must_use]
pub fn cases(switchover: &[Duration], bare: &[Duration]) -> Vec<Case> {
    let (ours, theirs) = (median(switchover), median(bare));
    let ratio = if theirs.is_zero() { f64::INFINITY } else { ms(ours) / ms(theirs) };
    vec![
        series("planned-switchover", switchover),
        series("bare-hand-over", bare).require(theirs <= BARE_LIMIT, || {
            format!(
                "void: the bare hand-over's median is {theirs:?}, wanted at most {BARE_LIMIT:?}; \
                 this machine is too busy to compare"
            )
        }),
        Case::new("ratio")
            .figure("median-to-median", if ratio.is_finite() { ratio } else { -1.0 }, "ratio")
            .figure("limit", RATIO_LIMIT, "ratio")
            .require(ratio <= RATIO_LIMIT, || {
                format!(
                    "a switchover's median is {ratio:.2} bare hand-overs, allowed {RATIO_LIMIT}"
                )
            }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;

    fn spans(values: &[u64]) -> Vec<Duration> {
        values.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&spans(&[5, 1, 3])), Duration::from_millis(3));
        assert_eq!(median(&spans(&[4, 1, 3, 2])), Duration::from_micros(2500));
        assert_eq!(median(&[]), Duration::ZERO);
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(p95(&spans(&hundred)), Duration::from_millis(95));
        assert_eq!(p95(&spans(&[1, 2, 3])), Duration::from_millis(3));
        assert_eq!(p95(&[]), Duration::ZERO);
    }

    #[test]
    fn the_verdicts_are_the_limits() {
        let verdicts = |ours: &[u64], theirs: &[u64]| {
            cases(&spans(ours), &spans(theirs)).iter().map(|c| c.verdict).collect::<Vec<_>>()
        };
        assert_eq!(verdicts(&[240], &[60]), [Verdict::Pass, Verdict::Pass, Verdict::Pass]);
        assert_eq!(verdicts(&[241], &[60]), [Verdict::Pass, Verdict::Pass, Verdict::Fail]);
        assert_eq!(verdicts(&[100], &[101]), [Verdict::Pass, Verdict::Fail, Verdict::Pass]);
        assert_eq!(verdicts(&[], &[]), [Verdict::Fail, Verdict::Fail, Verdict::Fail]);
    }
}
