//! What failsafe binds this node to, for decisions; and what the rest of the agent sees, for
//! failsafe: whether PostgreSQL is open, what the site DCS says was promised, where other sites
//! answer.

use std::collections::{BTreeMap, BTreeSet};

use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::PrimaryState;
use regent_proto::time::BootTime;
use tokio::sync::watch;

use crate::act::failsafe::Shared;
use crate::config::Config;
use crate::config::dynamic::Dynamic;
use crate::decide::view::{
    DiskEpoch, FailsafeView, FederationView, PostgresView, PrimaryTenure, SiteView,
};
use crate::fence::rounds::Targets;

/// Reads and tells.
#[derive(Debug)]
pub struct FailsafeObserver {
    shared: Shared,
    targets: watch::Sender<Targets>,
    me: NodeName,
    /// Failsafe of the quorum is on here.
    promises: bool,
}

/// What this round has seen.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The site DCS.
    pub site: Option<&'a SiteView>,
    /// The quorum.
    pub federation: Option<&'a FederationView>,
    /// PostgreSQL.
    pub postgres: &'a PostgresView,
    /// The primary lease.
    pub primary: Option<&'a PrimaryTenure>,
    /// The dynamic configuration.
    pub dynamic: &'a Dynamic,
}

impl FailsafeObserver {
    /// Of this node.
    #[must_use]
    pub fn new(config: &Config, shared: Shared, targets: watch::Sender<Targets>) -> Self {
        let promises = config.federation.as_ref().is_some_and(|f| f.promise.is_some());
        Self { shared, targets, me: config.name.clone(), promises }
    }

    /// The view.
    pub fn read(&self, seen: &Seen<'_>, now: BootTime) -> FailsafeView {
        let open = seen.postgres.status.as_ref().is_some_and(|status| !status.in_recovery);
        self.shared.leader.lock().allow(seen.dynamic.failsafe_mode && open);
        let leads = seen
            .site
            .and_then(|site| site.leader.as_ref())
            .is_some_and(|leader| leader.name == self.me);
        let standby = seen
            .postgres
            .status
            .as_ref()
            .map_or_else(|| seen.postgres.standby_signal, |status| status.in_recovery);
        if seen.site.is_some() && !leads && standby {
            self.shared.word.leave();
        }
        self.tell_targets(seen, open);
        let (takes_not_before, last_promise_ends) = self.promises(seen, now).unwrap_or_default();
        FailsafeView {
            promised: self.shared.word.standing(now),
            stands: self.shared.leader.lock().stands(now),
            takes_not_before,
            last_promise_ends,
        }
    }

    /// Until when the site takes nothing, and when its last promise ends or ended.
    fn promises(
        &self,
        seen: &Seen<'_>,
        now: BootTime,
    ) -> Option<(Option<BootTime>, Option<BootTime>)> {
        let (site, federation) = (seen.site?, seen.federation?);
        let primary = federation.primary.as_ref()?;
        let mut given = self.shared.given.lock();
        given.saw_primary(primary.revision);
        // A site that never promised anything has lost no promise with its DCS.
        let knows_epoch = site.seen_epoch.is_some()
            || federation.disk_epoch == DiskEpoch::Absent
            || !self.promises;
        given.read(&site.promise, knows_epoch, primary.value.span_max, now);
        let token_of = match &primary.value.state {
            PrimaryState::Token { token, .. } => Some(&token.tenure),
            PrimaryState::Open | PrimaryState::Handover { .. } | PrimaryState::Fenced { .. } => {
                None
            }
        };
        let epoch = primary.value.epoch;
        given.forget_before(epoch, now);
        Some((given.until(now, token_of, epoch), given.last_end(epoch)))
    }

    fn tell_targets(&self, seen: &Seen<'_>, open: bool) {
        let mut targets = Targets {
            open: seen.primary.filter(|_| open).map(|held| held.tenure.clone()),
            urls: BTreeMap::new(),
        };
        for (site, report) in seen.federation.iter().flat_map(|f| &f.reports) {
            let urls: BTreeSet<String> =
                report.nodes.iter().filter_map(|node| node.promise_url.clone()).collect();
            if !urls.is_empty() {
                targets.urls.insert(SiteName::clone(site), urls);
            }
        }
        self.targets.send_if_modified(|known| {
            let changed = *known != targets;
            *known = targets;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use regent_proto::epoch::Epoch;
    use regent_proto::record::{Promise, Unknown, VERSION};

    use super::*;
    use crate::act::failsafe::SharedGiven;
    use crate::act::failsafe::word::Word;
    use crate::decide::tests::world::{World, name, point};
    use crate::decide::view::{At, PromiseRecord};
    use crate::fence::rounds::SharedLeader;

    const SPAN: std::time::Duration = std::time::Duration::from_secs(15);

    fn at(seconds: u64) -> BootTime {
        BootTime::from_nanos(seconds * 1_000_000_000)
    }

    struct Bed {
        observer: FailsafeObserver,
        shared: Shared,
        dynamic: Dynamic,
        _dir: tempfile::TempDir,
    }

    fn bed() -> Bed {
        let dir = tempfile::tempdir().expect("a directory");
        let word = Word::open(dir.path().join("word"), at(1)).expect("nothing there");
        let shared = Shared {
            leader: SharedLeader::default(),
            word: Arc::new(word),
            given: SharedGiven::default(),
        };
        let observer = FailsafeObserver {
            shared: shared.clone(),
            targets: watch::Sender::new(Targets::default()),
            me: name("a1"),
            promises: true,
        };
        let dynamic = Dynamic { failsafe_mode: true, ..Dynamic::default() };
        Bed { observer, shared, dynamic, _dir: dir }
    }

    impl Bed {
        fn read(&self, world: &World, now: BootTime) -> FailsafeView {
            let seen = Seen {
                site: world.view.site.as_ref(),
                federation: world.view.federation.as_ref(),
                postgres: &world.view.postgres,
                primary: world.view.tenure.primary.as_ref(),
                dynamic: &self.dynamic,
            };
            self.observer.read(&seen, now)
        }
    }

    /// `a1` leads site `a`, whose leader of before promised `b1` of site `b` not to take primacy.
    fn promised() -> World {
        let mut world = World::new();
        world.standby(3, 500);
        world.held_by_b();
        world.site().promise = PromiseRecord::Read(At {
            value: Promise {
                version: VERSION,
                site: name("b"),
                node: name("b1"),
                tenure: name("t7"),
                epoch: Epoch::new(3),
                span: SPAN,
                unknown: Unknown::new(),
            },
            revision: 40,
        });
        world
    }

    #[test]
    fn a_new_leader_keeps_what_the_leader_before_it_promised() {
        let (bed, mut world) = (bed(), promised());
        assert_eq!(bed.read(&world, at(100)).takes_not_before, Some(at(115)));
        assert_eq!(bed.read(&world, at(114)).takes_not_before, Some(at(115)), "counted once");
        let primary = world.primary().clone();
        let taken = bed.shared.given.lock().begin_take(70, at(114), None, &primary);
        assert_eq!(taken, Err(at(115)));
        // A token of another tenure ends nothing; one of the promised tenure does.
        world.token("a", point(3, 500));
        assert_eq!(bed.read(&world, at(114)).takes_not_before, Some(at(115)));
        let PrimaryState::Token { token, .. } = &mut world.primary().state else { return };
        token.tenure = name("t7");
        assert_eq!(bed.read(&world, at(114)).takes_not_before, None);
    }

    /// What ended long ago still tells until when the holder may have acknowledged, under its own epoch.
    #[test]
    fn the_end_of_the_last_promise_is_known_after_it_ended() {
        let (bed, mut world) = (bed(), promised());
        bed.read(&world, at(100));
        let view = bed.read(&world, at(400));
        assert_eq!((view.takes_not_before, view.last_promise_ends), (None, Some(at(115))));
        world.primary().epoch = Epoch::new(4);
        assert_eq!(bed.read(&world, at(401)).last_promise_ends, None);
    }

    #[test]
    fn a_site_whose_epoch_is_gone_may_have_promised_anything() {
        let (mut bed, mut world) = (bed(), promised());
        world.site().promise = PromiseRecord::Absent;
        assert_eq!(bed.read(&world, at(100)).takes_not_before, None);
        world.site().seen_epoch = None;
        let span = world.primary().span_max;
        assert_eq!(bed.read(&world, at(100)).takes_not_before, Some(at(100).plus(span)));
        // Unknown is unknown for ever, and over all the same.
        let view = bed.read(&world, at(200).plus(span));
        assert_eq!(view.takes_not_before, None);
        assert_eq!(view.last_promise_ends, Some(at(100).plus(span)));
        let mut new = world.clone();
        new.federation().disk_epoch = DiskEpoch::Absent;
        bed.shared.given = SharedGiven::default();
        bed.observer.shared = bed.shared.clone();
        assert_eq!(bed.read(&new, at(100)).takes_not_before, None, "a site that is new");
    }

    #[test]
    fn only_an_open_server_of_this_tenure_asks_and_only_a_standby_gives_its_word_again() {
        let (bed, world) = (bed(), World::new());
        let asks = |bed: &Bed| {
            let mut leader = bed.shared.leader.lock();
            leader.written([(name("a1"), String::new()), (name("a2"), String::new())].into());
            leader.renewed(regent_proto::time::Deadline::at(at(200)));
            leader.question(&name("a1"), at(100)).is_some()
        };
        bed.read(&world, at(100));
        assert!(asks(&bed));
        assert_eq!(bed.observer.targets.borrow().open, Some(name("t1")));
        let mut closed = world.clone();
        closed.standby(3, 500);
        bed.read(&closed, at(100));
        assert!(!asks(&bed));
        assert_eq!(bed.observer.targets.borrow().open, None);

        let (word, five) = (&bed.shared.word, std::time::Duration::from_secs(5));
        word.enter(at(100)).expect("nothing promised");
        bed.read(&closed, at(100));
        assert!(word.accept(&name("a2"), at(100), five).is_err(), "it has the leader key");
        let mut writes = world;
        writes.leader(None);
        bed.read(&writes, at(100));
        assert!(word.accept(&name("a2"), at(100), five).is_err(), "it writes");
        closed.leader(Some("a2"));
        bed.read(&closed, at(100));
        assert!(word.accept(&name("a2"), at(100), five).is_ok());
    }
}
