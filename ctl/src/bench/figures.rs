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

/// The spans of one thing that happened, beside Patroni's where there are any: at most `limit` of theirs
/// where that is given.
#[must_use]
pub fn beside(
    name: &str,
    ours: &[Duration],
    theirs: Option<&[Duration]>,
    limit: Option<f64>,
) -> Case {
    let mut case = series(name, ours);
    let Some(theirs) = theirs else { return case };
    case = case.figure("patroni-median", ms(median(theirs)), "ms").figure(
        "patroni-p95",
        ms(p95(theirs)),
        "ms",
    );
    for (i, value) in theirs.iter().enumerate() {
        case = case.figure(&format!("patroni-run-{}", i + 1), ms(*value), "ms");
    }
    let (ours, theirs) = (ms(median(ours)), ms(median(theirs)));
    case = case.require(theirs > 0.0, || "nothing was measured of Patroni".to_owned());
    if theirs <= 0.0 {
        return case;
    }
    let ratio = ours / theirs;
    case = case.figure("ratio", ratio, "ratio");
    let Some(limit) = limit else { return case };
    case.figure("limit", limit, "ratio").require(ratio <= limit, || {
        format!("the median is {ratio:.2} of Patroni's, allowed {limit}")
    })
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
    fn beside_patroni_the_limit_is_a_part_of_its_median() {
        let verdict = |ours: &[u64], theirs: Option<&[u64]>, limit| {
            let theirs = theirs.map(spans);
            beside("x", &spans(ours), theirs.as_deref(), limit).verdict
        };
        assert_eq!(verdict(&[20], Some(&[100]), Some(0.2)), Verdict::Pass);
        assert_eq!(verdict(&[21], Some(&[100]), Some(0.2)), Verdict::Fail);
        assert_eq!(verdict(&[999], Some(&[100]), None), Verdict::Pass);
        assert_eq!(verdict(&[999], None, Some(0.2)), Verdict::Pass);
        assert_eq!(verdict(&[1], Some(&[]), None), Verdict::Fail);
        assert_eq!(verdict(&[], None, None), Verdict::Fail);
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
