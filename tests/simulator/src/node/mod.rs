//! A node: a machine with its agent, its guardian, its PostgreSQL and the page between them.

pub mod act;
pub mod agent;
pub mod device;
pub mod failsafe;
pub mod fence;
pub mod observe;
pub mod start;
pub mod tell;

use std::sync::Arc;

use regent_agent::config::Config;
use regent_agent::decide::Reason;
use regent_agent::decide::freeze::{Frozen, Reading};
use regent_agent::decide::remembered::Remembered;
use regent_agent::decide::view::{DiskEpoch, FinishedJob, JobKind, PeerAnswer, Request};
use regent_agent::fence::Deadlines;
use regent_guardian::page::{Because, Page, WatchdogWanted};
use regent_guardian::tend::Tended;
use regent_proto::name::NodeName;
use regent_proto::time::{BootTime, Deadline};
use std::collections::BTreeMap;
use tokio::sync::Notify;

use crate::network::HostId;
use crate::postgres::Server;
use crate::time::{Clock, Nanos};
use crate::world::ProcessId;

/// PostgreSQL's port of the first node; the others follow.
pub const FIRST_PORT: u16 = 5400;

/// Rung 1's own state, as `regent_agent::fence::guard` keeps it.
#[derive(Debug, Default)]
pub struct GuardState {
    /// A fast shutdown was asked for.
    pub stopping: bool,
    /// The kill has begun.
    pub killing: bool,
    /// The server's processes are stopped.
    pub frozen: Option<Frozen>,
    /// What it was frozen with was no right that anybody knew of.
    pub adopted: bool,
}

/// Rung 2, and rung 3 as it has it.
#[derive(Debug, Default)]
pub struct GuardianState {
    /// The watchdog.
    pub tended: Tended<device::Handle>,
    /// Its process lives.
    pub alive: bool,
    /// A fault has stopped it.
    pub paused: bool,
    /// It kills.
    pub killing: Option<Because>,
}

/// What has happened to an agent since its last round.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// A job ended.
    pub finished: Option<FinishedJob>,
    /// Members answered.
    pub peers: Option<(BootTime, BTreeMap<NodeName, PeerAnswer>)>,
    /// It is to end in order.
    pub stop: bool,
    /// What people asked for and were not answered.
    pub asked: Vec<Request>,
}

/// One node.
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its site.
    pub site: usize,
    /// Its machine.
    pub host: HostId,
    /// The machine's clock.
    pub clock: Clock,
    /// Its configuration.
    pub config: Arc<Config>,
    /// Its PostgreSQL.
    pub server: Server,
    /// The page of the present agent and guardian.
    pub page: Page,
    /// The deadlines of the present agent.
    pub deadlines: Option<Arc<Deadlines>>,
    /// Rung 1.
    pub guard: GuardState,
    /// Rung 2.
    pub guardian: GuardianState,
    /// The machine's watchdog.
    pub device: device::Model,
    /// The agent's process.
    pub agent: Option<ProcessId>,
    /// Where it answers others.
    pub door: Option<failsafe::Door>,
    /// What keeps this member's word on disk.
    pub word: failsafe::Paper,
    /// Wakes the agent's main loop.
    pub wake: Arc<Notify>,
    /// Its watches are silent: only what it reads tells it of changes.
    pub hears_no_news: bool,
    /// What it will find.
    pub mail: Mailbox,
    /// The job that runs, with its number.
    pub job: Option<(JobKind, u64)>,
    /// The number of the checkpoint that runs.
    pub checkpoint: Option<u64>,
    /// `DATA_DIR.regent-epoch`.
    pub epoch: DiskEpoch,
    /// `DATA_DIR.regent-cluster`.
    pub cluster: Option<Remembered>,
    /// The last reason.
    pub decided: Option<Reason>,
    /// In words, for explanations.
    pub reason: String,
    /// When rung 1 and rung 2 look next; others are out of date.
    pub guard_due: Nanos,
    /// As above.
    pub guardian_due: Nanos,
    /// The orders that both last saw.
    pub orders_seen: u64,
    /// When the agent was paused, and what it could have read last.
    pub paused_at: Option<(Nanos, Reading)>,
    /// A pause has taken the fence away; nobody has put it back since.
    pub unfenced: bool,
    /// The right to write as it was when the fence came back after a pause. In a pause the device is
    /// pinged freely: it may fire after this one, and is bound again by the next.
    pub refenced: Option<Deadline>,
    /// What the present agent has read of a pause.
    pub paused: Option<bool>,
    /// The machine is off.
    pub off: bool,
    /// The machine does not run since then, and will go on.
    pub suspended: Option<Nanos>,
}

impl Node {
    /// A word that changes when what the fence goes by changes.
    #[must_use]
    pub fn orders_word(&self) -> u64 {
        let orders = self.page.orders();
        let words = [
            u64::from(orders.guard == regent_guardian::page::Guard::Off),
            u64::from(orders.guard == regent_guardian::page::Guard::PlannedStop),
            orders.writing.instant().nanos(),
            orders.bound.instant().nanos(),
            orders.stop_until.instant().nanos(),
            u64::from(self.page.watchdog_wanted() != WatchdogWanted::Off),
        ];
        words.iter().fold(17, |sum: u64, word| sum.wrapping_mul(0x0100_0000_01b3) ^ word)
    }
}
