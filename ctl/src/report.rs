//! Reports that programs read: `target/reports/NAME.json`, a list of cases, each with its name,
//! its figures with units, and a verdict.

use std::path::Path;

use serde::Serialize;

use crate::exit::Failure;

/// Whether a case is as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is.
    Pass,
    /// It is not.
    Fail,
}

impl Verdict {
    /// `Pass` when the condition holds.
    #[must_use]
    pub fn of(holds: bool) -> Self {
        if holds { Self::Pass } else { Self::Fail }
    }
}

/// A number with its unit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// What it measures.
    pub name: String,
    /// How much.
    pub value: f64,
    /// Of what: `ms`, `rows`, `ratio`, ….
    pub unit: &'static str,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Case {
    /// Stable: scripts refer to it.
    pub name: String,
    /// Its figures.
    pub figures: Vec<Figure>,
    /// Its verdict.
    pub verdict: Verdict,
    /// Why it failed; empty when it passed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What is to be looked at though it is no failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Case {
    /// A case that passes until something is wrong with it.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            figures: Vec::new(),
            verdict: Verdict::Pass,
            reason: String::new(),
            warnings: Vec::new(),
        }
    }

    /// With one more figure.
    #[must_use]
    pub fn figure(mut self, name: &str, value: f64, unit: &'static str) -> Self {
        self.figures.push(Figure { name: name.to_owned(), value, unit });
        self
    }

    /// Says what is to be looked at, unless the condition holds.
    #[must_use]
    pub fn want(mut self, holds: bool, warning: impl FnOnce() -> String) -> Self {
        if !holds {
            self.warnings.push(warning());
        }
        self
    }

    /// Fails, unless the condition holds, with the reason.
    #[must_use]
    pub fn require(mut self, holds: bool, reason: impl FnOnce() -> String) -> Self {
        if !holds {
            self.verdict = Verdict::Fail;
            if !self.reason.is_empty() {
                self.reason.push_str("; ");
            }
            self.reason.push_str(&reason());
        }
        self
    }
}

/// Whether every case passed. A report without cases shows nothing, so it fails.
#[must_use]
pub fn passed(cases: &[Case]) -> bool {
    !cases.is_empty() && cases.iter().all(|case| case.verdict == Verdict::Pass)
}

/// Writes the report, in place of an older one.
pub fn write(file: &Path, cases: &[Case]) -> Result<(), Failure> {
    let fail = |e: String| Failure::error(format!("write report {}: {e}", file.display()));
    if let Some(directory) = file.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).map_err(|e| fail(e.to_string()))?;
    }
    let mut text = serde_json::to_string_pretty(cases).map_err(|e| fail(e.to_string()))?;
    text.push('\n');
    // Never half a report: whoever reads it sees the old one or the new one.
    let temporary = file.with_extension("json.new");
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, file))
        .map_err(|e| fail(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_pass_and_fail_with_reasons() {
        let good = Case::new("switchover").figure("outage", 61.5, "ms");
        let good = good.want(true, || "none".into()).want(false, || "nearly".into());
        let bad = Case::new("rows").figure("lost", 2.0, "rows").require(false, || "2 lost".into());
        assert!(passed(std::slice::from_ref(&good)));
        assert!(!passed(&[good.clone(), bad.clone()]));
        assert!(!passed(&[]));
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("reports/demo.json");
        write(&file, &[good, bad]).expect("written");
        let text = std::fs::read_to_string(&file).expect("readable");
        let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read[0]["verdict"], "pass");
        assert_eq!(read[0]["figures"][0]["unit"], "ms");
        assert_eq!(read[0]["warnings"], serde_json::json!(["nearly"]));
        assert_eq!(read[1]["verdict"], "fail");
        assert_eq!(read[1]["reason"], "2 lost");
    }
}
