//! Where a server may run, by a configuration that is refused: who refuses it must still end what a
//! former life left there without a guard. Nothing of it is checked, and nothing else is read.

use std::path::{Path, PathBuf};

use regent_proto::yaml;
use serde_json::Value;

use super::RegentConfig;

/// The two directories that tell what was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// `regent.run_dir`.
    pub run_dir: PathBuf,
    /// `postgresql.data_dir`, where there is one that an agent could have had.
    pub data_dir: Option<PathBuf>,
}

impl Places {
    /// Of a file; `None` where it can't be read, or is no YAML, or its run directory is no text.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let raw: Value = yaml::read(text).ok()?;
        let file = raw.as_object()?;
        let given = |section: &str, key: &str| file.get(section).and_then(|keys| keys.get(key));
        let run_dir = match given("regent", "run_dir") {
            None => RegentConfig::default().run_dir,
            Some(run_dir) => PathBuf::from(run_dir.as_str()?),
        };
        let data_dir = given("postgresql", "data_dir")
            .and_then(Value::as_str)
            .map(PathBuf::from)
            .filter(|data_dir| data_dir.is_absolute());
        Some(Self { run_dir, data_dir })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_are_read_whatever_else_is_wrong() {
        let (run, data) = (Some("/r"), Some("/d"));
        let default = Some("/run/regent");
        for (text, want_run, want_data) in [
            ("postgresql: {data_dir: /d}\nregent: {run_dir: /r}", run, data),
            (
                "postgresql: {data_dir: /d}\nregent: {run_dir: /r, stopbudget: 7}\nbootstrap: 7",
                run,
                data,
            ),
            ("postgresql: {data_dir: /d, callbacks: [x]}", default, data),
            ("postgresql: {data_dir: /d}\nregent:\n", default, data),
            // The mark in the run directory may still tell where it runs.
            ("postgresql: {datadir: /d}\nregent: {run_dir: /r}", run, None),
            ("postgresql: {data_dir: d}\nregent: {run_dir: /r}", run, None),
            ("postgresql: {data_dir: 7}\nregent: {run_dir: /r}", run, None),
            ("scope: eu", default, None),
            // Whose run directory it is, nobody knows.
            ("postgresql: {data_dir: /d}\nregent: {run_dir: [/r]}", None, None),
            ("postgresql: {data_dir: /d", None, None),
            ("postgresql", None, None),
            ("", None, None),
        ] {
            let want = want_run.map(|run_dir| Places {
                run_dir: run_dir.into(),
                data_dir: want_data.map(PathBuf::from),
            });
            assert_eq!(Places::parse(text), want, "{text}");
        }
        assert_eq!(Places::of(Path::new("/none/agent.yml")), None);
    }
}
