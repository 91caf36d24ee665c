//! Every model within its short bounds: complete, clean, and each of its mutants caught by the
//! property that it names. `make models` searches the long ones.

use regent_models::run::{Rows, Size};
use regent_models::{election, lease, primary, sync};

/// How many of the rows are mutants; every one passes.
fn mutants_of(rows: Rows) -> usize {
    let mut seen = 0;
    for row in rows {
        assert!(row.passed(), "{row:?}");
        seen += usize::from(row.mutant.is_some());
    }
    seen
}

fn check(rows: Rows) {
    assert!(mutants_of(rows) > 0, "no mutant was tried");
}

#[test]
fn lease_guardian_and_takeover() {
    check(lease::rows(Size::Short));
}

#[test]
fn primary_record() {
    assert_eq!(mutants_of(primary::searched(Size::Short)), 0);
}

#[test]
fn mutants_of_the_primary_record() {
    check(primary::mutants());
}

#[test]
fn synchronous_record_and_list() {
    check(sync::rows(Size::Short));
}

#[test]
fn election_of_the_coordinator() {
    check(election::rows(Size::Short));
}
