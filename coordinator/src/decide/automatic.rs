//! Automatic promotion: what a person would do about a dark region, done by the elected coordinator where
//! the topology says so, or only said (`policy.automatic_promotion`).
//!
//! It has no way of its own: it asks for exactly the plan that a person would be shown, without `--end-lease`
//! and with the loss that the topology accepts, and begins it by the same transaction. What is new is only when: a
//! lease that nobody gave back and a site that does not report, both for `after`; no move of primacy within
//! `cool_down`; at most `per_day`. The last two go by wall clocks: they spare people, they protect nothing.
//! Invariant: nothing is promoted that a person could not have promoted in this moment (I24).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use regent_proto::keys::GlobalKey;
use regent_proto::lsn::Lsn;
use regent_proto::name::SiteName;
use regent_proto::promotion::AcceptedLoss;
use regent_proto::record::{Operation, PrimaryState, Verdict};
use regent_proto::time::BootTime;
use regent_proto::topology::{Automatic, AutomaticPromotion};

use super::Federation;
use super::promotion::{self, Asked, Request};
use super::view::{Freshness, Slot};
use super::write::Write;

/// Who asked, in the audit record.
pub const REQUESTED_BY: &str = "automatic promotion";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is made of a primary site that is dark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has not been dark for long enough.
    Waits,
    /// Not now, and why.
    Barred(String),
    /// This site would be promoted, were the mode `on`.
    Would(SiteName),
    /// This site is promoted.
    Promotes(SiteName),
}

impl fmt::Display for Answer {
    /// Without figures that change all the time.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits => f.write_str("waits for the topology's `after`"),
            Self::Barred(why) => write!(f, "nobody is promoted: {why}"),
            Self::Would(to) => write!(f, "observe-only: {to} would be promoted"),
            Self::Promotes(to) => write!(f, "promotes {to}"),
        }
    }
}

/// A dark primary site, and what comes of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Dark {
    pub(super) answer: Answer,
    /// It is dark for `after` from then on.
    pub(super) due: BootTime,
    pub(super) write: Option<Write>,
}

/// `None`: it is off, or the primary site is not known to be dark.
pub(super) fn judge(federation: &Federation<'_>) -> Option<Dark> {
    let policy = &federation.topology().policy.automatic_promotion;
    match policy.mode {
        Automatic::Off => return None,
        Automatic::ObserveOnly | Automatic::On => {}
    }
    let due = dark_since(federation)?.plus(policy.after.0);
    let dark = |answer| Dark { answer, due, write: None };
    if federation.view.now < due {
        return Some(dark(Answer::Waits));
    }
    if let Some(bar) = bar(federation, policy) {
        return Some(dark(Answer::Barred(bar)));
    }
    let request = match candidate(federation, policy) {
        Ok(request) => request,
        Err(why) => return Some(dark(Answer::Barred(why))),
    };
    Some(match policy.mode {
        Automatic::Off | Automatic::ObserveOnly => dark(Answer::Would(request.to)),
        Automatic::On => match begin(federation, policy, &request) {
            Ok(write) => Dark { write: Some(write), ..dark(Answer::Promotes(request.to)) },
            Err(why) => dark(Answer::Barred(why)),
        },
    })
}

/// Since when the holder has neither renewed nor reported, as this coordinator saw it. One that gave its lease
/// back was stopped by somebody, who is asked.
fn dark_since(federation: &Federation<'_>) -> Option<BootTime> {
    let (view, primary) = (federation.view, &federation.primary.value);
    let lease = view.lease.read().filter(|lease| !lease.value.released)?;
    if lease.value.site != primary.holder || lease.value.epoch != primary.epoch {
        return None;
    }
    match primary.state {
        PrimaryState::Open => {}
        PrimaryState::Handover { .. }
        | PrimaryState::Token { .. }
        | PrimaryState::Fenced { .. } => {
            return None;
        }
    }
    match federation.freshness(&primary.holder) {
        Freshness::Old => {}
        Freshness::Fresh | Freshness::Unproven | Freshness::Missing | Freshness::Unreadable => {
            return None;
        }
    }
    let report = view.report(&primary.holder)?;
    Some(lease.since.max(report.since))
}

fn bar(federation: &Federation<'_>, policy: &AutomaticPromotion) -> Option<String> {
    let view = federation.view;
    if let Some(fence) = &federation.primary.value.writes_fenced {
        return Some(format!("writes are fenced by {}", fence.by));
    }
    match &view.running {
        Slot::Absent => {}
        Slot::Unreadable(bad) => return Some(bad.problem.clone()),
        Slot::Read(running) => {
            if let Some(id) = &running.value.id {
                return Some(format!("operation {id} runs"));
            }
        }
    }
    let operations =
        || view.operations.values().filter_map(|slot| slot.read().map(|seen| &seen.value));
    // A clock that was set back makes an old operation a new one, never the opposite.
    let ago = |operation: &Operation| {
        Duration::from_millis(view.wall.0.saturating_sub(operation.requested_at.0))
    };
    let moved = operations().filter(|operation| operation.kind.moves().is_some());
    let last = moved.max_by_key(|operation| (operation.requested_at, &operation.id));
    if let Some(last) = last.filter(|last| ago(last) < policy.cool_down.0) {
        let cool_down = policy.cool_down.0;
        return Some(format!(
            "{} was asked for within the last {cool_down:?} (cool_down)",
            last.id
        ));
    }
    let own = operations().filter(|operation| operation.requested_by == REQUESTED_BY);
    let today = own.filter(|operation| ago(operation) < DAY).count();
    (today >= usize::try_from(policy.per_day).unwrap_or(usize::MAX))
        .then(|| format!("{today} within the last 24 hours, which are all that per_day allows"))
}

/// The site with the most WAL that nothing blocks; or what blocks each.
fn candidate(federation: &Federation<'_>, policy: &AutomaticPromotion) -> Result<Request, String> {
    let (view, primary) = (federation.view, &federation.primary.value);
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    // Without an accepted loss the topology is refused; nothing is what is accepted then.
    let accepted = AcceptedLoss {
        max_age_ms: Some(policy.accept_loss_age.map_or(0, |span| ms(span.0))),
        max_bytes: policy.accept_loss_bytes.map(|size| size.0),
        ..AcceptedLoss::default()
    };
    let sites = federation.topology().data_sites().map(|site| &site.name);
    let others = sites.filter(|site| **site != primary.holder);
    let position = |site: &SiteName| view.report(site).and_then(|seen| seen.value.position);
    let mut furthest_first: Vec<(Option<Lsn>, &SiteName)> =
        others.map(|site| (position(site), site)).collect();
    furthest_first.sort_by(|(a, a_name), (b, b_name)| b.cmp(a).then(a_name.cmp(b_name)));
    let mut blocked = BTreeMap::new();
    for (_, site) in furthest_first {
        let request =
            Request { to: site.clone(), accepted: Some(accepted.clone()), end_lease: false };
        let plan = promotion::plan(federation, &request).plan;
        let checks = plan.checks.iter().filter(|check| check.verdict == Verdict::Block);
        let names: Vec<&str> = checks.map(|check| check.name.as_str()).collect();
        if names.is_empty() {
            return Ok(request);
        }
        blocked.insert(site, names.join(", "));
    }
    let blocked: Vec<String> =
        blocked.iter().map(|(site, checks)| format!("{site} is blocked by {checks}")).collect();
    Err(if blocked.is_empty() { "there is no other site".to_owned() } else { blocked.join("; ") })
}

fn begin(
    federation: &Federation<'_>,
    policy: &AutomaticPromotion,
    request: &Request,
) -> Result<Write, String> {
    let (view, primary) = (federation.view, &federation.primary.value);
    let id = format!("promotion-{}-auto", view.wall.0);
    let asked = Asked {
        id: id.parse().map_err(|problem| format!("{id}: {problem}"))?,
        request: request.clone(),
        plan_hash: promotion::plan(federation, request).hash,
        by: REQUESTED_BY.to_owned(),
        reason: format!(
            "{} has neither renewed its lease nor reported for {:?} (policy.automatic_promotion)",
            primary.holder, policy.after.0
        ),
    };
    let write = promotion::execute(federation, &asked).map_err(|refusal| refusal.to_string())?;
    // Only the elected one acts by itself.
    Ok(write.comparing(view, GlobalKey::Leader))
}

/// For people: what is or would be done about a dark primary site, with the time.
pub(super) fn told(federation: &Federation<'_>) -> Option<String> {
    let dark = judge(federation)?;
    let now = federation.view.now;
    let when = if now < dark.due {
        format!("in {:.0?}", dark.due.since(now))
    } else {
        format!("since {:.0?}", now.since(dark.due))
    };
    let mode = federation.topology().policy.automatic_promotion.mode.name();
    let holder = &federation.primary.value.holder;
    Some(format!("automatic promotion ({mode}): {holder} is dark; {} ({when})", dark.answer))
}
