//! The soak (`make soak`): events in a row on one synchronous site of three nodes. After each the site
//! is whole again without a human; no acknowledged row is lost, duplicated or reordered. `make test`
//! runs one round: ten leaders taken away, five switchovers, and ten other events.
//!
//! REGENT_SEED: which events in which order (1). REGENT_EVENTS: how many of them (one round).

use regent_test_sys::{Need, lacks};
use regent_tests::soak::plan::ROUND;
use regent_tests::soak::report::{HEAD, cases, line};
use regent_tests::soak::run;
use regent_tests::{option, report, say, skip};
use regentctl::lab::programs;
use regentctl::report::{Case, Verdict, write};

fn number(name: &str) -> Option<u32> {
    option(name).map(|text| text.parse().expect("REGENT_SEED and REGENT_EVENTS are numbers"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_is_whole_after_each_event_and_every_acknowledged_row_is_there_once_in_order() {
    if let Err(missing) = programs::etcd() {
        return skip(&missing.to_string());
    }
    // To freeze a node.
    if lacks(&[Need::Root, Need::Cgroups]) {
        return;
    }
    let seed = number("REGENT_SEED").unwrap_or(1);
    let events = number("REGENT_EVENTS").map_or(ROUND.len(), |n| n.try_into().unwrap());
    let soak = run(seed, events).await.unwrap_or_else(|problem| panic!("{problem:#}"));
    let cases = cases(&soak);
    say(HEAD);
    cases.iter().map(line).for_each(say);
    write(&report::file("soak"), &cases).unwrap();
    let failed: Vec<&Case> = cases.iter().filter(|case| case.verdict == Verdict::Fail).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
