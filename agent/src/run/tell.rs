//! What the loop tells: the log line of a decision, and the picture that REST, metrics and the
//! publisher speak from; and the two tasks beside the loop that live on that picture.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::name::SiteName;
use regent_proto::record::{Opened, Reach};
use regent_proto::time::WallTime;
use tokio::sync::watch;

use super::Agent;
use crate::act::fence_report::RoundTrips;
use crate::act::postgres::files::Files;
use crate::act::postgres::programs::Programs;
use crate::act::publish::{NOT_FENCED, Picture, Publisher};
use crate::config::Config;
use crate::decide::parameters::Difference;
use crate::decide::view::{Memory, Policy, UnderWay, View};
use crate::decide::{self, Decision, Reason, attention, slots};
use crate::observe::clock::wall_time;
use crate::observe::postgres::Extra;
use crate::observe::{guardian, reach};

/// How soon what a store did not take is written again.
const PUBLISH_AGAIN: Duration = Duration::from_secs(1);

/// How often the other sites' replication ports are tried.
const REACH_EVERY: Duration = Duration::from_secs(10);

impl Agent {
    /// For people: when this node was first seen writable under an epoch.
    pub(super) fn note_opening(&mut self, view: &View) {
        let writable = view.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
        let held = view.tenure.primary.as_ref().filter(|held| held.deadline.lies_ahead(view.now));
        if let (true, Some(held)) = (writable, held)
            && self.opened.is_none_or(|opened| opened.epoch != held.epoch)
        {
            self.opened = Some(Opened { epoch: held.epoch, at: wall_time() });
        }
    }

    /// A decision is logged when its reason changes.
    pub(super) fn say(&mut self, view: &View, reason: &Reason) {
        if matches!(reason, Reason::Busy(_)) {
            // The line before said what was begun.
            return;
        }
        let reason = reason.to_string();
        if self.last_reason == reason {
            return;
        }
        self.last_reason.clone_from(&reason);
        let epoch = view
            .federation
            .as_ref()
            .and_then(|f| f.primary.as_ref())
            .map_or(0, |primary| primary.value.epoch.get());
        tracing::info!(cluster = %self.config.scope, node = %self.config.name, epoch, "{reason}");
    }

    /// What PostgreSQL's life means to the operator's own programs.
    pub(super) fn call_back(&mut self, view: &View) {
        if let Some((callback, role)) = self.told.next(&self.config.name, view) {
            self.callbacks.call(callback, role);
        }
    }

    /// A writer has nobody to withdraw from.
    fn withdraws(&self, view: &View, memory: &Memory) -> bool {
        let leader = view.site.as_ref().and_then(|site| site.leader.as_ref());
        let leads = leader.is_some_and(|leader| leader.name == self.config.name);
        !leads && memory.request.as_ref().is_some_and(UnderWay::withdraws)
    }

    /// What is told of slots; each warning is logged when it comes, and when it goes.
    pub(super) fn look_at_slots(&mut self, policy: &Policy, view: &View) {
        if view.postgres.status.is_none() {
            // Nothing is seen: what was known last stays said.
            self.slots.positions.clear();
            return;
        }
        let told = slots::told(policy, &self.memory, view);
        let node = &self.config.name;
        for (slot, what) in told.warnings.difference(&self.slots.warnings) {
            tracing::warn!(%node, slot, "replication slot: {what}");
        }
        for (slot, what) in self.slots.warnings.difference(&told.warnings) {
            tracing::info!(%node, slot, "replication slot: no longer so: {what}");
        }
        self.slots = told;
    }

    /// Hands out the picture of this round.
    pub(super) fn tell(&self, view: &View, extra: Extra, decision: &Decision) {
        let reason = &decision.reason;
        let mut warnings = self.config.warnings.clone();
        // A configuration that is in force has passed the check.
        warnings.extend(self.config.check_timing(&self.actor.dynamic).unwrap_or_default());
        // Its TTL stands in a record, so no reading of the configuration can check it.
        let primary = view.federation.as_ref().and_then(|federation| federation.primary.as_ref());
        let primary = primary.map(|at| self.config.primary_timing(at.value.ttl_max));
        let refused = primary.and_then(|timing| timing.check("primary lease").err());
        warnings.extend(refused.map(|error| {
            format!(
                "this node cannot hold the primary lease: {error}; its TTL was fixed when the \
                 federation was made: lower regent.stop_budget"
            )
        }));
        warnings.extend(self.refused_dynamic.clone());
        warnings.extend(self.job_problem.clone());
        warnings.extend(self.remote_warning());
        warnings.extend(guardian::warnings(&view.guardian));
        warnings.extend(view.postgres.configuration.problems.clone());
        for (name, Difference { old, new }) in &view.postgres.configuration.pending_restart {
            warnings.push(format!("{name} waits for a restart: {old} now, {new} then"));
        }
        let attention = attention::warnings(view, reason, self.actor.dynamic.ttl);
        warnings.extend(attention.iter().map(|what| format!("{}: {what}", self.config.name)));
        if self.actor.dynamic.pause {
            let what = if self.suspended { NOT_FENCED } else { "paused: no automatic failover" };
            warnings.push(what.to_owned());
        }
        if let Some(observer) = &self.global_observer {
            warnings.extend(observer.unreadable().map(|key| format!("unreadable record {key}")));
        }
        let site = self.site_observer.unreadable();
        warnings.extend(site.map(|key| format!("unreadable record {key}")));
        let slots = self.slots.warnings.iter();
        warnings.extend(slots.map(|(slot, what)| format!("replication slot {slot}: {what}")));
        let dcs_age = view.site.as_ref().map_or(u128::MAX, |site| site.age.as_millis());
        let dcs_age = u64::try_from(dcs_age).unwrap_or(u64::MAX);
        let picture = Picture {
            view: view.clone(),
            extra,
            dynamic: self.actor.dynamic.clone(),
            lease: self.actor.lease(),
            checkpointed_for: self.memory.checkpointed_for.clone(),
            opened: self.opened,
            reaches: self.reaches.borrow().clone(),
            warnings,
            attention,
            reason: self.last_reason.clone(),
            unreadable: self.site_observer.unreadable().cloned().collect(),
            progress: self.actor.jobs.progress().borrow().clone(),
            suspended: self.suspended,
            writing: self.deadlines.writing(),
            round_trips: RoundTrips::last(&self.deadlines),
            at: wall_time(),
            dcs_seen: WallTime(wall_time().0.saturating_sub(dcs_age)),
            fences: self.site_observer.fences().clone(),
            restarts: self.site_observer.restarts().clone(),
            config: self.site_observer.config(),
            scheduled_restart: decision.memory.scheduled_restart.clone(),
            withdraws: self.withdraws(view, &decision.memory),
            slots: self.slots.clone(),
            refuses: decide::refuses(&self.config.name, view, &decision.memory),
        };
        self.pictures.send_replace(Some(Arc::new(picture)));
    }
}

/// Writes what others read of this node, beside the loop: a slow store holds up no decision. What was not
/// written is written once the store takes it, though no newer picture comes: others wait for it.
pub(super) async fn publish(
    mut publisher: Publisher,
    mut pictures: watch::Receiver<Option<Arc<Picture>>>,
) {
    let mut told = true;
    loop {
        let again = async {
            if told {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(PUBLISH_AGAIN).await;
        };
        tokio::select! {
            changed = pictures.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = again => {}
        }
        let picture = pictures.borrow_and_update().clone();
        if let Some(picture) = picture {
            told = publisher.publish(&picture).await;
        }
    }
}

/// Whether the other sites' replication ports can be reached, kept by a task of its own.
pub(super) fn reaches(
    config: &Arc<Config>,
    programs: &Programs,
    files: &Files,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
) -> watch::Sender<BTreeMap<SiteName, Reach>> {
    let reaches = watch::Sender::new(BTreeMap::new());
    tokio::spawn(ask_reach(
        Arc::clone(config),
        programs.clone(),
        files.clone(),
        pictures,
        reaches.clone(),
    ));
    reaches
}

/// Tries the other sites' replication ports while this node leads its site.
async fn ask_reach(
    config: Arc<Config>,
    programs: Programs,
    files: Files,
    mut pictures: watch::Receiver<Option<Arc<Picture>>>,
    reaches: watch::Sender<BTreeMap<SiteName, Reach>>,
) {
    let Some(federation) = &config.federation else { return };
    let user = &config.postgres.authentication.replication;
    loop {
        let picture = pictures.borrow_and_update().clone();
        let leads = picture.as_ref().is_some_and(|picture| {
            picture
                .view
                .site
                .as_ref()
                .and_then(|site| site.leader.as_ref())
                .is_some_and(|leader| leader.bound_to_my_lease)
                && picture.view.postgres.status.is_some()
        });
        let mut pause = Duration::from_secs(1);
        if leads
            && let Some(reports) =
                picture.as_ref().and_then(|p| p.view.federation.as_ref()).map(|f| &f.reports)
        {
            let found = reach::ask(&programs, &files, user, reports, &federation.site).await;
            let all = !found.is_empty()
                && found.values().all(|reach| matches!(reach, Reach::Reached { .. }));
            // The report has it, which the loop's next round makes.
            reaches.send_if_modified(|known| {
                let changed = *known != found;
                *known = found;
                changed
            });
            if all {
                pause = REACH_EVERY;
            }
        }
        tokio::time::sleep(pause).await;
    }
}
