//! How a running server's configuration stands to what is wanted: what waits for a restart, what the
//! server does not take, and whether its recovery asks for more than it has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::time::BootTime;
use serde::Deserialize;
use tokio_postgres::Client;

use super::clock::boot_time;
use crate::act::postgres::configuration::Wanted;
use crate::act::postgres::files::{Files, Refused};
use crate::act::postgres::programs::Programs;
use crate::act::postgres::{control, sql};
use crate::decide::parameters::{self, Setting};
use crate::decide::view::ConfigurationView;

/// What cannot be applied of the files, and does not wait for a restart: the server's word of files
/// that others write, too.
const FILES: &str = "
SELECT coalesce(json_agg(DISTINCT format('%s, line %s: %s: %s', f.sourcefile, f.sourceline,
   coalesce(f.name, ''), f.error)), '[]')::text
 FROM pg_file_settings f LEFT JOIN pg_settings s ON s.name = f.name
 WHERE f.error IS NOT NULL AND s.pending_restart IS NOT TRUE";

/// How often the server is asked for that. It reads all files to answer.
const FILES_EVERY: Duration = Duration::from_secs(20);
/// How often pg_control is read of a standby that stands still.
const NEEDS_EVERY: Duration = Duration::from_secs(1);
/// The longest wait for it: the round waits with it.
const NEEDS_WITHIN: Duration = Duration::from_secs(2);

/// A row of `pg_settings`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct SettingAnswer {
    pub(super) name: String,
    pub(super) value: String,
    unit: Option<String>,
    kind: String,
    postmaster: bool,
    pending: bool,
}

impl From<&SettingAnswer> for Setting {
    fn from(answer: &SettingAnswer) -> Self {
        Self {
            name: answer.name.clone(),
            value: answer.value.clone(),
            unit: answer.unit.clone(),
            kind: answer.kind.clone(),
            postmaster: answer.postmaster,
            pending: answer.pending,
        }
    }
}

/// Compares.
pub(super) struct ConfigurationObserver {
    programs: Programs,
    files: Files,
    /// What the files shall say.
    wanted: Arc<Wanted>,
    /// What the server does not take of it.
    refused: BTreeMap<String, Refused>,
    /// What the server says of its files, and when it was asked.
    said: Vec<String>,
    asked: Option<BootTime>,
    /// What recovery needs, as of when replay was found paused.
    needs: Option<(BootTime, BTreeMap<String, u64>)>,
}

impl ConfigurationObserver {
    pub(super) fn new(programs: Programs, files: Files) -> Self {
        Self {
            programs,
            files,
            wanted: Arc::default(),
            refused: BTreeMap::new(),
            said: Vec::new(),
            asked: None,
            needs: None,
        }
    }

    /// What the server is compared with from now on; whether that is something else.
    pub(super) fn expects(
        &mut self,
        wanted: &Arc<Wanted>,
        refused: &BTreeMap<String, Refused>,
    ) -> bool {
        if Arc::ptr_eq(&self.wanted, wanted) && self.refused == *refused {
            return false;
        }
        self.wanted = Arc::clone(wanted);
        self.refused.clone_from(refused);
        self.asked = None;
        true
    }

    /// Another server, or one that has read its files again.
    pub(super) fn forget(&mut self) {
        self.asked = None;
        self.needs = None;
    }

    /// The names that are compared.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.wanted.parameters.keys().map(String::as_str)
    }

    /// The comparison; what is wanted and in force is told by who writes it.
    pub(super) async fn view(
        &mut self,
        client: Option<&Client>,
        settings: &[SettingAnswer],
        replay_paused: bool,
    ) -> ConfigurationView {
        if let Some(client) = client {
            self.look_at_files(client).await;
        }
        let settings: Vec<Setting> = settings.iter().map(Setting::from).collect();
        let mut wanted = self.wanted.parameters.clone();
        wanted.retain(|name, _| !self.refused.contains_key(name));
        let refused = self.refused.iter().map(|(name, refused)| match &refused.kept {
            Some(kept) => format!("{name} stays {kept}: {}", refused.words),
            None => format!("{name} is not in force: {}", refused.words),
        });
        let problems = refused.chain(self.said.iter().cloned()).collect();
        let too_low = replay_paused && {
            let needs = self.what_recovery_needs().await;
            settings.iter().any(|setting| {
                let needed = needs.get(&setting.name);
                needed.is_some_and(|need| setting.value.parse::<u64>().is_ok_and(|has| has < *need))
            })
        };
        let pending_restart = parameters::pending(&wanted, &settings);
        ConfigurationView { pending_restart, problems, too_low, ..ConfigurationView::default() }
    }

    async fn look_at_files(&mut self, client: &Client) {
        let now = boot_time();
        if self.asked.is_some_and(|asked| now.since(asked) < FILES_EVERY) {
            return;
        }
        let Ok(text) = sql::text(client, FILES).await else { return };
        let Ok(said) = serde_json::from_str(&text) else { return };
        (self.said, self.asked) = (said, Some(now));
    }

    /// pg_control of a standby that stands still changes no more: it is read now and then only.
    async fn what_recovery_needs(&mut self) -> BTreeMap<String, u64> {
        let now = boot_time();
        if let Some((asked, needs)) = &self.needs
            && now.since(*asked) < NEEDS_EVERY
        {
            return needs.clone();
        }
        let data_dir = &self.files.data_dir;
        let read = control::settings(&self.programs, data_dir, NEEDS_WITHIN).await;
        let needs = read.unwrap_or_default();
        self.needs = Some((now, needs.clone()));
        needs
    }
}
