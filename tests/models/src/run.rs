//! Searching a model to the end, and what came of it.

use std::hash::Hash;
use std::time::Duration;

use regent_guardian::clock::boot_time;
use stateright::{Checker as _, Expectation, HasDiscoveries, Model};

/// Where a search is given up, in states with their repetitions: bounds that reach it are too wide.
const MOST: usize = 400_000_000;

/// Which bounds are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// On every run of the tests.
    Short,
    /// `make models`.
    Long,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Distinct states.
    pub states: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// The search came to its end: there is no other state.
    pub complete: bool,
    /// Properties that do not hold, by name, with the way there.
    pub broken: Vec<(&'static str, String)>,
    /// What should be possible and was never seen.
    pub never: Vec<&'static str>,
}

impl Found {
    /// Complete, every property holds, everything that should be possible was seen.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.complete && self.broken.is_empty() && self.never.is_empty()
    }
}

/// One line of the table: a model, or a mutant of it, within bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The model.
    pub model: &'static str,
    /// Its bounds, in words.
    pub bounds: String,
    /// The mutant, and the property that must catch it.
    pub mutant: Option<(String, &'static str)>,
    /// Its states are not those of another row as well.
    pub counted: bool,
    /// What the search found.
    pub found: Found,
}

impl Row {
    /// A model: complete and clean. A mutant: caught by the property named.
    #[must_use]
    pub fn passed(&self) -> bool {
        match &self.mutant {
            None => self.found.clean(),
            Some((_, wanted)) => self.found.broken.iter().any(|(broken, _)| broken == wanted),
        }
    }
}

/// Rows, each searched when it is asked for.
pub type Rows = Box<dyn Iterator<Item = Row>>;

/// Searches a model breadth first: to the end where every property holds, otherwise to the first
/// state in which one does not.
#[must_use]
pub fn search<M>(model: M) -> Found
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + Send + Sync + std::fmt::Debug + PartialEq + 'static,
    M::Action: Clone + Send + Sync + std::fmt::Debug + PartialEq + 'static,
{
    until(model, HasDiscoveries::AnyFailures)
}

/// Searches a mutant for a state in which just this property does not hold.
#[must_use]
pub fn hunt<M>(model: M, wanted: &'static str) -> Found
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + Send + Sync + std::fmt::Debug + PartialEq + 'static,
    M::Action: Clone + Send + Sync + std::fmt::Debug + PartialEq + 'static,
{
    until(model, HasDiscoveries::AnyOf([wanted].into_iter().collect()))
}

fn until<M>(model: M, enough: HasDiscoveries) -> Found
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Hash + Send + Sync + std::fmt::Debug + PartialEq + 'static,
    M::Action: Clone + Send + Sync + std::fmt::Debug + PartialEq + 'static,
{
    let since = boot_time();
    let checker = model.checker().threads(2).finish_when(enough);
    let checker = checker.target_state_count(MOST).spawn_bfs().join();
    let (mut broken, mut never) = (Vec::new(), Vec::new());
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        match (property.expectation, found) {
            (Expectation::Always, Some(path)) => {
                let steps = path.into_actions();
                let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
                broken.push((property.name, steps.join(" → ")));
            }
            (Expectation::Sometimes, None) => never.push(property.name),
            (Expectation::Always, None) | (Expectation::Sometimes, Some(_)) => {}
            (Expectation::Eventually, _) => {
                // stateright does not judge it in graphs that have circles: see `progress`.
                never.push(property.name);
            }
        }
    }
    Found {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: boot_time().since(since),
        complete: broken.is_empty() && checker.state_count() < MOST,
        broken,
        never,
    }
}
