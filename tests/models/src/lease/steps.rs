//! The steps of the model.

use regent_agent::decide::demote::Demote;
use regent_guardian::decide::WatchdogAct;
use stateright::{Model, Property};

use super::{
    Faults, Key, Kind, Lease, Life, Mutant, Request, Server, Sin, State, TTL, Watch, deadline,
    fence, properties,
};
use crate::clock::{NOW, older};

/// What a planned stop may take.
const SPAN: u8 = 7;
/// R.
const RESET: u8 = 1;

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Time goes on.
    Tick,
    /// A's server starts in recovery; with a guardian, or the guardian failed.
    Start(bool),
    /// A request leaves.
    Send(Kind),
    /// The store gets it.
    Apply,
    /// Its sender gives it up.
    GiveUp,
    /// What was given up is applied.
    Late,
    /// What was given up is lost.
    LostForGood,
    /// The answer arrives.
    Answer,
    /// The agent has passed the gate.
    DecidePromotion,
    /// The server opens.
    Promote,
    /// A client comes.
    Connect,
    /// The sessions end.
    Disconnect,
    /// The shutdown is over.
    Stopped,
    /// A planned stop begins.
    PlanStop,
    /// The leader key is given back by an agent that ends.
    Release,
    /// An agent that goes on gives its right up, to give the key back.
    Withdraw,
    /// It lets the key go.
    LetGo,
    /// Nothing runs, and nothing is guarded.
    StandDown,
    /// Rung 1 does what it must.
    RungOne,
    /// A pass of the guardian's kill; one that misses a backend forked meanwhile.
    Kill(bool),
    /// The guardian turns to the watchdog.
    Watchdog(Act),
    /// A decided ping reaches the device.
    Ping,
    /// The device resets the node.
    Reset,
    /// The guardian has nothing left to guard.
    GuardianEnds,
    /// A process stops, goes on, dies.
    Agent(Life),
    /// A process stops, goes on, dies.
    Guardian(Life),
    /// The lease's time is over.
    Expire,
    /// B takes the free key and opens.
    BOpens,
    /// B gives it back.
    BLeaves,
}

/// What the guardian does with the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Opens it.
    Arm,
    /// Decides to ping it.
    Ping,
    /// Closes it by magic.
    Disarm,
}

impl State {
    fn alone(&self) -> bool {
        self.server == Server::Down && !self.client && !self.other
    }

    fn kill(&mut self) {
        (self.server, self.client, self.other) = (Server::Down, false, false);
        (self.promoting, self.stopping) = (false, false);
    }

    fn raise(&mut self, sent: u8) {
        self.granted = Some(self.granted.map_or(sent, |before| before.min(sent)));
    }
}

impl Lease {
    /// Whether somebody who runs must act before time goes on.
    fn due(&self, s: &State) -> bool {
        let guardian = s.guardian == Life::Up && fence::guardian(self, s).kill.is_some();
        let agent = s.agent == Life::Up
            && !s.alone()
            && match fence::rung_one(s) {
                Demote::Kill => true,
                Demote::KillBackends => s.client,
                Demote::Stop => true,
                Demote::Rest(_) | Demote::Clear(_) => false,
            };
        guardian || agent || s.device.is_some_and(|age| age >= self.device_timeout() + RESET)
    }

    fn agent_steps(s: &State, out: &mut Vec<Step>) {
        if s.request == Request::None {
            if s.server == Server::Recovery && s.granted.is_none() && s.watch == Watch::Off {
                out.push(Step::Send(Kind::Acquire));
            }
            if s.granted.is_some() {
                out.push(Step::Send(Kind::Renew));
            }
        }
        match s.request {
            Request::Sent(..) | Request::Applied(_) => out.push(Step::GiveUp),
            Request::Refused | Request::None => {}
        }
        match s.request {
            Request::Applied(_) | Request::Refused => out.push(Step::Answer),
            Request::Sent(..) | Request::None => {}
        }
        if s.alone() && s.guardian == Life::Dead && s.watch == Watch::Off && !s.promoting {
            out.extend([Step::Start(true), Step::Start(false)]);
        }
        if s.server == Server::Recovery && !s.promoting && s.granted.is_some() {
            out.push(Step::DecidePromotion);
        }
        if s.promoting && s.server == Server::Recovery {
            out.push(Step::Promote);
        }
        let holds = s.watch == Watch::ByDeadline && deadline(s.granted).lies_ahead(NOW);
        if s.server == Server::Open && holds && !s.stopping {
            out.push(Step::PlanStop);
        }
        if matches!(s.watch, Watch::PlannedStop(_)) && s.key == Key::A {
            out.push(Step::Release);
        }
        // Decided on when the server was seen not to write; a promotion may be on its way.
        let planned = matches!(s.watch, Watch::PlannedStop(_));
        if s.server != Server::Open && s.granted.is_some() && s.request == Request::None && !planned
        {
            out.push(Step::Withdraw);
        }
        if s.giving_back && s.request == Request::None {
            out.push(Step::LetGo);
        }
        if s.alone() && s.watch != Watch::Off {
            out.push(Step::StandDown);
        }
        if !s.alone() {
            out.push(Step::RungOne);
        }
    }

    fn guardian_steps(&self, s: &State, out: &mut Vec<Step>) {
        let decision = fence::guardian(self, s);
        if decision.kill.is_some() {
            out.push(Step::Kill(false));
            if s.client && !s.killing {
                out.push(Step::Kill(true));
            }
        }
        match decision.watchdog {
            Some(WatchdogAct::Arm) => out.push(Step::Watchdog(Act::Arm)),
            Some(WatchdogAct::Disarm) => out.push(Step::Watchdog(Act::Disarm)),
            Some(WatchdogAct::Ping | WatchdogAct::Lower | WatchdogAct::Forget) | None => {}
        }
        if fence::ping(self, s) && !s.ping_decided {
            out.push(Step::Watchdog(Act::Ping));
        }
        let early = self.is(Mutant::DisarmWithALiveProcess) && s.server == Server::Down;
        if early && s.device.is_some() {
            out.push(Step::Watchdog(Act::Disarm));
        }
        if s.ping_decided {
            out.push(Step::Ping);
        }
        if decision.end && s.device.is_none() {
            out.push(Step::GuardianEnds);
        }
    }

    fn fault_steps(&self, s: &State, out: &mut Vec<Step>) {
        let (agent, guardian) = match self.faults {
            Faults::Agent => (true, false),
            Faults::Guardian => (false, true),
            Faults::BothBesideAWatchdog => (true, true),
        };
        let mut of = |life: Life, step: fn(Life) -> Step| match life {
            Life::Up => out.extend([step(Life::Paused), step(Life::Dead)]),
            Life::Paused => out.extend([step(Life::Up), step(Life::Dead)]),
            Life::Dead => {}
        };
        if agent {
            of(s.agent, Step::Agent);
        }
        if guardian {
            of(s.guardian, Step::Guardian);
        }
    }

    fn request(&self, s: &mut State, kind: Kind) -> bool {
        let fits = match kind {
            Kind::Acquire => s.key == Key::Free,
            Kind::Renew => s.key == Key::A,
        };
        if fits {
            (s.key, s.key_age) = (Key::A, 0);
            // A key of another revision is not the one that is given back.
            s.giving_back &= kind == Kind::Renew;
        }
        fits
    }

    fn request_step(&self, s: &mut State, step: Step) {
        match step {
            Step::Send(kind) => s.request = Request::Sent(kind, 0),
            Step::Apply => {
                let Request::Sent(kind, age) = s.request else { return };
                let applied = self.request(s, kind);
                s.request = if applied { Request::Applied(age) } else { Request::Refused };
            }
            Step::GiveUp => {
                if let Request::Sent(kind, _) = s.request {
                    s.stray = Some(kind);
                }
                if self.is(Mutant::UnknownExtends)
                    && s.granted.is_some()
                    && let Request::Sent(_, age) | Request::Applied(age) = s.request
                {
                    s.raise(age);
                }
                s.request = Request::None;
            }
            Step::Late => {
                if let Some(kind) = s.stray.take() {
                    self.request(s, kind);
                }
            }
            Step::LostForGood => s.stray = None,
            Step::Answer => {
                match s.request {
                    Request::Applied(age) => {
                        let anchor =
                            if self.is(Mutant::DeadlineAnchoredAtReceive) { 0 } else { age };
                        if !matches!(s.watch, Watch::PlannedStop(_)) {
                            s.raise(anchor);
                            s.truth = Some(s.truth.map_or(age, |before| before.min(age)));
                        }
                    }
                    Request::Refused => s.granted = None,
                    Request::None | Request::Sent(..) => {}
                }
                s.request = Request::None;
            }
            // Of `perform`.
            _ => {}
        }
    }

    fn perform(&self, s: &mut State, step: Step) {
        match step {
            Step::Tick => tick(s),
            Step::Start(guardian) => {
                (s.server, s.other) = (Server::Recovery, true);
                s.guardian = if guardian { Life::Up } else { Life::Dead };
            }
            Step::Send(_)
            | Step::Apply
            | Step::GiveUp
            | Step::Late
            | Step::LostForGood
            | Step::Answer => self.request_step(s, step),
            Step::DecidePromotion => (s.promoting, s.watch) = (true, Watch::ByDeadline),
            Step::Promote => (s.server, s.promoting) = (Server::Open, false),
            Step::Connect => s.client = true,
            Step::Disconnect => s.client = false,
            Step::Stopped => s.kill(),
            Step::PlanStop => {
                (s.bound, s.granted) = (s.granted, None);
                (s.watch, s.stopping) = (Watch::PlannedStop(SPAN), true);
            }
            Step::Release => {
                if !s.alone() {
                    s.sin = Sin::LiveRelease;
                }
                (s.key, s.key_age) = (Key::Free, 0);
                // The process that gave it back ends: the next life hears none of its answers.
                if let Request::Sent(kind, _) = s.request {
                    s.stray = Some(kind);
                }
                s.request = Request::None;
            }
            Step::Withdraw => {
                s.giving_back = true;
                if !self.is(Mutant::GivenBackWithTheDeadline) {
                    s.granted = None;
                }
            }
            Step::LetGo => {
                s.giving_back = false;
                if s.key == Key::A {
                    if deadline(s.granted).lies_ahead(NOW) {
                        s.sin = Sin::RightKept;
                    }
                    (s.key, s.key_age) = (Key::Free, 0);
                }
            }
            Step::StandDown => {
                (s.watch, s.bound, s.promoting) = (Watch::Off, None, false);
                s.granted = None;
            }
            Step::RungOne => match fence::rung_one(s) {
                Demote::Kill | Demote::KillBackends => s.kill(),
                Demote::Stop => s.stopping = true,
                Demote::Clear(_) | Demote::Rest(_) => {}
            },
            Step::Kill(misses) => {
                let client = s.client;
                s.kill();
                s.killing = true;
                s.client = client && misses;
            }
            Step::Watchdog(Act::Arm) => s.device = Some(0),
            Step::Watchdog(Act::Ping) => s.ping_decided = true,
            Step::Watchdog(Act::Disarm) => {
                if !s.alone() {
                    s.sin = Sin::LiveDisarm;
                }
                (s.device, s.ping_decided) = (None, false);
            }
            Step::Ping => {
                s.ping_decided = false;
                if s.watch == Watch::ByDeadline && s.client && !deadline(s.truth).lies_ahead(NOW) {
                    s.sin = Sin::LatePing;
                }
                // A device whose time is over has fired, and is on its way to the reset.
                let timeout = self.device_timeout();
                s.device = s.device.map(|age| if age <= timeout { 0 } else { age });
            }
            Step::Reset => {
                s.kill();
                (s.agent, s.guardian, s.giving_back) = (Life::Dead, Life::Dead, false);
                (s.device, s.ping_decided, s.killing) = (None, false, false);
            }
            Step::GuardianEnds => (s.guardian, s.killing) = (Life::Dead, false),
            Step::Agent(life) => {
                s.agent = life;
                s.giving_back &= life != Life::Dead;
            }
            Step::Guardian(life) => {
                s.guardian = life;
                if life == Life::Dead {
                    (s.killing, s.ping_decided) = (false, false);
                }
            }
            Step::Expire | Step::BLeaves => (s.key, s.key_age) = (Key::Free, 0),
            Step::BOpens => s.key = Key::B,
        }
    }
}

fn tick(s: &mut State) {
    if s.key == Key::A {
        s.key_age = (s.key_age + 1).min(TTL);
    }
    s.request = match s.request {
        Request::Sent(kind, age) => Request::Sent(kind, older(age)),
        Request::Applied(age) => Request::Applied(older(age)),
        Request::None | Request::Refused => s.request,
    };
    for age in [&mut s.granted, &mut s.bound, &mut s.truth, &mut s.device] {
        *age = age.map(older);
    }
    if let Watch::PlannedStop(left) = s.watch {
        s.watch = Watch::PlannedStop(left.saturating_sub(1));
    }
}

impl Model for Lease {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            key: Key::Free,
            key_age: 0,
            request: Request::None,
            stray: None,
            agent: Life::Up,
            guardian: Life::Dead,
            watch: Watch::Off,
            granted: None,
            bound: None,
            truth: None,
            server: Server::Down,
            client: false,
            other: false,
            promoting: false,
            giving_back: false,
            stopping: false,
            killing: false,
            device: None,
            ping_decided: false,
            sin: Sin::None,
        }]
    }

    fn actions(&self, s: &State, out: &mut Vec<Step>) {
        if !self.due(s) {
            out.push(Step::Tick);
        }
        if s.agent == Life::Up {
            Self::agent_steps(s, out);
        }
        if s.guardian == Life::Up {
            self.guardian_steps(s, out);
        }
        self.fault_steps(s, out);
        if matches!(s.request, Request::Sent(..)) {
            out.push(Step::Apply);
        }
        if s.stray.is_some() {
            out.extend([Step::Late, Step::LostForGood]);
        }
        if s.server == Server::Open && !s.stopping && !s.client {
            out.push(Step::Connect);
        }
        if s.client && s.server == Server::Open {
            out.push(Step::Disconnect);
        }
        if s.stopping && !s.client && s.server != Server::Down {
            out.push(Step::Stopped);
        }
        if s.device.is_some_and(|age| age >= self.device_timeout()) {
            out.push(Step::Reset);
        }
        match s.key {
            Key::A if s.key_age >= TTL => out.push(Step::Expire),
            Key::A => {}
            Key::Free => out.push(Step::BOpens),
            Key::B => out.push(Step::BLeaves),
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut after = *before;
        let refused = match step {
            Step::DecidePromotion => !fence::may_open(self, before),
            Step::Promote => !fence::fires_in_time(self, before),
            // The page's guard, which is set before anything can open, says whether something may.
            Step::LetGo => before.watch != Watch::Off && !self.is(Mutant::GivenBackBesideTheFence),
            Step::Release => !before.alone() && !self.is(Mutant::LeaseDroppedBeforeTheStop),
            _ => false,
        };
        if refused {
            return None;
        }
        self.perform(&mut after, step);
        (after != *before).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties()
    }
}
