use proptest::prelude::*;

use super::*;

const KAPPA: Duration = Duration::from_millis(250);

fn at(millis: u64) -> BootTime {
    BootTime::from_nanos(millis * 1_000_000)
}

fn orders(guard: Guard, writing: u64, bound: u64, stop_until: u64) -> Orders {
    Orders {
        guard,
        writing: Deadline::at(at(writing)),
        bound: Deadline::at(at(bound)),
        stop_until: Deadline::at(at(stop_until)),
        kill_budget: KAPPA,
    }
}

#[test]
fn the_port_is_open_to_the_kill_of_whatever_ends_the_right() {
    assert_eq!(gate(&orders(Guard::Off, 5000, 6000, 7000)), Gate::Open);
    for guard in [Guard::ByDeadline, Guard::Unknown(9)] {
        assert_eq!(gate(&orders(guard, 5000, 6000, 7000)), Gate::Until(at(4750)));
    }
    assert_eq!(gate(&orders(Guard::PlannedStop, 5000, 6000, 7000)), Gate::Until(at(6750)));
    assert_eq!(gate(&orders(Guard::PlannedStop, 5000, 6000, 3000)), Gate::Until(at(5750)));
}

#[test]
fn only_what_changed_is_told() {
    let end = Gate::Until(at(4750));
    assert_eq!(change(Some(end), end, at(1000)), None);
    assert_eq!(
        change(Some(Gate::Open), end, at(1000)),
        Some(Rule::For(Duration::from_millis(3750)))
    );
    assert_eq!(change(None, end, at(1000)), Some(Rule::For(Duration::from_millis(3750))));
    assert_eq!(change(Some(Gate::Open), end, at(4750)), Some(Rule::Closed));
    assert_eq!(change(Some(end), Gate::Open, at(9000)), Some(Rule::Open));
    assert_eq!(change(Some(Gate::Open), Gate::Open, at(9000)), None);
}

#[test]
fn the_words_are_one_transaction_with_whole_milliseconds() {
    let span = Duration::from_micros(1_500_900);
    let words = rules::put(5432, Rule::For(span));
    let table = "inet regent_packets_5432";
    let want =
        format!("flush set {table} open\nadd element {table} open {{ 5432 timeout 1500ms }}\n");
    assert_eq!(words, want);
    // An element without a timeout never leaves: less than a millisecond is nothing.
    let closed = format!("flush set {table} open\n");
    assert_eq!(rules::put(5432, Rule::For(Duration::from_micros(900))), closed);
    assert_eq!(rules::put(5432, Rule::Closed), closed);
}

proptest! {
    /// However late the kernel hears of it: what counts as told ends by D.
    #[test]
    fn what_was_told_for_certain_ends_by_the_deadline(
        writing in 0_u64..20_000,
        before in 0_u64..20_000,
        delay in 0_u64..5_000,
        heard in 0_u64..5_000,
    ) {
        let orders = orders(Guard::ByDeadline, writing, 0, 0);
        let after = at(before + delay);
        let Some(rule) = change(None, gate(&orders), at(before)) else { return Ok(()) };
        prop_assume!(heard <= delay && certain(rule, at(before), after, KAPPA));
        if let Rule::For(span) = rule {
            prop_assert!(at(before + heard).plus(span) <= at(writing));
        }
    }
}
