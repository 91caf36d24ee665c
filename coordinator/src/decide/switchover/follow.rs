//! *follow* and *verify*: the other sites turn to B, and all stream on its timeline.
//!
//! B is primary already, so this always ends in success; a site that does not follow in time is
//! named in the record.

use regent_proto::name::SiteName;
use regent_proto::record::{Outcome, Report, ReportedRole, SiteRole, SwitchoverStep};

use super::super::Federation;
use super::super::assignments;
use super::super::reason::{Missing, listed};
use super::super::view::Freshness;
use super::{Advance, Machine};

impl Machine<'_> {
    pub(super) fn moved(&self, step: SwitchoverStep) -> Advance {
        match step {
            SwitchoverStep::Prepare
            | SwitchoverStep::Handover
            | SwitchoverStep::Take
            | SwitchoverStep::RollBack => {
                let epoch = self.federation.primary.value.epoch;
                let note = format!("{} has taken primacy at epoch {epoch}", self.to());
                self.enter(SwitchoverStep::Follow, &note)
            }
            SwitchoverStep::Follow => {
                let missing = self.not_following();
                if missing.is_empty() {
                    let note = "every site streams from its upstream";
                    return self.enter(SwitchoverStep::Verify, note);
                }
                self.wait_or_succeed(step, missing)
            }
            SwitchoverStep::Verify | SwitchoverStep::Done => {
                let mut missing = self.not_following();
                missing.extend(self.not_on_timeline());
                self.wait_or_succeed(step, missing)
            }
        }
    }

    fn wait_or_succeed(&self, step: SwitchoverStep, missing: Vec<Missing>) -> Advance {
        let due = self.due_at(self.federation.topology().policy.follow_timeout.0);
        if missing.is_empty() || self.view().now >= due {
            return self.succeed(&missing);
        }
        self.wait_noted(step, missing).wake_at(due)
    }

    fn succeed(&self, missing: &[Missing]) -> Advance {
        let to = self.to();
        let note = if missing.is_empty() {
            format!("{to} is primary, every site streams on its timeline")
        } else {
            format!("{to} is primary; ended without {}", listed(missing))
        };
        self.end(Outcome::Succeeded { at: self.view().wall }, &note)
    }

    /// The standby sites of the tree, with their upstreams. After a promotion A may stay away.
    fn standbys(&self) -> Vec<(&SiteName, Option<&SiteName>)> {
        let data = self.federation.topology().data_sites().map(|site| &site.name);
        let gone = self.is_promotion().then(|| self.from());
        data.filter(|site| *site != self.to() && Some(*site) != gone)
            .filter_map(|site| match self.view().assignment(site) {
                None => Some((site, None)),
                Some(seen) => match seen.value.role {
                    SiteRole::Primary | SiteRole::Standby => {
                        Some((site, seen.value.upstream.as_ref()))
                    }
                    SiteRole::Quarantined | SiteRole::Detached => None,
                },
            })
            .collect()
    }

    fn not_following(&self) -> Vec<Missing> {
        let federation = self.federation;
        let mut missing = missing_primary(federation, self.to());
        if !assignments::changed(federation).is_empty() {
            missing.push(Missing::Assignments);
            return missing;
        }
        for (site, upstream) in self.standbys() {
            let Some(report) = fresh(federation, site) else {
                missing.push(Missing::Report { site: site.clone() });
                continue;
            };
            let wrong = wrong_role(site, report, ReportedRole::Standby);
            if wrong.is_some() {
                missing.extend(wrong);
            } else if let Some(upstream) = upstream
                && report.streaming_from.as_ref() != Some(upstream)
            {
                let (site, upstream) = (site.clone(), upstream.clone());
                missing.push(Missing::Stream { site, upstream });
            }
        }
        missing
    }

    fn not_on_timeline(&self) -> Vec<Missing> {
        let timeline = |site: &SiteName| {
            let report = fresh(self.federation, site)?;
            report.ancestry.as_ref().map(|ancestry| (ancestry.timeline, &ancestry.promotion))
        };
        let wanted = timeline(self.to());
        // A number alone may be of another promotion. An id that a standby has not found yet is no
        // contradiction: whether it may follow is its own judgement, and it does follow.
        let same = |site: &SiteName| match (timeline(site), wanted) {
            (Some((number, Some(id))), Some((other, Some(wanted)))) => {
                number == other && id == wanted
            }
            (Some((number, _)), Some((other, _))) => number == other,
            (Some(_) | None, Some(_) | None) => false,
        };
        self.standbys()
            .into_iter()
            .filter(|(site, _)| !same(site))
            .map(|(site, _)| Missing::Timeline { site: site.clone() })
            .collect()
    }
}

fn fresh<'a>(federation: &Federation<'a>, site: &SiteName) -> Option<&'a Report> {
    match federation.freshness(site) {
        Freshness::Fresh => federation.view.report(site).map(|seen| &seen.value),
        Freshness::Unproven | Freshness::Old | Freshness::Missing | Freshness::Unreadable => None,
    }
}

/// What is missing for `site` to be seen as primary.
pub(super) fn missing_primary(federation: &Federation<'_>, site: &SiteName) -> Vec<Missing> {
    match fresh(federation, site) {
        None => vec![Missing::Report { site: site.clone() }],
        Some(report) => wrong_role(site, report, ReportedRole::Primary).into_iter().collect(),
    }
}

/// What is missing when a site's leader runs as something else.
pub(super) fn wrong_role(site: &SiteName, report: &Report, role: ReportedRole) -> Option<Missing> {
    let wanted = match role {
        ReportedRole::Primary => "primary",
        ReportedRole::Standby => "standby",
        ReportedRole::Down => "down",
    };
    (report.role != role).then(|| Missing::Role { site: site.clone(), wanted })
}
