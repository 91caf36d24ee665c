//! Failsafe rounds: what an agent asks the members of its site (Patroni's `/failsafe`) and the leaders of
//! other sites (protocol.md rule 11), as messages between agents. Who is asked, when, and what an answer is
//! are the product's; replaced are HTTP and the file that keeps a member's word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use regent_agent::act::failsafe::sites::Promised;
use regent_agent::act::failsafe::word::Slip;
use regent_agent::api::{self, failsafe, promise};
use regent_agent::decide::failsafe::site::{Answer, Members};
use regent_agent::fence::renewal::Tenures;
use regent_agent::fence::rounds::{AskMembers, AskSites, Spawn};
use regent_dcs::clock::BootClock;
use regent_proto::name::{NodeName, SiteName};
use regent_proto::promise::PromiseRequest;
use tokio::sync::{oneshot, watch};

use crate::event::Event;
use crate::mutants::Mutant;
use crate::network::HostId;
use crate::tasks::{ProcessClock, Task};
use crate::world::{ProcessId, Sim, World};

/// The addresses of other sites' nodes.
type Urls = BTreeMap<SiteName, BTreeSet<String>>;

/// What is asked.
#[derive(Debug, Clone)]
pub enum Asked {
    /// This member leads and has lost its DCS: may it go on?
    Member(NodeName),
    /// A promise not to take primacy.
    Site(PromiseRequest),
}

/// What is answered.
#[derive(Debug)]
pub enum Said {
    /// By a member.
    Member(Answer),
    /// By a site.
    Site(Option<Promised>),
}

/// A question on its way.
#[derive(Debug)]
pub struct Question {
    from: HostId,
    asked: Asked,
    answer: oneshot::Sender<Said>,
}

/// An answer on its way.
#[derive(Debug)]
pub struct Reply {
    said: Said,
    answer: oneshot::Sender<Said>,
}

/// Where the present agent of a node answers, and what it goes on by.
#[derive(Clone)]
pub struct Door {
    pub(crate) shared: api::Shared,
    pub(crate) clock: BootClock,
    pub(crate) tenures: watch::Receiver<Tenures>,
}

/// The file that keeps a member's word. Its disk may be full.
#[derive(Debug, Clone, Default)]
pub struct Paper(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    text: Option<String>,
    full: bool,
    /// A mutant's: whoever starts finds nothing.
    lost: bool,
}

impl Paper {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk is full, or not any more.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Nothing is found of what was written.
    pub fn lose(&self) {
        self.lock().lost = true;
    }
}

impl Slip for Paper {
    fn read(&self) -> std::io::Result<Option<String>> {
        let written = self.lock();
        Ok(written.text.clone().filter(|_| !written.lost))
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        let mut written = self.lock();
        if written.full {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        written.text = Some(text.to_owned());
        Ok(())
    }

    fn remove(&self) -> std::io::Result<()> {
        self.lock().text = None;
        Ok(())
    }
}

impl Door {
    /// As the product's listeners: no picture yet is no answer that anybody goes by.
    async fn answer(&self, asked: &Asked) -> Said {
        let picture = self.shared.pictures.borrow().clone();
        let now = self.clock.now();
        match asked {
            Asked::Member(leader) => {
                let me = &self.shared.config.name;
                let allowed = picture.as_ref().ok_or_else(|| "no picture yet".to_owned()).and_then(
                    |picture| failsafe::may_agree(me, picture, leader).map_err(|(_, why)| why),
                );
                let kept = allowed.and_then(|span| {
                    let kept = self.shared.failsafe.word.accept(leader, now, span);
                    kept.map(|()| span).map_err(|problem| problem.to_string())
                });
                Said::Member(match kept {
                    Ok(span) => Answer::Accepted { span: Some(span) },
                    Err(why) => Answer::Refused(why),
                })
            }
            Asked::Site(request) => Said::Site(match picture {
                Some(picture) => promise::promise(&self.shared, &picture, request, now).await.ok(),
                None => None,
            }),
        }
    }
}

impl Sim {
    /// Pending for as long as nothing comes back: whoever asks has a bound.
    async fn ask(&self, process: ProcessId, to: usize, asked: Asked) -> Said {
        let (answer, answered) = oneshot::channel();
        self.world().ask(process, to, asked, answer);
        match answered.await {
            Ok(said) => said,
            Err(_) => std::future::pending().await,
        }
    }

    /// As [`Sim::ask`], for so long.
    async fn ask_within(
        &self,
        process: ProcessId,
        to: usize,
        asked: Asked,
        bound: Duration,
    ) -> Option<Said> {
        let clock = ProcessClock::of(self, process);
        let until = clock.now().plus(bound);
        tokio::select! {
            biased;
            said = self.ask(process, to, asked) => Some(said),
            () = clock.reach(until) => None,
        }
    }
}

/// Questions run beside the renewals of the process that asks them.
#[must_use]
pub fn beside(sim: &Sim, process: ProcessId) -> Spawn {
    let sim = sim.clone();
    Arc::new(move |question: Task| sim.world().spawned.push((process, question)))
}

/// Asks the members of a site, in the name of one.
#[must_use]
pub fn members(sim: &Sim, process: ProcessId, me: &NodeName) -> AskMembers {
    let (sim, me) = (sim.clone(), me.clone());
    Arc::new(move |members: Members, bound: Duration| {
        let (sim, me) = (sim.clone(), me.clone());
        async move {
            let questions = members.into_keys().map(|name| {
                let (sim, asked) = (sim.clone(), Asked::Member(me.clone()));
                async move {
                    let to = sim.world().by_name(&name);
                    let said = match to {
                        Some(to) => sim.ask_within(process, to, asked, bound).await,
                        None => None,
                    };
                    let consent = sim.world().mutant == Mutant::SilenceIsConsent;
                    let answer = match said {
                        Some(Said::Member(answer)) => answer,
                        Some(Said::Site(_)) | None if consent => Answer::Accepted { span: None },
                        Some(Said::Site(_)) | None => Answer::Silent("nothing came".to_owned()),
                    };
                    (name, answer)
                }
            });
            join_all(questions).await.into_iter().collect::<BTreeMap<_, _>>()
        }
        .boxed()
    })
}

/// Asks the leaders of other sites: every node of a site, of which only the leader promises.
#[must_use]
pub fn sites(sim: &Sim, process: ProcessId) -> AskSites {
    let sim = sim.clone();
    Arc::new(move |request: PromiseRequest, urls: Urls, bound: Duration| {
        let sim = sim.clone();
        async move {
            let questions = urls.into_iter().map(|(site, urls)| {
                let (sim, request) = (sim.clone(), request.clone());
                async move {
                    let asked: Vec<usize> = urls.iter().filter_map(|url| by_url(url)).collect();
                    let mut said: FuturesUnordered<_> = asked
                        .into_iter()
                        .map(|to| sim.ask_within(process, to, Asked::Site(request.clone()), bound))
                        .collect();
                    let mut span = None;
                    while let Some(one) = said.next().await {
                        if let Some(Said::Site(Some(promised))) = one
                            && promised.site == site
                        {
                            span = Some(Duration::from_millis(promised.span_ms));
                            break;
                        }
                    }
                    (site, span)
                }
            });
            join_all(questions).await.into_iter().collect::<BTreeMap<_, _>>()
        }
        .boxed()
    })
}

/// The node whose address stands in a report.
fn by_url(url: &str) -> Option<usize> {
    let host = url.strip_prefix("http://10.0.0.")?;
    host.split(':').next()?.parse::<usize>().ok()?.checked_sub(1)
}

impl World {
    fn by_name(&self, name: &NodeName) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == *name)
    }

    fn ask(&mut self, process: ProcessId, to: usize, asked: Asked, answer: oneshot::Sender<Said>) {
        let (Some(program), Some(node)) = (self.programs.get(process.0), self.nodes.get(to)) else {
            return;
        };
        let from = program.host;
        if let Some(took) = self.net.message(&mut self.chance, from, node.host) {
            let question = Question { from, asked, answer };
            self.schedule(took, Event::Asked(to, Box::new(question)));
        }
    }

    /// A question arrives. An agent that stands still answers when it goes on.
    pub(crate) fn asked(&mut self, sim: &Sim, n: usize, question: Question) {
        let node = &self.nodes[n];
        let (Some(process), Some(door)) = (node.agent, node.door.clone()) else { return };
        let sim = sim.clone();
        self.spawned.push((
            process,
            Box::pin(async move {
                let said = door.answer(&question.asked).await;
                sim.world().says(n, question.from, said, question.answer);
            }),
        ));
    }

    fn says(&mut self, n: usize, to: HostId, said: Said, answer: oneshot::Sender<Said>) {
        self.counters.count(match &said {
            Said::Member(Answer::Accepted { .. }) => "failsafe: a member agrees",
            Said::Member(Answer::Refused(_) | Answer::Silent(_)) => "failsafe: a member refuses",
            Said::Site(Some(_)) => "failsafe: a site promises",
            Said::Site(None) => "failsafe: a site refuses",
        });
        self.explain(n, "failsafe", || format!("answers {said:?}"));
        let host = self.nodes[n].host;
        if let Some(took) = self.net.message(&mut self.chance, host, to) {
            self.schedule(took, Event::Answer(Box::new(Reply { said, answer })));
        }
    }

    /// Whether node `n` goes on by its members' word alone.
    #[must_use]
    pub fn by_word(&self, n: usize) -> bool {
        let node = &self.nodes[n];
        let now = node.clock.boot(self.now);
        node.door.as_ref().is_some_and(|door| door.shared.failsafe.leader.lock().stands(now))
    }
}

impl Reply {
    /// It arrives; whoever has given up hears nothing.
    pub(crate) fn arrives(self) {
        drop(self.answer.send(self.said));
    }
}
