//! A person asks an agent for a restart or a new copy, of any node and at any moment, with trouble just
//! then: what `decide::requests` takes on, through the product's own jobs.

use regent_agent::decide::view::{Ask, FinishedJob, JobKind, Reinitialize, Request, Restart};

use crate::chance::Chance;
use crate::event::Event;
use crate::faults::{Fault, Kind, Way};
use crate::scenario::HARSH;
use crate::time::{MIN, MS, SEC};
use crate::world::World;

/// These are drawn beside everything else, so that a seed's other draws stay what they were.
const BESIDE: u64 = 0x5eed_0000_4e57_a47e;
/// Requests of an hour, at most.
const MOST: u64 = 8;

impl World {
    /// Draws when somebody asks an agent for something.
    pub(crate) fn draw_asks(&mut self, seed: u64) {
        let mut chance = Chance::new(seed ^ BESIDE);
        for _ in 0..chance.below(MOST + 1) {
            let at = chance.between(2 * MIN, HARSH);
            let n = chance.index(self.nodes.len());
            self.schedule_at(at, Event::AskAgent(n, chance.any()));
        }
    }

    /// Somebody asks it.
    pub(crate) fn ask_agent(&mut self, n: usize, seed: u64) {
        let mut chance = Chance::new(seed);
        if self.nodes[n].agent.is_none() {
            return;
        }
        let restarts = !chance.one_in(4);
        let ask = if restarts {
            Ask::Restart(Restart::default())
        } else {
            Ask::Reinitialize(Reinitialize { force: chance.one_in(2), from_leader: false })
        };
        self.counters.count(if restarts { "operator: restart" } else { "operator: reinitialize" });
        self.explain(n, "operator", || format!("asks for {ask:?}"));
        self.disturbed();
        self.asks += 1;
        let number = self.asks;
        self.nodes[n].mail.asked.push(Request { number, ask });
        self.nodes[n].wake.notify_one();
        self.trouble_at(n, &mut chance);
    }

    /// It lasts a second or two, which what is drawn for the hour would hardly ever meet.
    fn trouble_at(&mut self, n: usize, chance: &mut Chance) {
        let at = self.now + chance.between(10 * MS, 4 * SEC);
        let span = chance.between(SEC, MIN);
        let kind = match chance.below(16) {
            0 => Kind::KillNode(n),
            1 => Kind::KillAgent(n),
            2 => Kind::PauseAgent(n),
            3 => Kind::PausePostgres(n),
            4 => Kind::KillPostgres(n),
            5 => Kind::CutNode(n, Way::Both),
            6 => Kind::CutStore(n, Way::Both),
            7 => Kind::DiskSlow(n),
            // Somebody asks again, for the same or for something else.
            8 => return self.schedule_at(at, Event::AskAgent(n, chance.any())),
            _ => return,
        };
        self.strikes_later(Fault { at, span, kind });
    }

    /// The agent ends its copy or its rewind.
    pub(crate) fn cancel_job(&mut self, n: usize) {
        let cuts = |kind: &JobKind| matches!(kind, JobKind::Clone | JobKind::Rewind);
        let Some((job, _)) = self.nodes[n].job.take_if(|(kind, _)| cuts(kind)) else { return };
        let problem = Some("it was cancelled".to_owned());
        self.nodes[n].mail.finished = Some(FinishedJob { job, problem, untouched: false });
        self.nodes[n].wake.notify_one();
    }
}
