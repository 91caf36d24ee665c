//! Starting, stopping, promoting and dying.

use regent_agent::decide::view::ControlState;

use super::wal::{MARKS, crashed};
use super::{Data, Process, Server};
use crate::event::Event;
use crate::time::{MS, Nanos, SEC};
use crate::world::World;

/// What happens to a server by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Recovery is done: it answers.
    Started,
    /// Sessions are ended.
    SessionsEnded,
    /// The shutdown's checkpoint is written.
    Checkpointed,
    /// Look whether the walsenders are done.
    Drain,
    /// A promotion is done.
    Promoted,
    /// The stop's budget is over: walsenders are ended.
    Budget,
    /// Its patience is over: everything is killed.
    Patience,
    /// A standby looks for its upstream.
    Connect,
}

impl World {
    /// A server of node `n`.
    pub fn server(&mut self, n: usize) -> &mut Server {
        &mut self.nodes[n].server
    }

    pub(crate) fn mark(&mut self) -> u64 {
        self.marks += 1;
        MARKS + self.marks
    }

    /// Something of this server's present life, later.
    pub(crate) fn later(&mut self, n: usize, span: Nanos, stage: Stage) {
        let life = self.nodes[n].server.life;
        self.schedule(span, Event::Postgres(n, life, stage));
    }

    fn disk(&mut self, n: usize, from: Nanos, to: Nanos) -> Nanos {
        let slow = self.nodes[n].server.slow;
        self.chance.between(from, to) + if slow > 0 { self.chance.below(slow) } else { 0 }
    }

    /// The postmaster is started; recovery takes its time.
    pub(crate) fn start_server(&mut self, n: usize, standby: bool) -> Result<(), &'static str> {
        let took = self.disk(n, 200 * MS, 3 * SEC);
        let server = self.server(n);
        if server.process != Process::Stopped || server.data != Data::Cluster {
            return Ok(());
        }
        if !self.begin_guardian(n, true) {
            return Err("the required watchdog cannot be armed");
        }
        let server = self.server(n);
        server.life += 1;
        server.process = Process::Starting;
        server.standby_signal = standby;
        server.in_recovery = true;
        server.promoting = false;
        server.sessions_ended = false;
        server.paused = false;
        server.frozen = false;
        self.later(n, took, Stage::Started);
        self.server_changed(n);
        Ok(())
    }

    /// A fast shutdown is asked for.
    pub(crate) fn stop_server(&mut self, n: usize) {
        let server = self.server(n);
        if matches!(server.process, Process::Stopped | Process::Stopping) {
            return;
        }
        self.on_demotion(n);
        let server = self.server(n);
        server.process = Process::Stopping;
        server.promoting = false;
        // What stands still gets the signal when it goes on.
        self.later(n, 2 * MS, Stage::SessionsEnded);
    }

    /// Every process is killed.
    pub(crate) fn kill_server(&mut self, n: usize) {
        let server = self.server(n);
        if server.process == Process::Stopped {
            return;
        }
        self.on_demotion(n);
        let server = self.server(n);
        server.control = crashed(server.in_recovery);
        self.server_ended(n);
    }

    /// No process is left.
    fn server_ended(&mut self, n: usize) {
        let server = self.server(n);
        server.process = Process::Stopped;
        server.life += 1;
        server.frozen = false;
        server.paused = false;
        let lost = std::mem::take(&mut server.pending);
        let unheard = std::mem::take(&mut server.inbox);
        for pending in lost {
            self.client_lost(pending.client, pending.write);
        }
        for (client, write) in unheard {
            self.client_lost(client, write);
        }
        self.drop_connections(n);
        self.guardian_sees_the_end(n);
        self.explain(n, "PostgreSQL", || "has ended".to_owned());
        self.server_changed(n);
    }

    /// An event of the server's own life.
    pub(crate) fn postgres(&mut self, n: usize, life: u64, stage: Stage) {
        if self.nodes[n].server.life != life {
            return;
        }
        if self.nodes[n].server.stands_still() && !matches!(stage, Stage::Budget | Stage::Patience)
        {
            // Nothing of it runs; what was due happens when it goes on.
            self.later(n, 200 * MS, stage);
            return;
        }
        match stage {
            Stage::Started => self.started(n),
            Stage::SessionsEnded => self.sessions_ended(n),
            Stage::Checkpointed => self.checkpointed(n),
            Stage::Drain => self.drain(n),
            Stage::Promoted => self.promoted(n),
            Stage::Budget => {
                if self.nodes[n].server.process == Process::Stopping {
                    self.drop_connections(n);
                }
            }
            Stage::Patience => {
                if self.nodes[n].server.process == Process::Stopping {
                    self.explain(n, "PostgreSQL", || "did not stop: killed".to_owned());
                    self.kill_server(n);
                }
            }
            Stage::Connect => self.connect(n),
        }
    }

    fn started(&mut self, n: usize) {
        let mark = self.mark();
        let server = self.server(n);
        if server.process != Process::Starting {
            return;
        }
        server.process = Process::Running;
        if server.standby_signal {
            server.control = ControlState::InRecovery;
            self.server(n).connect_due = 0;
            self.connect_later(n, 5 * MS);
        } else {
            // Crash recovery ends with a checkpoint; it opens on the timeline it was on.
            server.in_recovery = false;
            if server.control != ControlState::ShutDown {
                server.wal.append(mark);
            }
            server.control = ControlState::InProduction;
            server.control_timeline = server.wal.timeline;
            self.opened(n);
        }
        let recovers = self.nodes[n].server.in_recovery;
        self.explain(n, "PostgreSQL", || {
            format!("answers, {}", if recovers { "in recovery" } else { "writable" })
        });
        self.server_changed(n);
    }

    fn sessions_ended(&mut self, n: usize) {
        let server = self.server(n);
        if server.process != Process::Stopping {
            return;
        }
        server.sessions_ended = true;
        let lost = std::mem::take(&mut server.pending);
        for pending in lost {
            self.client_lost(pending.client, pending.write);
        }
        let took = self.disk(n, 50 * MS, 900 * MS);
        self.later(n, took, Stage::Checkpointed);
    }

    fn checkpointed(&mut self, n: usize) {
        let mark = self.mark();
        let server = self.server(n);
        if server.full {
            // No room for the checkpoint: it hangs until it is killed.
            self.later(n, SEC, Stage::Checkpointed);
            return;
        }
        if !server.in_recovery {
            server.wal.append(mark);
            server.control_timeline = server.wal.timeline;
            self.wal_grew(n);
        }
        self.drain(n);
    }

    /// Walsenders end once their standbys have confirmed everything.
    fn drain(&mut self, n: usize) {
        let end = self.nodes[n].server.wal.end();
        let recovers = self.nodes[n].server.in_recovery;
        let behind = self.connections.values().any(|c| c.from == n && c.flushed < end);
        if behind && !recovers {
            self.later(n, 20 * MS, Stage::Drain);
            return;
        }
        let server = self.server(n);
        server.control =
            if recovers { ControlState::ShutDownInRecovery } else { ControlState::ShutDown };
        self.server_ended(n);
    }

    /// `pg_promote()`.
    pub(crate) fn promote_server(&mut self, n: usize) {
        let took = self.disk(n, 30 * MS, 500 * MS);
        let server = self.server(n);
        if server.process == Process::Running && server.in_recovery && !server.promoting {
            server.promoting = true;
            self.later(n, took, Stage::Promoted);
        }
    }

    fn promoted(&mut self, n: usize) {
        let mark = self.mark();
        self.end_receiver(n);
        let server = self.server(n);
        if server.process != Process::Running || !server.promoting {
            return;
        }
        server.promoting = false;
        server.in_recovery = false;
        server.standby_signal = false;
        server.control = ControlState::InProduction;
        server.wal.promote(mark);
        let timeline = server.wal.timeline;
        self.explain(n, "PostgreSQL", || format!("promoted, timeline {timeline}"));
        self.opened(n);
        self.wal_grew(n);
        self.server_changed(n);
    }
}
