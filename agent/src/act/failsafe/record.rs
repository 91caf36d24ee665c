//! Keeps Patroni's `failsafe` key, as the leader: every member with its REST address.
//!
//! Each write compares the revision that was read, so that an earlier one whose outcome is not
//! known is dead once a later one was applied.

use std::collections::BTreeMap;
use std::time::Duration;

use regent_dcs::clock::BootClock;
use regent_proto::name::NodeName;
use regent_proto::time::BootTime;

use crate::act::publish::Picture;
use crate::act::site::{Held, SiteStore};
use crate::config::Config;
use crate::decide::failsafe::site::{Members, wanted};
use crate::decide::view::FailsafeRecord;
use crate::fence::rounds::SharedLeader;

/// This member's REST address, as its member record says it.
#[must_use]
pub fn own_url(config: &Config) -> String {
    format!("http://{}/patroni", config.rest.connect_address)
}

/// The keeper; one a process.
#[derive(Debug)]
pub struct Keeper {
    leader: SharedLeader,
    clock: BootClock,
    away_since: BTreeMap<NodeName, BootTime>,
    /// The outcome of a write is not known: the record as read may still change.
    unsure: bool,
    /// Revision of the last write of ours: an older picture does not show who may lead now.
    written_at: u64,
}

impl Keeper {
    /// Of this process.
    #[must_use]
    pub fn new(leader: SharedLeader, clock: BootClock) -> Self {
        Self { leader, clock, away_since: BTreeMap::new(), unsure: false, written_at: 0 }
    }

    /// Writes what has changed. Called as leader only.
    pub async fn keep(
        &mut self,
        config: &Config,
        store: &SiteStore,
        picture: &Picture,
        held: Held,
        timeout: Duration,
    ) {
        let Some(site) = &picture.view.site else { return };
        let now = self.clock.now();
        let record = &site.failsafe;
        if record.revision().is_some_and(|revision| revision < self.written_at) {
            return;
        }
        let known = match record {
            FailsafeRecord::Read { members, .. } => members.clone(),
            FailsafeRecord::Absent | FailsafeRecord::Unreadable { .. } => Members::new(),
        };
        self.away_since
            .retain(|name, _| known.contains_key(name) && !site.members.contains_key(name));
        for name in known.keys().filter(|name| !site.members.contains_key(*name)) {
            self.away_since.entry(name.clone()).or_insert(now);
        }
        let away =
            self.away_since.iter().map(|(name, since)| (name.clone(), now.since(*since))).collect();
        let dynamic = &picture.dynamic;
        let me = (&config.name, own_url(config));
        let wanted = wanted(
            dynamic.failsafe_mode,
            record,
            &site.members,
            (me.0, me.1.as_str()),
            &away,
            dynamic.ttl,
        );
        let Some(wanted) = wanted else {
            // Off, and nobody is named: there is nobody to ask.
            self.leader.lock().written(Members::new());
            return;
        };
        let as_read = matches!(record, FailsafeRecord::Read { members, .. } if *members == wanted);
        if as_read && !self.unsure {
            self.leader.lock().written(wanted);
            return;
        }
        if !self.leader.lock().begin_write(&wanted, now) {
            return;
        }
        match store.write_failsafe(held, &wanted, record.revision(), timeout).await {
            Ok(Some(revision)) => {
                self.unsure = false;
                self.written_at = revision.0;
                self.leader.lock().written(wanted);
            }
            // Somebody wrote it meanwhile; the next picture shows what.
            Ok(None) => {}
            Err(error) => {
                self.unsure |= error.may_have_happened();
                tracing::debug!(%error, "writing the failsafe record");
            }
        }
    }
}
