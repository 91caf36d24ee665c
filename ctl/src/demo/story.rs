//! The acts of the demo: switchover, death of a node, its return, switch back.

use std::time::Duration;

use regent_proto::name::{NodeName, SiteName};
use regent_proto::wire::Federation;

use crate::clock;
use crate::exit::Failure;
use crate::lab::Lab;
use crate::lab::ready::missing;
use crate::load::Writer;
use crate::plan;
use crate::render::Output;
use crate::screen::{Tone, span};
use crate::verbs::switchover;

use super::events::Event;
use super::stage::Stage;

/// How long anything that must happen may take.
const LIMIT: Duration = Duration::from_secs(90);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Undisturbed writing before an event and after it.
const CALM: Duration = Duration::from_secs(2);
/// Rows after which writes count as back.
const BACK: usize = 20;
/// What a failover may take beyond the site's TTL.
const BEYOND_TTL: Duration = Duration::from_secs(2);

/// The story with everything it acts on.
#[derive(Debug)]
pub struct Story<'a> {
    /// The federation's machine.
    pub lab: &'a Lab,
    /// The client.
    pub writer: &'a Writer,
    /// Where it is shown.
    pub stage: &'a Stage,
    /// For what depends on the terminal.
    pub output: &'a Output,
    /// What happened so far.
    pub events: Vec<Event>,
}

impl Story<'_> {
    /// All acts. After an error the events so far stand, the last one with its problem.
    pub async fn play(&mut self) -> Result<(), Failure> {
        let (home, away) = self.sites()?;
        tokio::time::sleep(CALM).await;
        self.switch(&home, &away).await?;
        self.wait_ready("a synchronous standby for the new primary").await?;
        let dead = self.kill_primary(&away).await?;
        self.revive(&dead).await?;
        self.switch(&away, &home).await?;
        self.wait_ready("every node to stream").await
    }

    fn sites(&self) -> Result<(SiteName, SiteName), Failure> {
        let topology = self.lab.topology();
        let home = topology.primary.clone();
        let away = topology.data_sites().map(|site| site.name.clone()).find(|site| *site != home);
        let away = away.ok_or_else(|| Failure::usage("the demo needs two data sites"))?;
        Ok((home, away))
    }

    /// Runs one act and keeps it as an event, with its problem if it has one.
    async fn event<T>(
        &mut self,
        name: &str,
        title: &str,
        limit: Option<Duration>,
        act: impl AsyncFnOnce(&Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.stage.act(title);
        let from = self.writer.now();
        let done = async {
            let done = act(self).await?;
            self.writer.wait_for(BACK, self.writer.now(), LIMIT).await?;
            Ok(done)
        };
        let done: Result<T, Failure> = done.await;
        let event = Event {
            name: name.to_owned(),
            title: title.to_owned(),
            from,
            to: self.writer.now(),
            limit,
            problem: done.as_ref().err().map(|problem| problem.message.clone()),
        };
        let outage = self
            .writer
            .look(|history| crate::load::outage(&history.acks, event.from, event.to).length);
        if done.is_ok() {
            let outage = span(clock::millis(outage));
            self.stage
                .say(Tone::Good, format!("longest gap between two acknowledgements: {outage}"));
        }
        self.events.push(event);
        self.stage.still_picture(self.output);
        if done.is_ok() {
            tokio::time::sleep(CALM).await;
        }
        done
    }

    async fn switch(&mut self, from: &SiteName, to: &SiteName) -> Result<(), Failure> {
        let name = format!("switchover-{from}-{to}");
        let title = format!("switchover {from} → {to}");
        self.event(&name, &title, None, async |story: &Self| story.switchover(to).await).await
    }

    async fn switchover(&self, to: &SiteName) -> Result<(), Failure> {
        let coordinators = self.lab.coordinators();
        let mut seen = 0;
        let done = switchover::carry_out(
            &coordinators,
            to.as_str(),
            "demo",
            |agreed| self.stage.lines(&plan::plan(agreed, self.stage.width())),
            |operation| {
                for step in operation.steps.iter().skip(seen) {
                    self.stage.lines(&[plan::step(operation, step)]);
                }
                seen = seen.max(operation.steps.len());
            },
        );
        let ended = tokio::time::timeout(LIMIT, done).await.map_err(|_| {
            Failure::error(format!("the switchover to {to} has not ended within {LIMIT:?}"))
        })??;
        self.stage.lines(&[plan::ending(&ended)]);
        Ok(())
    }

    async fn kill_primary(&mut self, site: &SiteName) -> Result<NodeName, Failure> {
        let limit = self.lab.topology().policy.site_ttl.0 + BEYOND_TTL;
        let leader = self.leader().await?;
        let title = format!("death of {leader} in {site}");
        self.event(&format!("failover-{site}"), &title, Some(limit), async |story: &Self| {
            let count = story.lab.kill_node(&leader).await?;
            story.stage.say(
                Tone::Warn,
                format!("SIGKILL to the agent and PostgreSQL of {leader}: {count} processes"),
            );
            let next = story.until("another node leads", |federation| {
                let lease = federation.lease.as_ref()?;
                let other = lease.held && lease.node != leader.as_str();
                other.then(|| lease.node.clone())
            });
            let next = next.await?;
            story.stage.say(Tone::Plain, format!("{next} leads {site} now"));
            Ok(leader.clone())
        })
        .await
    }

    /// The node that holds the primary lease.
    async fn leader(&self) -> Result<NodeName, Failure> {
        let name = self.until("a node holds the primary lease", |federation| {
            federation.lease.as_ref().filter(|lease| lease.held).map(|lease| lease.node.clone())
        });
        let name = name.await?;
        name.parse().map_err(|e| Failure::error(format!("read the primary lease: {e}")))
    }

    async fn revive(&mut self, node: &NodeName) -> Result<(), Failure> {
        let title = format!("return of {node}");
        self.event(&format!("rejoin-{node}"), &title, None, async |story: &Self| {
            story.lab.start_agent(node).await?;
            let begun = clock::now();
            story.stage.say(Tone::Plain, format!("agent of {node} started"));
            story.wait_ready(&format!("{node} to stream")).await?;
            let took = span(clock::millis(begun.elapsed()));
            story.stage.say(Tone::Plain, format!("{node} streams again after {took}"));
            Ok(())
        })
        .await
    }

    /// Waits until the federation is as its topology wants it, saying what is missing.
    async fn wait_ready(&self, what: &str) -> Result<(), Failure> {
        let mut said = String::new();
        let topology = self.lab.topology();
        let stage = self.stage;
        let begun = clock::now();
        let ready = self.until(what, |federation| {
            let missing = missing(topology, federation);
            let text = missing.iter().map(|one| one.what.as_str()).collect::<Vec<_>>().join("; ");
            if !text.is_empty() && text != said && begun.elapsed() > Duration::from_secs(1) {
                stage.say(Tone::Dim, format!("waiting for {what}: {text}"));
                said = text;
            }
            missing.is_empty().then_some(())
        });
        ready.await
    }

    /// Waits for a condition of the federation.
    async fn until<T>(
        &self,
        what: &str,
        mut condition: impl FnMut(&Federation) -> Option<T>,
    ) -> Result<T, Failure> {
        let coordinators = self.lab.coordinators();
        let begun = clock::now();
        loop {
            let seen = coordinators.federation().await;
            if let Some(found) = seen.as_ref().ok().and_then(&mut condition) {
                return Ok(found);
            }
            if begun.elapsed() > LIMIT {
                let saw = match seen {
                    Ok(federation) => {
                        let missing = missing(self.lab.topology(), &federation);
                        missing.into_iter().map(|one| one.what).collect::<Vec<_>>().join("; ")
                    }
                    Err(problem) => problem.message,
                };
                return Err(Failure::error(format!("waited {LIMIT:?} for {what}: {saw}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
