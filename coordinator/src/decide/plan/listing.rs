//! What a switchover does not carry over: listed, never blocking.

use super::{Finding, Preflight, unknown};

/// Names shown of a list; the rest is counted.
const SHOWN: usize = 5;

fn shortened(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

pub(super) fn prepared_transactions(at: &Preflight<'_>) -> Finding {
    let wanted = "no prepared transactions";
    let Some(report) = at.report(at.from()) else { return unknown(at.from(), wanted) };
    match report.objects.prepared_transactions {
        0 => Finding::pass("none", wanted),
        n => Finding::warn(
            format!("{n}"),
            wanted,
            "they go along and hold their locks; end them where nobody will",
        ),
    }
}

pub(super) fn logical_slots(at: &Preflight<'_>) -> Finding {
    let wanted = "no logical slots";
    let Some(report) = at.report(at.from()) else { return unknown(at.from(), wanted) };
    let slots = &report.objects.logical_slots;
    if slots.is_empty() {
        Finding::pass("none", wanted)
    } else {
        let next = "they stay behind: make them anew on the other side, their readers miss nothing \
                    only if they have read everything before";
        Finding::warn(shortened(slots), wanted, next)
    }
}

pub(super) fn unlogged_tables(at: &Preflight<'_>) -> Finding {
    let wanted = "no unlogged tables";
    let Some(report) = at.report(at.from()) else { return unknown(at.from(), wanted) };
    match report.objects.unlogged_tables {
        0 => Finding::pass("none", wanted),
        n => Finding::warn(format!("{n}"), wanted, "they are empty on the other side"),
    }
}

pub(super) fn collations(at: &Preflight<'_>) -> Finding {
    let wanted = "collation versions as recorded";
    let Some(report) = at.report(at.to()) else { return unknown(at.to(), wanted) };
    let databases = &report.objects.collation_mismatches;
    if databases.is_empty() {
        Finding::pass("no difference", wanted)
    } else {
        let next = "indexes on text may be wrong there: reindex, then ALTER DATABASE … REFRESH \
                    COLLATION VERSION";
        Finding::warn(shortened(databases), wanted, next)
    }
}

pub(super) fn records_readable(at: &Preflight<'_>) -> Finding {
    let wanted = "every record can be read";
    let keys: Vec<String> = at.view.unreadable().iter().map(|bad| bad.key.clone()).collect();
    if keys.is_empty() {
        Finding::pass("all", wanted)
    } else {
        Finding::warn(shortened(&keys), wanted, "repair or delete these records")
    }
}
