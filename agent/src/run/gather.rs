//! Gathers the view of one round from everything that observes, and takes a changed dynamic
//! configuration in.

use regent_guardian::page::WatchdogWanted;
use regent_proto::time::BootTime;

use super::Agent;
use crate::config::dynamic::Dynamic;
use crate::decide::view::{GuardianView, JobKind, PeersView, TenureView, View};
use crate::fence::watchdog;
use crate::observe::clock::{boot_time, wall_time};
use crate::observe::failsafe::Seen;
use crate::observe::guardian;
use crate::observe::postgres::Extra;

impl Agent {
    /// What a decision sees, and beside it what only people are told.
    pub(super) async fn observe(&mut self) -> (View, Extra) {
        let job = self.actor.jobs.running();
        let in_force = self.actor.in_force();
        self.postgres.expects(&self.actor.wanted, &in_force.refused);
        let follows = in_force.follow;
        if job.is_none() {
            self.adopt_what_was_started().await;
        }
        let postmaster = self.actor.server.postmaster();
        let owned = !matches!(job, None | Some(JobKind::CreateUsers | JobKind::PrePromote));
        let frozen = self.deadlines.page().frozen();
        let (mut postgres, extra) = self.postgres.read(postmaster, follows, (owned, frozen)).await;
        let tenures = self.actor.renewal.tenures().borrow().clone();
        // Before anything is bound to it.
        if let Some(Err(error)) = tenures.lease.map(|lease| self.own_leases.note(lease)) {
            tracing::warn!(%error, "noting this node's lease in the run directory");
        }
        let pictures = self.site_mirror.pictures();
        let read = {
            let picture = pictures.borrow();
            // After the picture: what is counted from when it was first seen must not begin before.
            let now = boot_time();
            self.site_observer.read(&picture, tenures.lease, now, &self.actor.dynamic)
        };
        let read = read.map(|(site, dynamic)| {
            (site, dynamic.filter(|dynamic| *dynamic != self.actor.dynamic))
        });
        let site = match read {
            None => None,
            Some((site, None)) => {
                self.refused_dynamic = None;
                Some(site)
            }
            Some((site, Some(dynamic))) => {
                self.adopt_dynamic(dynamic).await;
                Some(site)
            }
        };
        postgres.configuration.wanted = self.actor.wanted.fingerprint();
        postgres.configuration.in_force = in_force.fingerprint;
        let disk_epoch = self.actor.epoch_file.read();
        let federation = match (&mut self.global_observer, &self.global_mirror) {
            (Some(observer), Some(mirror)) => {
                let pictures = mirror.pictures();
                let picture = pictures.borrow();
                // Likewise: the wait of a take or promotion is counted from here (protocol.md rule 4),
                // and a disk above may have hung since this round began.
                Some(observer.read(&picture, disk_epoch, boot_time()))
            }
            (Some(_) | None, _) => None,
        };
        // After everything that can wait: no right seems to lie ahead that has ended meanwhile.
        let now = boot_time();
        if let Some(status) = &mut postgres.status {
            status.wall = wall_time();
        }
        if let Some(answers) = self.peer_answers.borrow().clone() {
            self.peers = Some(answers);
        }
        let peers = self
            .peers
            .as_ref()
            .map(|(asked, answers)| PeersView { age: now.since(*asked), answers: answers.clone() });
        let seen = Seen {
            site: site.as_ref(),
            federation: federation.as_ref(),
            postgres: &postgres,
            primary: tenures.primary.as_ref(),
            dynamic: &self.actor.dynamic,
        };
        let failsafe = self.failsafe.read(&seen, now);
        let requests = self.requests_view(&postgres, &extra);
        let mut view = View {
            now,
            failsafe,
            site,
            federation,
            remote: self.remote_view(),
            postgres,
            tenure: TenureView {
                has_lease: tenures.lease.is_some(),
                site: self.deadlines.site(),
                primary: tenures.primary,
            },
            job,
            checkpoint_runs: self.actor.jobs.checkpoint_runs(),
            finished: self.finished.clone(),
            peers,
            guardian: self.guardian_view(now),
            requests,
        };
        let shortest = watchdog::shortest_lease(&self.config, &self.actor.dynamic, &view);
        // Before the site was read the TTL in force is not known, only the file's or the one kept.
        if view.site.is_some() {
            watchdog::lower(self.deadlines.page(), &self.config, &shortest);
        }
        view.guardian.watchdog.too_long = !watchdog::bears(self.deadlines.page(), &shortest);
        let wanted = watchdog::mode(&self.config, &shortest);
        view.guardian.watchdog.wanted = wanted != WatchdogWanted::Off;
        view.guardian.watchdog.required = wanted == WatchdogWanted::Required;
        (view, extra)
    }

    fn guardian_view(&self, now: BootTime) -> GuardianView {
        let server = &self.actor.server;
        let beside = server.beside().borrow().clone();
        guardian::view(self.deadlines.page(), &beside, server.worst_stop(), now)
    }

    /// Takes a changed dynamic configuration in. Its timings count together or not at all (I21).
    async fn adopt_dynamic(&mut self, dynamic: Dynamic) {
        let (dynamic, refused) = self.config.fitted(dynamic, &self.actor.dynamic);
        let refused =
            refused.map(|error| format!("the timings in `config` are not taken: {error}"));
        if self.refused_dynamic != refused
            && let Some(problem) = &refused
        {
            tracing::warn!(node = %self.config.name, "{problem}");
        }
        self.refused_dynamic = refused;
        // With refused timings it differs from what is in force in every round.
        if dynamic == self.actor.dynamic {
            return;
        }
        let timing = self.config.site_timing(&dynamic);
        self.actor.take_dynamic(dynamic);
        self.actor.renewal.renew_site(timing).await;
    }
}
