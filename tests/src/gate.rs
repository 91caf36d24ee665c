//! A gate in the embedded store: while it is closed, one kind of write is refused, so that a test
//! can do something right before it. A trigger in the store's file refuses it inside the writer's
//! own transaction, which therefore changes nothing; the writer tries again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use regent_proto::record::SwitchoverStep;
use rusqlite::Connection;

/// A closed gate; dropping it opens it.
#[derive(Debug)]
pub struct Gate {
    file: PathBuf,
    name: String,
}

/// The write of the *take*: `primary` moves to a new epoch.
const MOVES: &str = "json_extract(CAST(NEW.value AS TEXT), '$.epoch') > \
     (SELECT json_extract(CAST(e.value AS TEXT), '$.epoch') FROM entry e WHERE e.key = NEW.key)";

fn condition(step: SwitchoverStep) -> String {
    let key = |pattern: &str| format!("CAST(NEW.key AS TEXT) LIKE '{pattern}'");
    let field = |path: &str| format!("json_extract(CAST(NEW.value AS TEXT), '{path}')");
    let entered = |step: SwitchoverStep| {
        let (key, last) = (key("/regent/%/operations/%"), field("$.steps[#-1].step"));
        format!("{key} AND {last} = '{}'", step.name())
    };
    let primary = key("/regent/%/primary");
    match step {
        SwitchoverStep::Prepare | SwitchoverStep::Follow | SwitchoverStep::Verify => entered(step),
        // The outcome is written with it.
        SwitchoverStep::Done => entered(step),
        SwitchoverStep::Handover => {
            format!("{primary} AND {} = 'handover'", field("$.state.name"))
        }
        SwitchoverStep::Take => format!("{primary} AND {MOVES}"),
        SwitchoverStep::RollBack => format!(
            "{primary} AND {} = 'open' AND NOT {MOVES} AND (SELECT json_extract(CAST(e.value AS \
             TEXT), '$.state.name') FROM entry e WHERE e.key = NEW.key) <> 'open'",
            field("$.state.name")
        ),
    }
}

impl Gate {
    /// Closes the gate before the write of `step`.
    ///
    /// # Errors
    /// When the store's file can't be changed.
    pub fn close(file: &Path, step: SwitchoverStep) -> anyhow::Result<Self> {
        Self::closed(file, &step.name().replace('-', "_"), &condition(step))
    }

    /// Closes the gate before the token, which belongs to no step of its own.
    ///
    /// # Errors
    /// When the store's file can't be changed.
    pub fn close_token(file: &Path) -> anyhow::Result<Self> {
        let state = "json_extract(CAST(NEW.value AS TEXT), '$.state.name')";
        let key = "CAST(NEW.key AS TEXT) LIKE '/regent/%/primary'";
        Self::closed(file, "token", &format!("{key} AND {state} = 'token'"))
    }

    /// Closes the gate before every writing of the primary lease: `primary` can be read, and nobody
    /// can prove that the reading is the present one.
    ///
    /// # Errors
    /// When the store's file can't be changed.
    pub fn close_lease(file: &Path) -> anyhow::Result<Self> {
        Self::closed(file, "lease", "CAST(NEW.key AS TEXT) LIKE '/regent/%/lease'")
    }

    fn closed(file: &Path, name: &str, condition: &str) -> anyhow::Result<Self> {
        let gate = Self { file: file.to_owned(), name: name.to_owned() };
        // An upsert fires the trigger before it looks for a conflict.
        gate.change(&format!(
            "CREATE TRIGGER gate_{name} BEFORE INSERT ON entry WHEN {condition}
             BEGIN SELECT RAISE(ABORT, '{words}'); END",
            name = gate.name,
            words = gate.words(),
        ))?;
        Ok(gate)
    }

    /// What a writer that stands before the gate is told, and logs.
    #[must_use]
    pub fn words(&self) -> String {
        format!("the gate before {} is closed", self.name)
    }

    fn change(&self, statement: &str) -> anyhow::Result<()> {
        let connection = Connection::open(&self.file)
            .with_context(|| format!("open {}", self.file.display()))?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.execute_batch(statement).with_context(|| statement.to_owned())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The lab, and with it the file, may have gone before.
        self.change(&format!("DROP TRIGGER IF EXISTS gate_{}", self.name)).ok();
    }
}
