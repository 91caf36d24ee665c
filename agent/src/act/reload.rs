//! `Action::Reload`: a changed configuration into the files, as far as PostgreSQL takes it, and read by
//! the running server.

use std::sync::PoisonError;

use tokio_postgres::Client;

use super::Actor;
use super::postgres::configuration::examine;
use super::postgres::files::{InForce, Refused, write_atomically};
use super::postgres::sql;
use crate::decide::view::View;

impl Actor {
    /// Puts what is wanted in force. Where that does not come to its end, it is still wanted.
    pub(super) async fn reload(&self, view: &View, client: Option<&Client>) -> Result<(), String> {
        let (Some(client), Some(status)) = (client, &view.postgres.status) else {
            return Err("PostgreSQL does not answer".to_owned());
        };
        let wanted = (&*self.config, &*self.wanted);
        let known = self.in_force();
        let refused = examine(&self.programs, &self.files, wanted, &known).await;
        // Said once, also where this is tried again.
        let new =
            refused.iter().filter(|(name, refused)| known.refused.get(*name) != Some(*refused));
        for (name, refused) in new {
            tracing::warn!(
                node = %self.config.name, name, words = refused.words,
                "PostgreSQL does not take this value: it is not put in force"
            );
        }
        let before = std::fs::read(self.files.hba()).ok();
        let written = self.set_in_force(|in_force| {
            in_force.refused = refused;
            // A reload is decided only where the server has the list that it should. Whoever configured
            // it meanwhile, or since a note of long ago: whom commits wait for stays (I3).
            in_force.synchronous.clone_from(&status.synchronous_standby_names);
        });
        written.map_err(|error| format!("writing the configuration: {error}"))?;
        self.keep_a_good_hba(client, before).await?;
        sql::reload(client).await.map_err(|error| error.to_string())?;
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        in_force.fingerprint = self.wanted.fingerprint();
        Ok(())
    }

    /// A pg_hba.conf that the server could not start with goes back to what it was; so does one that it
    /// was not heard about, and that is tried again.
    async fn keep_a_good_hba(
        &self,
        client: &Client,
        before: Option<Vec<u8>>,
    ) -> Result<(), String> {
        let written = std::fs::read(self.files.hba()).ok();
        let Some(before) = before.filter(|before| written.as_ref() != Some(before)) else {
            return Ok(());
        };
        let words = sql::hba_problems(client).await;
        if words.as_ref().is_ok_and(String::is_empty) {
            return Ok(());
        }
        write_atomically(&self.files.hba(), &before)
            .map_err(|error| format!("putting pg_hba.conf back: {error}"))?;
        let words = words.map_err(|error| error.to_string())?;
        tracing::warn!(node = %self.config.name, words, "pg_hba.conf stays as it was");
        let value = self.wanted.hba.join("\n");
        let refuse = |in_force: &mut InForce| {
            let refused = Refused { value, words, kept: None };
            in_force.refused.insert("pg_hba".to_owned(), refused);
        };
        self.set_in_force(refuse).map_err(|error| format!("writing the configuration: {error}"))
    }
}
