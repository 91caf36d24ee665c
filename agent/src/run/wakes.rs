//! What wakes the loop, and how long it sleeps otherwise; jobs that ended and what the guard did are
//! taken in here.

use std::collections::BTreeMap;
use std::time::Duration;

use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::Reach;
use regent_proto::time::BootTime;
use tokio::sync::watch;
use tokio_postgres::Client;

use super::Agent;
use crate::act::postgres::server::{Beside, Postmaster};
use crate::decide::view::{JobKind, PeerAnswer, Policy, Process, View};
use crate::fence::renewal::Tenures;
use crate::observe::clock::boot_time;
use crate::observe::mirror::{Mirror, Picture};
use crate::observe::postgres::{self, ASK_AGAIN};
use crate::observe::remote::RemoteAnswer;

/// Rounds in a row that each did something, after which the loop waits a moment: an effect that does not
/// show must not spin.
const ROW_MOST: u32 = 5;

/// Such a row. A round with nothing to do, or that came to nothing, ends it: otherwise five acts in the
/// life of an agent would have it look five times a second for ever. The simulator's agents have one too.
#[derive(Debug, Default)]
pub struct Row(u32);

impl Row {
    /// A round is over. True: the next one follows at once.
    pub fn goes_on(&mut self, did: bool) -> bool {
        self.0 = if did { self.0.saturating_add(1) } else { 0 };
        did && !self.is_long()
    }

    /// The loop waits a moment after each of its rounds.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.0 >= ROW_MOST
    }

    /// Something new has happened.
    pub fn end(&mut self) {
        self.0 = 0;
    }
}

/// How often a primary in synchronous mode looks who streams from it: it is not told when one that
/// commits wait for leaves, nor when one comes back that they could wait for. One small query on the open connection, and a round only where it finds a change: a
/// round would look at everything, tell the publisher, and write to the DCS what moved.
const STANDBYS_AGAIN: Duration = Duration::from_millis(200);

/// How often the leader of a federated site comes round at least: the quorum's report of it is at most so
/// old, and a site that does not report for long is not counted on.
const REPORTS_AGAIN: Duration = Duration::from_secs(1);

/// How often what a copy says of its progress is taken in.
const PROGRESS_AGAIN: Duration = Duration::from_secs(1);

/// How soon an upgrade that was asked for looks again whether nothing is in its way: of the end of the
/// operator's programs, and of its own bounds, nobody tells.
const UPGRADE_AGAIN: Duration = Duration::from_millis(200);

/// Everything that wakes the loop.
pub(super) struct Wakes {
    site: watch::Receiver<Picture>,
    global: Option<watch::Receiver<Picture>>,
    server: watch::Receiver<Option<Postmaster>>,
    beside: watch::Receiver<Beside>,
    tenures: watch::Receiver<Tenures>,
    peers: watch::Receiver<Option<(BootTime, BTreeMap<NodeName, PeerAnswer>)>>,
    reaches: watch::Receiver<BTreeMap<SiteName, Reach>>,
    remote: watch::Receiver<Option<RemoteAnswer>>,
}

impl Wakes {
    pub(super) fn new(agent: &Agent) -> Self {
        Self {
            site: agent.site_mirror.pictures(),
            global: agent.global_mirror.as_ref().map(Mirror::pictures),
            server: agent.actor.server.watch(),
            beside: agent.actor.server.beside(),
            tenures: agent.actor.renewal.tenures(),
            peers: agent.peer_answers.subscribe(),
            reaches: agent.reaches.subscribe(),
            remote: agent.remote.subscribe(),
        }
    }

    /// A closed channel never wakes: its task is gone and the loop goes on by time alone.
    async fn changed(&mut self) {
        async fn change<T>(receiver: &mut watch::Receiver<T>) {
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        let global = async {
            match &mut self.global {
                Some(global) => change(global).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = change(&mut self.site) => {}
            () = global => {}
            () = change(&mut self.server) => {}
            () = change(&mut self.beside) => {}
            () = change(&mut self.tenures) => {}
            () = change(&mut self.peers) => {}
            () = change(&mut self.reaches) => {}
            () = change(&mut self.remote) => {}
        }
    }
}

/// Who streams from this server, as the round saw it, with whether commits wait for it; `None` where
/// that is nothing to hurry for: it does not write, or commits wait for nobody and are not to.
pub(super) fn waited_for(policy: &Policy, view: &View) -> Option<BTreeMap<String, bool>> {
    let status = view.postgres.status.as_ref()?;
    let waits = policy.synchronous_mode || !status.synchronous_standby_names.is_empty();
    (!status.in_recovery && waits).then(|| status.streams())
}

/// Whether it is this node that reports of its site.
fn reports(view: &View) -> bool {
    let leader = view.site.as_ref().and_then(|site| site.leader.as_ref());
    view.federation.is_some() && leader.is_some_and(|leader| leader.bound_to_my_lease)
}

/// Ends once others stream than these, or the server counts one of them otherwise, or nobody can tell.
async fn other_standbys(client: Option<&Client>, streams: Option<BTreeMap<String, bool>>) {
    let (Some(client), Some(streams)) = (client, streams) else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(STANDBYS_AGAIN).await;
        if postgres::streams(client).await.as_ref() != Some(&streams) {
            return;
        }
    }
}

impl Agent {
    /// How long the loop sleeps if nothing wakes it: until the decision's own instant, or less where
    /// what was decided did not come about yet, or where this round is to be told anew.
    pub(super) fn sleeps_at_most(&self, wake_at: BootTime, undone: bool, view: &View) -> Duration {
        let now = boot_time();
        let mut most = wake_at.since(now);
        if self.row.is_long() {
            most = most.min(Duration::from_millis(200));
        }
        if undone {
            most = most.min(Duration::from_millis(250));
        }
        if view.postgres.process == Process::Starting {
            most = most.min(ASK_AGAIN);
        }
        if let Some(at) = self.postgres.looks_again() {
            most = most.min(at.since(now));
        }
        if reports(view) {
            most = most.min(REPORTS_AGAIN);
        }
        if self.actor.jobs.progress().borrow().is_some() {
            most = most.min(PROGRESS_AGAIN);
        }
        if self.upgrade_asked.is_some() {
            most = most.min(UPGRADE_AGAIN);
        }
        most
    }

    /// Sleeps, and takes in what woke it.
    pub(super) async fn wait(
        &mut self,
        wakes: &mut Wakes,
        wait: Duration,
        streams: Option<BTreeMap<String, bool>>,
    ) {
        let client = self.postgres.client();
        tokio::select! {
            () = other_standbys(client, streams) => {}
            () = self.stop.cancelled() => {}
            Some(()) = self.upgrade.asked.recv() => {
                self.upgrade_asked = self.upgrade_asked.or_else(|| Some(boot_time()));
            }
            () = tokio::time::sleep(wait) => {}
            finished = self.finished_jobs.recv() => {
                if let Some(finished) = finished {
                    self.actor.jobs.ended(&finished.job);
                    self.actor.keep_dynamic();
                    self.postgres.forget();
                    if finished.job != JobKind::Checkpoint {
                        let failed = |why| format!("{:?} failed: {why}", finished.job);
                        self.job_problem = finished.problem.as_ref().map(failed);
                    }
                    self.finished = Some(finished);
                    self.row.end();
                }
            }
            fenced = self.fenced.recv() => {
                if let Some(fenced) = fenced {
                    self.say_fenced(fenced);
                }
            }
            () = self.requests.arrive() => self.row.end(),
            () = wakes.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::tests::world::{World, sender};

    #[test]
    fn a_round_with_nothing_to_do_ends_a_row_however_long() {
        let mut row = Row::default();
        for _ in 1..ROW_MOST {
            assert!(row.goes_on(true));
        }
        assert!(!row.goes_on(true), "an effect that does not show");
        assert!(row.is_long());
        assert!(!row.goes_on(false), "nothing follows at once");
        assert!(!row.is_long(), "and the next sleep is a whole one");
        assert!(row.goes_on(true));
    }

    #[test]
    fn the_leader_of_a_federated_site_is_the_one_that_reports() {
        let mut world = World::new();
        assert!(reports(&world.view));
        world.standby(3, 500);
        world.held_by_b();
        assert!(reports(&world.view), "a standby site's, too");
        world.leader(Some("a2"));
        assert!(!reports(&world.view));
        let mut alone = World::new();
        alone.view.federation = None;
        assert!(!reports(&alone.view));
    }

    #[test]
    fn a_primary_looks_at_everybody_who_streams_while_commits_wait_or_are_to() {
        let looks = |world: &World| waited_for(&world.policy, &world.view);
        let mut world = World::new();
        world.status().senders.insert("a3".to_owned(), sender(400));
        let third = world.status().senders.get_mut("a3").expect("just put there");
        third.synchronous = false;
        let both = BTreeMap::from([("a2".to_owned(), true), ("a3".to_owned(), false)]);
        assert_eq!(looks(&world), Some(both.clone()));
        // Who catches up streams soon, and is seen then.
        world.status().senders.get_mut("a3").expect("just put there").streaming = false;
        assert_eq!(looks(&world).map(|seen| seen.len()), Some(1));
        // The list is of nobody, or empty: one that comes back is seen all the same.
        for list in ["\"__regent_nobody__\"", ""] {
            let mut world = world.clone();
            world.status().senders.clear();
            world.status().synchronous_standby_names = list.to_owned();
            assert_eq!(looks(&world), Some(BTreeMap::new()), "{list}");
        }
        // A list that the mode is to take away is still waited for.
        world.policy.synchronous_mode = false;
        assert!(looks(&world).is_some());
        world.status().synchronous_standby_names.clear();
        assert_eq!(looks(&world), None);
        let mut standby = World::new();
        standby.standby(3, 500);
        assert_eq!(looks(&standby), None);
        standby.view.postgres.status = None;
        assert_eq!(looks(&standby), None);
    }
}
