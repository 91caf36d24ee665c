//! The guardian, from its page and from what the agent knows of its process.

use std::time::Duration;

use regent_guardian::page::{self, Flags, Page};
use regent_proto::time::BootTime;

use crate::act::postgres::server::Beside;
use crate::decide::view::{GuardianRights, GuardianView, WatchdogState, WatchdogView};

/// What stands in the page, with ages up to `now`.
#[must_use]
pub fn view(page: &Page, beside: &Beside, worst_stop: Duration, now: BootTime) -> GuardianView {
    let alive = beside.pid.is_some();
    GuardianView {
        alive,
        problem: beside.problem.clone(),
        heartbeat_age: if alive { now.since(page.heartbeat()) } else { Duration::ZERO },
        worst_wake: page.worst_wake().max(beside.worst_wake),
        kills: page.kills(),
        worst_kill: page.worst_kill().max(beside.worst_kill),
        rights: if alive { rights(page) } else { GuardianRights::default() },
        watchdog: watchdog(page, now),
        frozen: page.frozen(),
        deadline_left: page.writing().left(now),
        worst_stop,
        hung: beside.hung,
    }
}

/// What the system permitted the guardian whose words stand in the page.
#[must_use]
pub fn rights(page: &Page) -> GuardianRights {
    let flags = page.flags();
    GuardianRights {
        memory_locked: flags.has(Flags::MEMORY_LOCKED),
        realtime: flags.has(Flags::REALTIME),
        oom_protected: flags.has(Flags::OOM_PROTECTED),
    }
}

/// What a person should know.
#[must_use]
pub fn warnings(view: &GuardianView) -> Vec<String> {
    let mut warnings = Vec::new();
    if !view.problem.is_empty() {
        warnings.push(format!("no guardian beside PostgreSQL: {}", view.problem));
    }
    if view.watchdog.wanted && view.watchdog.state == WatchdogState::Failed {
        let means = if view.watchdog.required {
            "watchdog.mode is required, so this node does not come to lead: let its user write to \
             watchdog.device, or change the mode"
        } else {
            "if agent and guardian hang together, nothing resets this node"
        };
        warnings.push(format!("the watchdog cannot be used: {}; {means}", view.watchdog.problem));
    }
    if view.watchdog.too_long {
        warnings.push(format!(
            "the watchdog is armed with {:?}, too long for the configured TTL: the leader key keeps its \
             former one until the guardian has lowered it; where that fails, until PostgreSQL starts \
             anew",
            view.watchdog.granted
        ));
    }
    if view.frozen {
        warnings.push("PostgreSQL is frozen until the leases are renewed".to_owned());
    }
    warnings
}

fn watchdog(page: &Page, now: BootTime) -> WatchdogView {
    let state = match page.watchdog_state() {
        page::WatchdogState::Off => WatchdogState::Off,
        page::WatchdogState::Armed => WatchdogState::Armed,
        page::WatchdogState::Disarmed => WatchdogState::Disarmed,
        // A word of a newer guardian that this agent does not know: not known to be running.
        page::WatchdogState::Failed | page::WatchdogState::Unknown(_) => WatchdogState::Failed,
    };
    let problem = match state {
        WatchdogState::Failed => {
            let errno = page.watchdog_errno();
            let said = match errno {
                0 => String::new(),
                errno => format!(": {}", std::io::Error::from_raw_os_error(errno)),
            };
            format!("{}{said}", page.watchdog_step().words())
        }
        WatchdogState::Off | WatchdogState::Armed | WatchdogState::Disarmed => String::new(),
    };
    let ping = page.watchdog_last_ping();
    WatchdogView {
        // What is wanted, and borne, stands in the configuration, not in the page.
        required: false,
        wanted: false,
        too_long: false,
        state,
        problem,
        granted: Duration::from_secs(page.watchdog_granted_s()),
        ping_age: (ping.nanos() > 0).then(|| now.since(ping)),
    }
}
