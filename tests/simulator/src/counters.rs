//! What should happen sometimes: a long run that never reaches it says nothing about it, and fails.

use std::collections::{BTreeMap, BTreeSet};

use regent_agent::decide::{Action, Reason};

use crate::names;

/// So many seeds have to reach everything.
pub const LONG: u64 = 1000;

/// A reason that begins so: it may happen all the same.
const SELDOM: &str = "seldom: ";
/// What no long run reaches, with the reason why: a name, two spaces, the reason a line.
const RARE: &str = include_str!("../rare.txt");

/// How often each thing has happened.
#[derive(Debug, Default, Clone)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// It has happened once more.
    pub fn count(&mut self, what: &str) {
        match self.0.get_mut(what) {
            Some(times) => *times += 1,
            None => drop(self.0.insert(what.to_owned(), 1)),
        }
    }

    /// A decision for this reason.
    pub fn reason(&mut self, reason: &Reason) {
        self.count(names::reason(reason));
        match reason {
            Reason::NotCandidate(unfit) => self.count(names::unfit(unfit)),
            Reason::Paused(paused) => self.count(names::paused(paused)),
            _ => {}
        }
    }

    /// An action was decided.
    pub fn action(&mut self, action: &Action) {
        self.count(names::action(action));
        if let Action::Run(job) = action {
            self.count(&format!("job: {:?}", job.kind()));
        }
    }

    /// Those of another run too.
    pub fn add(&mut self, other: &Self) {
        for (what, times) in &other.0 {
            *self.0.entry(what.clone()).or_insert(0) += times;
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &BTreeMap<String, u64> {
        &self.0
    }

    /// What a long run should have reached and did not, and what it did although it is held to be
    /// out of reach.
    #[must_use]
    pub fn amiss(&self) -> Vec<String> {
        let known: BTreeSet<&str> = names::all().collect();
        let rare: BTreeSet<&str> = rare().map(|(name, _)| name).collect();
        let reached = |name: &str| self.0.contains_key(name);
        let never = known.iter().filter(|name| !reached(name) && !rare.contains(*name));
        let impossible = |(_, why): &(&str, &str)| !why.starts_with(SELDOM);
        let after_all = self::rare().filter(impossible).map(|(name, _)| name);
        let after_all = after_all.filter(|name| reached(name));
        let unknown = rare.iter().filter(|name| !known.contains(*name));
        never
            .map(|name| format!("never: {name}"))
            .chain(after_all.map(|name| format!("happens, but stands in rare.txt: {name}")))
            .chain(unknown.map(|name| format!("rare.txt: nothing is called {name:?}")))
            .collect()
    }
}

/// What no long run reaches, and why.
pub fn rare() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = RARE.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once("  ")).map(|(name, why)| (name, why.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happens_and_what_happens_after_all_is_said() {
        let mut counters = Counters::default();
        for name in names::all().filter(|name| rare().all(|(rare, _)| rare != *name)) {
            counters.count(name);
        }
        assert_eq!(counters.amiss(), Vec::<String>::new());
        let mut one_less = counters.clone();
        one_less.0.remove("reason: Leading");
        assert_eq!(one_less.amiss(), ["never: reason: Leading"]);
        let (name, _) = rare().find(|(_, why)| !why.starts_with(SELDOM)).expect("there are some");
        let (seldom, _) = rare().find(|(_, why)| why.starts_with(SELDOM)).expect("there are some");
        counters.count(seldom);
        assert_eq!(counters.amiss(), Vec::<String>::new(), "{seldom} may happen");
        counters.count(name);
        assert_eq!(counters.amiss().len(), 1, "{name} is said");
    }

    #[test]
    fn each_exemption_has_a_reason() {
        assert!(rare().all(|(_, why)| why.len() > 10));
    }
}
