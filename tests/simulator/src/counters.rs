//! What should happen sometimes: a run that never reaches it says nothing about it.

use std::collections::BTreeMap;

use regent_agent::decide::{Action, Reason};

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

    fn variant(&mut self, kind: &str, shown: &str) {
        let name: String = shown.chars().take_while(|c| c.is_alphanumeric()).collect();
        self.count(&format!("{kind}: {name}"));
    }

    /// A decision for this reason.
    pub fn reason(&mut self, reason: &Reason) {
        let shown = format!("{reason:?}");
        self.variant("reason", &shown);
        if let Reason::NotCandidate(unfit) = reason {
            self.variant("unfit", &format!("{unfit:?}"));
        }
    }

    /// An action was decided.
    pub fn action(&mut self, action: &Action) {
        let shown = format!("{action:?}");
        self.variant("action", &shown);
        if let Action::Run(job) = action {
            self.variant("job", &format!("{job:?}"));
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
}
