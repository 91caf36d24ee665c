//! `policy.automatic_promotion`: whether a region that went dark is replaced without a person, and within which
//! bounds. Off unless the file says otherwise.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Size, Span};

/// Whether, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AutomaticPromotion {
    /// Whether.
    pub mode: Automatic,
    /// For so long the primary site has neither renewed its lease nor reported; at least `primary_ttl`.
    pub after: Span,
    /// What may be lost, as `--accept-loss-age`. It has no default: nobody else can say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_loss_age: Option<Span>,
    /// What may be lost, as `--accept-loss-bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_loss_bytes: Option<Size>,
    /// For so long after any move of primacy was asked for, by whomever, none begins by itself.
    pub cool_down: Span,
    /// So many in 24 hours at most; then a person has to look.
    pub per_day: u32,
}

/// Whether a region is promoted without a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Automatic {
    /// Never.
    #[default]
    Off,
    /// Never; but it is said what would have been done, and since when.
    ObserveOnly,
    /// As a person would, with the same plan, wait and bounds.
    On,
}

impl Automatic {
    /// As written in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::ObserveOnly => "observe-only",
            Self::On => "on",
        }
    }
}

impl Default for AutomaticPromotion {
    fn default() -> Self {
        Self {
            mode: Automatic::Off,
            after: Span(Duration::from_secs(180)),
            accept_loss_age: None,
            accept_loss_bytes: None,
            cool_down: Span(Duration::from_secs(3600)),
            per_day: 1,
        }
    }
}

impl AutomaticPromotion {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The place below `policy.automatic_promotion`, and what is wrong there.
    pub(super) fn problem(&self, primary_ttl: Span) -> Option<(&'static str, String)> {
        match self.mode {
            Automatic::Off => return None,
            Automatic::ObserveOnly | Automatic::On => {}
        }
        if self.after < primary_ttl {
            let problem = format!(
                "{:?} is less than primary_ttl: until then the primary may be alive; want at least {:?}",
                self.after.0, primary_ttl.0
            );
            return Some(("after", problem));
        }
        if self.accept_loss_age.is_none() {
            let problem =
                "is missing: say what may be lost without asking anybody, as in 30s".to_owned();
            return Some(("accept_loss_age", problem));
        }
        if self.per_day == 0 {
            return Some(("per_day", "0 allows none; want at least 1, or mode: off".to_owned()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use crate::topology::{Automatic, Topology};

    fn file(automatic: &str) -> Result<Topology, String> {
        let text = format!(
            "federation: f\nprimary: eu\nsites:\n  - {{name: eu, kind: data, dcs: embedded, nodes: [{{name: eu1}}]}}\n\
             quorum: {{store: embedded, voters: [eu]}}\n\
             policy: {{site_ttl: 5s, primary_ttl: 15s, automatic_promotion: {automatic}}}\n"
        );
        Topology::parse(&text).map(|(topology, _)| topology).map_err(|error| error.to_string())
    }

    /// `on` and `off` are words here, whatever YAML 1.1 made of them.
    #[test]
    fn it_is_off_unless_the_file_says_what_may_be_lost() {
        for (text, mode) in [
            ("{}", Automatic::Off),
            ("{mode: off}", Automatic::Off),
            ("{mode: observe-only, accept_loss_age: 0s}", Automatic::ObserveOnly),
            ("{mode: on, after: 15s, accept_loss_age: 30s}", Automatic::On),
        ] {
            let topology = file(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(topology.policy.automatic_promotion.mode, mode, "{text}");
        }
        for (text, said) in [
            ("{mode: on}", "policy.automatic_promotion.accept_loss_age"),
            ("{mode: on, after: 14s, accept_loss_age: 30s}", "policy.automatic_promotion.after"),
            ("{mode: on, accept_loss_age: 30s, per_day: 0}", "policy.automatic_promotion.per_day"),
            ("{mode: maybe}", "observe-only"),
            ("{mode: on, accept_loss: 30s}", "accept_loss"),
        ] {
            let error = file(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
