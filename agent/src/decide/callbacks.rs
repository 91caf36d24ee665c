//! Which of Patroni's callbacks is due (spec/patroni-compat.md 5.4): told of what was seen, not of what
//! was meant, so a server that dies by itself and one that is stopped look the same to whoever moves
//! an address. A change of role is told instead of a start or a restart; nothing is told before the
//! cluster is made, nor while the server does not answer.

use regent_proto::name::NodeName;

use super::upstream;
use super::view::{Initialize, JobKind, NodeRole, Process, View};

/// A callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Callback {
    /// `on_start`.
    Start,
    /// `on_stop`.
    Stop,
    /// `on_restart`.
    Restart,
    /// `on_reload`: told by whoever reloads.
    Reload,
    /// `on_role_change`.
    RoleChange,
}

impl Callback {
    /// Its key, and the first argument.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "on_start",
            Self::Stop => "on_stop",
            Self::Restart => "on_restart",
            Self::Reload => "on_reload",
            Self::RoleChange => "on_role_change",
        }
    }
}

/// The role that a callback is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToldRole {
    /// What the server runs as, or ran as last.
    As(NodeRole),
    /// It was the primary, it does not run, and the leader key is not its own any more.
    Demoted,
}

impl ToldRole {
    /// Patroni's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::As(role) => role.word(),
            Self::Demoted => "demoted",
        }
    }
}

/// What was told so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    role: Option<ToldRole>,
    running: bool,
    /// A stop by order was seen since it ran.
    stopping: bool,
    /// It is down for a restart.
    restarting: bool,
}

impl Told {
    /// The role that was told last.
    #[must_use]
    pub fn role(&self) -> Option<ToldRole> {
        self.role
    }

    /// The agent itself has stopped the server, and ends.
    #[must_use]
    pub fn stopped(&mut self) -> Option<(Callback, ToldRole)> {
        let ran = std::mem::take(&mut self.running);
        self.role.filter(|_| ran).map(|role| (Callback::Stop, role))
    }

    /// The callback that is due at this view, if any.
    #[must_use]
    pub fn next(&mut self, me: &NodeName, view: &View) -> Option<(Callback, ToldRole)> {
        let made = view.site.as_ref().is_some_and(|site| match site.initialize {
            Initialize::Done(_) => true,
            Initialize::Absent | Initialize::Running | Initialize::Unreadable => false,
        });
        match (view.postgres.process, role(me, view)) {
            (Process::Running, Some(role)) if made => self.runs(ToldRole::As(role)),
            (Process::Stopped, _) => self.is_stopped(me, view),
            (Process::Starting | Process::Running, _) => {
                self.stopping |= self.running && is_stopped_by_order(view);
                None
            }
        }
    }

    fn runs(&mut self, role: ToldRole) -> Option<(Callback, ToldRole)> {
        let before = *self;
        *self = Self { role: Some(role), running: true, stopping: false, restarting: false };
        let callback = match before.role {
            None => Callback::Start,
            Some(told) if told != role => Callback::RoleChange,
            Some(_) if before.running => return None,
            Some(_) if before.restarting => Callback::Restart,
            Some(_) => Callback::Start,
        };
        Some((callback, role))
    }

    fn is_stopped(&mut self, me: &NodeName, view: &View) -> Option<(Callback, ToldRole)> {
        let role = self.role?;
        let stopping = self.stopping || is_stopped_by_order(view);
        if self.running {
            self.running = false;
            self.stopping = false;
            self.restarting = view.requests.restarting;
            return (stopping && !self.restarting).then_some((Callback::Stop, role));
        }
        let leader = view.site.as_ref().and_then(|site| site.leader.as_ref());
        let leads = leader.is_some_and(|leader| leader.name == *me);
        let was_primary = role == ToldRole::As(NodeRole::Primary);
        if !was_primary || leads || view.requests.restarting {
            return None;
        }
        self.role = Some(ToldRole::Demoted);
        Some((Callback::RoleChange, ToldRole::Demoted))
    }
}

/// A job stops it, be it only to put slots beside its data.
fn is_stopped_by_order(view: &View) -> bool {
    matches!(view.job, Some(JobKind::Stop | JobKind::CopySlots))
}

/// What the server of this node runs as, while it answers.
#[must_use]
pub fn role(me: &NodeName, view: &View) -> Option<NodeRole> {
    let status = view.postgres.status.as_ref()?;
    let leader = view.site.as_ref().and_then(|site| site.leader.as_ref());
    let leads = leader.is_some_and(|leader| leader.name == *me);
    Some(match (status.in_recovery, leads && upstream::is_standby_site(view)) {
        (false, _) => NodeRole::Primary,
        (true, true) => NodeRole::StandbyLeader,
        (true, false) => NodeRole::Replica,
    })
}
