//! Patroni's `watchdog` section, and the check of all timings together.
//!
//! The timeout W follows from the lease (proto's `time::watchdog`): nothing configured means G, and
//! Patroni's -1 the longest safe one. A `safety_margin` that would leave the hole of Patroni's default is
//! said and not obeyed, since a site taken over from Patroni must start, and safely (ADR 18).

use std::path::PathBuf;
use std::time::Duration;

use regent_proto::time::{LeaseTiming, TimingError, WatchdogRefused, WatchdogTiming};
use serde::Deserialize;

use super::Config;
use super::dynamic::Dynamic;

/// The `watchdog` section.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WatchdogConfig {
    /// Whether a watchdog is used.
    pub mode: WatchdogMode,
    /// The device.
    pub device: PathBuf,
    /// W = TTL − margin, in seconds, as far as that is safe; -1: the longest safe one; nothing: G.
    pub safety_margin: Option<i64>,
}

impl Default for WatchdogConfig {
    /// Patroni's defaults, but for the margin.
    fn default() -> Self {
        Self {
            mode: WatchdogMode::Automatic,
            device: PathBuf::from("/dev/watchdog"),
            safety_margin: None,
        }
    }
}

/// `watchdog.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchdogMode {
    /// None.
    Off,
    /// Where there is one that works.
    Automatic,
    /// Without one this node does not lead.
    Required,
}

impl<'de> Deserialize<'de> for WatchdogMode {
    /// Patroni's words. One that it does not know means off to Patroni; here it is an error, or
    /// whoever misspells `required` would go unprotected.
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(input)?;
        let word = match &value {
            serde_json::Value::Bool(false) => "off".to_owned(),
            serde_json::Value::String(word) => word.to_lowercase(),
            other => other.to_string(),
        };
        match word.as_str() {
            "off" | "disable" | "disabled" => Ok(Self::Off),
            "auto" | "automatic" => Ok(Self::Automatic),
            "require" | "required" => Ok(Self::Required),
            _ => Err(serde::de::Error::custom(format!(
                "watchdog.mode: {value} is not valid: want off, automatic or required"
            ))),
        }
    }
}

/// Timings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimingProblem {
    /// The lease itself.
    #[error("{0}")]
    Lease(TimingError),
    /// `mode: required`, and no watchdog is quick enough.
    #[error("watchdog.mode is required, but {0}")]
    Watchdog(WatchdogRefused),
}

impl Config {
    /// Checks the timings of a dynamic configuration, all of them or none (I21). What is returned is
    /// worth a warning.
    pub fn check_timing(&self, dynamic: &Dynamic) -> Result<Vec<String>, TimingProblem> {
        let lease = self.site_timing(dynamic);
        lease.check("site lease").map_err(TimingProblem::Lease)?;
        let timing = match (self.watchdog.mode, self.watchdog_timing(&lease)) {
            (WatchdogMode::Off, _) => return Ok(Vec::new()),
            (WatchdogMode::Required, Err(refused)) => return Err(TimingProblem::Watchdog(refused)),
            (WatchdogMode::Automatic, Err(refused)) => return Ok(vec![refused.to_string()]),
            (WatchdogMode::Automatic | WatchdogMode::Required, Ok(timing)) => timing,
        };
        let shortened =
            timing.shortened.map(|hole| format!("{hole}; {} s is used", timing.timeout_s));
        let mut said: Vec<String> = shortened.into_iter().collect();
        said.extend(too_early(&lease, timing.timeout_s));
        Ok(said)
    }

    /// A dynamic configuration as this node can obey it. Where it could not keep its lease with the
    /// timings, those in force count, and why: nothing else of it is in the way. Whom commits wait for
    /// must not become nobody (I3), and a pause is for every node of the site.
    #[must_use]
    pub fn fitted(&self, given: Dynamic, in_force: &Dynamic) -> (Dynamic, Option<TimingProblem>) {
        match self.check_timing(&given) {
            Ok(_) => (given, None),
            Err(problem) => (given.with_timings_of(in_force), Some(problem)),
        }
    }

    /// What a person should know before anything is read from the DCS.
    #[must_use]
    pub fn first_warnings(&self) -> Vec<String> {
        let timing = self.check_timing(&self.first_dynamic()).unwrap_or_default();
        self.warnings.iter().cloned().chain(timing).collect()
    }

    /// W under the shorter of the leases that let this node write.
    pub fn watchdog_timing(&self, lease: &LeaseTiming) -> Result<WatchdogTiming, WatchdogRefused> {
        WatchdogTiming::of(lease, self.watchdog.safety_margin)
    }
}

/// Beside a watchdog rung 1 begins earlier: a lost renewal should fit before that. Where it does not,
/// the node is safe and demotes itself sooner than it must.
fn too_early(lease: &LeaseTiming, timeout_s: u32) -> Option<String> {
    let lead = WatchdogTiming::fence_lead(Duration::from_secs(timeout_s.into()), lease.stop_budget);
    let numbers = LeaseTiming { stop_budget: lead, ..lease.clone() }.check("site lease").err()?;
    Some(format!(
        "watchdog: beside a timeout of {timeout_s} s the writing ends {lead:?} before its deadline, \
         which may cost a lost renewal: {numbers}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<WatchdogConfig, String> {
        regent_proto::yaml::read(text)
    }

    #[test]
    fn modes_are_patronis_words_and_a_slip_is_an_error() {
        for (word, mode) in [
            ("off", WatchdogMode::Off),
            ("false", WatchdogMode::Off),
            ("'off'", WatchdogMode::Off),
            ("automatic", WatchdogMode::Automatic),
            ("Required", WatchdogMode::Required),
        ] {
            assert_eq!(read(&format!("mode: {word}")).expect(word).mode, mode, "{word}");
        }
        for word in ["requried", "3", "true", "[]"] {
            let error = read(&format!("mode: {word}")).expect_err(word);
            assert!(error.contains("off, automatic or required"), "{error}");
        }
        assert_eq!(read("{}").expect("defaults"), WatchdogConfig::default());
        assert_eq!(read("safety_margin: -1").expect("strict").safety_margin, Some(-1));
    }
}
