//! The cluster that `standby_cluster` names, as this node sees it: asked by a task beside the loop while
//! this node leads, or nobody does.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Agent;
use crate::act::postgres::files::Files;
use crate::act::postgres::programs::Programs;
use crate::act::publish::Picture;
use crate::config::Config;
use crate::config::standby_cluster::StandbyCluster;
use crate::decide::view::RemoteView;
use crate::observe::remote::{self, RemoteAnswer};

/// How often it is asked while WAL comes from there: a failover there may leave this node ahead.
const EVERY: Duration = Duration::from_secs(5);
/// How often while none does.
const AGAIN: Duration = Duration::from_secs(1);

impl Agent {
    /// The section, where it says whom this cluster follows.
    fn standby_cluster(&self) -> Option<&StandbyCluster> {
        let section = self.actor.dynamic.standby_cluster.as_ref();
        section.filter(|_| self.config.federation.is_none())
    }

    pub(super) fn remote_view(&self) -> Option<RemoteView> {
        let section = self.standby_cluster()?;
        let answer = self.remote.borrow();
        let answer = answer.as_ref().filter(|answer| answer.addresses == section.addresses);
        Some(RemoteView {
            addresses: section.addresses.clone(),
            slot: section.slot.clone(),
            found: answer.and_then(|answer| answer.found.clone()),
        })
    }

    /// What a person should know of it.
    pub(super) fn remote_warning(&self) -> Option<String> {
        let section = self.standby_cluster()?;
        let answer = self.remote.borrow();
        let problem = answer.as_ref().filter(|answer| answer.addresses == section.addresses)?;
        problem.problem.as_ref().map(|problem| format!("standby_cluster: {problem}"))
    }
}

/// Begins to ask.
pub(super) fn asks(
    config: &Arc<Config>,
    programs: &Programs,
    files: &Files,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
) -> watch::Sender<Option<RemoteAnswer>> {
    let answers = watch::Sender::new(None);
    if config.federation.is_none() {
        let (config, programs, files) = (Arc::clone(config), programs.clone(), files.clone());
        tokio::spawn(keep_asking(config, programs, files, pictures, answers.clone()));
    }
    answers
}

async fn keep_asking(
    config: Arc<Config>,
    programs: Programs,
    files: Files,
    mut pictures: watch::Receiver<Option<Arc<Picture>>>,
    answers: watch::Sender<Option<RemoteAnswer>>,
) {
    let user = &config.postgres.authentication.replication;
    loop {
        let picture = pictures.borrow_and_update().clone();
        let Some(addresses) = picture.as_ref().and_then(|picture| asked(&config, picture)) else {
            if pictures.changed().await.is_err() {
                return;
            }
            continue;
        };
        let said = remote::ask(&programs, &files, user, &addresses).await;
        let before = answers.borrow().clone().filter(|answer| answer.addresses == addresses);
        let known = before.as_ref().and_then(|answer| answer.found.clone());
        let (found, problem) = match said {
            Ok(found) => (Some(found), None),
            // What was told before is older, and so judged.
            Err(problem) => (known, Some(problem)),
        };
        if let Some(problem) = &problem
            && before.is_none_or(|answer| answer.problem.is_none())
        {
            tracing::warn!(node = %config.name, problem, "standby_cluster: nobody answers there");
        }
        let streams = picture.is_some_and(|picture| {
            picture.view.postgres.status.as_ref().is_some_and(|status| status.receiver.is_some())
        });
        let pause = if streams && problem.is_none() { EVERY } else { AGAIN };
        answers.send_replace(Some(RemoteAnswer { addresses, found, problem }));
        tokio::time::sleep(pause).await;
        if pictures.has_changed().is_err() {
            return;
        }
    }
}

/// Whom this node has to ask, if anybody.
fn asked(config: &Config, picture: &Picture) -> Option<Vec<(String, u16)>> {
    let section = picture.dynamic.standby_cluster.as_ref()?;
    let leader = picture.view.site.as_ref()?.leader.as_ref();
    let concerned = leader.is_none_or(|leader| leader.name == config.name);
    (concerned && !section.addresses.is_empty()).then(|| section.addresses.clone())
}
