//! Performs what was decided, and waits for its own writes in the pictures.

use std::collections::BTreeSet;

use regent_proto::name::NodeName;

use super::Agent;
use crate::act::{Outcome, Touched};
use crate::decide::Action;
use crate::decide::callbacks::Callback;
use crate::decide::remembered;
use crate::decide::view::View;
use crate::observe::peers;

impl Agent {
    /// Performs; true when something was done, so that the world is looked at again at once.
    pub(super) async fn act(&mut self, actions: &[Action], view: &View) -> anyhow::Result<bool> {
        let mut touched = Vec::new();
        for action in actions {
            if *action == Action::AskPeers {
                self.ask_peers(view, None);
                return Ok(false);
            }
            if let Action::AskCandidates(names) = action {
                self.ask_peers(view, Some(names));
                return Ok(false);
            }
            if let Action::Answer { request, answer } = action {
                self.requests.answer(*request, *answer);
                continue;
            }
            let client = self.postgres.client();
            match self.actor.perform(action, view, client).await {
                Outcome::Done(what) => {
                    match action {
                        Action::Slots(_) => self.postgres.forget_surroundings(),
                        Action::Reload => self.postgres.forget_files(),
                        _ => {}
                    }
                    if matches!(
                        action,
                        Action::Follow(_) | Action::SetSynchronousNames(_) | Action::Reload
                    ) && let Some(role) = self.told.role()
                    {
                        self.callbacks.call(Callback::Reload, role);
                    }
                    touched.push(what);
                }
                Outcome::NotDone(problem) => {
                    if problem != self.last_problem {
                        tracing::warn!(node = %self.config.name, problem, "not done");
                        self.last_problem = problem;
                    }
                    return Ok(false);
                }
                Outcome::Exit(problem) => anyhow::bail!(problem),
            }
        }
        // Own writes are waited for in the pictures: deciding on older ones would only conflict.
        for what in touched {
            match (what, &self.global_mirror) {
                (Touched::Site(revision), _) => self.site_mirror.reach(revision).await,
                (Touched::Global(revision), Some(mirror)) => mirror.reach(revision).await,
                (Touched::Global(_), None) | (Touched::Nothing, _) => {}
            }
        }
        // What comes of a hurry wakes.
        Ok(actions.iter().any(|action| *action != Action::RenewNow))
    }

    /// All of them, or those that are named.
    fn ask_peers(&self, view: &View, names: Option<&BTreeSet<NodeName>>) {
        let site = view.site.as_ref();
        let mut members = site
            .map(|site| remembered::asked(&self.config.name, site, &self.memory))
            .unwrap_or_default();
        members.retain(|name, _| names.is_none_or(|names| names.contains(name)));
        let (client, answers) = (self.http.clone(), self.peer_answers.clone());
        let asked = view.now;
        tokio::spawn(async move {
            let found = peers::ask(&client, members).await;
            answers.send_replace(Some((asked, found)));
        });
    }
}
