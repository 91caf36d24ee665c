//! One suite that every store has to pass: the contract of this crate as cases.
//!
//! A case states what the contract promises, and nothing about how a store keeps it. The same cases
//! run undisturbed, where every error is a failure, and disturbed (a member killed, frozen, the
//! leader moved, the log compacted, in the middle of the case), where calls may fail as the
//! contract allows and what is promised must hold all the same. [`context`] has the calls that
//! know the difference.
//!
//! ```no_run
//! # async fn f(harness: &dyn regent_dcs::conformance::Harness) {
//! let failures = regent_dcs::conformance::run(harness).await;
//! assert!(failures.is_empty(), "{failures:#?}");
//! # }
//! ```

pub mod context;
mod follower;
mod keys;
mod leases;
mod limits;
mod transactions;
mod watches;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::{Store, StoreError};
use context::Context;

/// A store under test, and what may be done to it.
#[async_trait]
pub trait Harness: Send + Sync {
    /// One more access to the store, as one more process would have it.
    async fn open(&self) -> Result<Arc<dyn Store>, StoreError>;

    /// Makes the store forget its changes up to now, as far as it can: a watch from an old revision
    /// must then be told.
    async fn compact(&self) -> Result<(), Failure>;

    /// What may be expected of this store.
    fn expectations(&self) -> Expectations;

    /// Called once by each case, in its middle. A disturbing harness begins its disturbance here.
    async fn midway(&self) {}
}

/// What the suite may expect of a store.
#[derive(Debug, Clone, Copy)]
pub struct Expectations {
    /// Whether calls may fail and watches may end, as the contract allows.
    pub disturbed: bool,
    /// For each call.
    pub timeout: Duration,
    /// How long a call is repeated when disturbed.
    pub patience: Duration,
    /// A short TTL that the store grants as it is.
    pub ttl: Duration,
    /// How much later than its TTL a lease may end.
    pub expiry_late_by: Duration,
    /// From the acknowledgement of a change until another process's watch has it.
    pub wake_up: Duration,
}

/// Why a case failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

impl From<crate::WatchError> for Failure {
    fn from(error: crate::WatchError) -> Self {
        Self(error.to_string())
    }
}

/// Fails the case unless something holds.
fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure(otherwise())) }
}

/// Fails the case unless two values are the same.
fn same<T: PartialEq + fmt::Debug>(what: &str, found: &T, expected: &T) -> Result<(), Failure> {
    ensure(found == expected, || format!("{what}: found {found:?}, expected {expected:?}"))
}

type Body = for<'a> fn(&'a Context<'a>) -> BoxFuture<'a, Result<(), Failure>>;

/// One promise.
#[derive(Clone, Copy)]
pub struct Case {
    /// What is promised, as a name.
    pub name: &'static str,
    body: Body,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl Case {
    /// Runs the case, under keys of its own.
    ///
    /// # Errors
    /// What was found to be different from what was promised.
    pub async fn run(&self, harness: &dyn Harness) -> Result<(), Failure> {
        let context = Context::new(harness, self.name)?;
        (self.body)(&context).await
    }
}

/// A case from a function.
macro_rules! case {
    ($module:ident :: $name:ident) => {
        Case { name: stringify!($name), body: |context| Box::pin($module::$name(context)) }
    };
}

/// All promises.
pub const CASES: &[Case] = &[
    case!(keys::get_finds_what_was_put),
    case!(keys::range_is_the_prefix_in_order),
    case!(keys::unusual_keys_and_values),
    case!(keys::large_values),
    case!(keys::handles_see_each_other_at_once),
    case!(keys::revisions_tell_the_history),
    case!(transactions::create_race_has_one_winner),
    case!(transactions::compare_by_revision),
    case!(transactions::compare_by_value),
    case!(transactions::all_or_nothing),
    case!(transactions::conflict_tells_what_was_found),
    case!(transactions::concurrent_counters_lose_nothing),
    case!(leases::renewed_lease_lives),
    case!(leases::lease_never_ends_early),
    case!(leases::lease_ends_and_is_lost),
    case!(leases::revoked_lease_takes_its_keys),
    case!(leases::lost_lease_can_not_be_used),
    case!(leases::put_rebinds_a_key),
    case!(watches::watch_misses_and_repeats_nothing),
    case!(watches::watch_keeps_to_its_prefix),
    case!(watches::watch_wakes_up_soon),
    case!(watches::watch_sees_a_lease_end),
    case!(watches::snapshot_and_watch_fit_together),
    case!(watches::next_may_be_dropped),
    case!(watches::compaction_is_told),
    case!(limits::bad_requests_are_refused),
    case!(limits::timeouts_are_kept),
];

/// Runs all cases, one after the other; the failures with the names of their cases.
pub async fn run(harness: &dyn Harness) -> Vec<(&'static str, Failure)> {
    let mut failures = Vec::new();
    for case in CASES {
        if let Err(failure) = case.run(harness).await {
            failures.push((case.name, failure));
        }
    }
    failures
}

/// Runs all cases at the same time: for disturbances that take their time.
pub async fn run_together(harness: &dyn Harness) -> Vec<(&'static str, Failure)> {
    let runs = CASES.iter().map(|case| async { (case.name, case.run(harness).await) });
    let outcomes = futures::future::join_all(runs).await;
    outcomes
        .into_iter()
        .filter_map(|(name, run)| run.err().map(|failure| (name, failure)))
        .collect()
}
