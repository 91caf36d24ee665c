//! Performs what was decided, and waits for its own writes in the pictures.

use super::Agent;
use crate::act::{Outcome, Touched};
use crate::decide::Action;
use crate::decide::view::View;
use crate::observe::peers;

impl Agent {
    /// Performs; true when something was done, so that the world is looked at again at once.
    pub(super) async fn act(&mut self, actions: &[Action], view: &View) -> anyhow::Result<bool> {
        let mut touched = Vec::new();
        for action in actions {
            if *action == Action::AskPeers {
                self.ask_peers(view);
                return Ok(false);
            }
            let client = self.postgres.client();
            match self.actor.perform(action, view, client).await {
                Outcome::Done(what) => {
                    if matches!(action, Action::Slots(_)) {
                        self.postgres.forget_surroundings();
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

    fn ask_peers(&self, view: &View) {
        let mut members = view.site.as_ref().map(|s| s.members.clone()).unwrap_or_default();
        members.remove(&self.config.name);
        let (client, answers) = (self.http.clone(), self.peer_answers.clone());
        let asked = view.now;
        tokio::spawn(async move {
            let found = peers::ask(&client, members).await;
            answers.send_replace(Some((asked, found)));
        });
    }
}
