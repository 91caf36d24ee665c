//! The global quorum as decisions see it.

use std::collections::BTreeMap;

use regent_dcs::Entry;
use regent_proto::keys::{GlobalKey, GlobalKeys};
use regent_proto::name::SiteName;
use regent_proto::record::{Assignment, EpochHistory, Lease, Primary, Record, Report};
use regent_proto::time::BootTime;

use super::decoded::Decoded;
use super::mirror::Picture;
use super::unreadable::Unreadable;
use crate::decide::view::{At, DiskEpoch, FederationView};

/// Reads the federation's keys.
#[derive(Debug)]
pub struct GlobalObserver {
    keys: GlobalKeys,
    site: SiteName,
    primary_seen: Option<(u64, BootTime)>,
    unreadable: Unreadable,
    known: Known,
}

/// Records of each kind.
#[derive(Debug, Default)]
struct Known {
    primary: Decoded<Primary>,
    lease: Decoded<Lease>,
    assignment: Decoded<Assignment>,
    history: Decoded<EpochHistory>,
    reports: Decoded<Report>,
}

impl GlobalObserver {
    /// For this federation and site.
    #[must_use]
    pub fn new(keys: GlobalKeys, site: SiteName) -> Self {
        Self {
            keys,
            site,
            primary_seen: None,
            unreadable: Unreadable::default(),
            known: Known::default(),
        }
    }

    /// The view.
    pub fn read(
        &mut self,
        picture: &Picture,
        disk_epoch: DiskEpoch,
        now: BootTime,
    ) -> FederationView {
        self.unreadable.keep(&picture.entries);
        let (keys, known, bad) = (&self.keys, &mut self.known, &mut self.unreadable);
        known.history.keep(&picture.entries);
        let primary = record(&mut known.primary, bad, picture, &keys.primary());
        let lease = record(&mut known.lease, bad, picture, &keys.lease());
        let assignment = keys.assignment(&self.site);
        let assignment = record(&mut known.assignment, bad, picture, &assignment);
        if let Some(primary) = &primary
            && self.primary_seen.is_none_or(|(revision, _)| revision != primary.revision)
        {
            self.primary_seen = Some((primary.revision, now));
        }
        let history = primary.as_ref().and_then(|primary| {
            let key = keys.history(primary.value.epoch);
            record(&mut known.history, bad, picture, &key)
        });
        FederationView {
            history,
            site: self.site.clone(),
            age: picture.answered.map(|answered| now.since(answered)),
            primary_age: self.primary_seen.map(|(_, at)| now.since(at)).unwrap_or_default(),
            primary,
            lease_revision: picture.entries.get(&self.keys.lease()).map(|e| e.modified.0),
            lease,
            assignment: assignment.map(|at| at.value),
            reports: self.reports(picture),
            disk_epoch,
        }
    }

    fn reports(&mut self, picture: &Picture) -> BTreeMap<SiteName, Report> {
        self.known.reports.keep(&picture.entries);
        let mut reports = BTreeMap::new();
        for key in picture.entries.keys() {
            if let GlobalKey::Report(site) = self.keys.classify(key)
                && let Some(report) =
                    record(&mut self.known.reports, &mut self.unreadable, picture, key)
            {
                // A report under another site's key is not that site's word.
                if report.value.site == site {
                    reports.insert(site, report.value);
                }
            }
        }
        reports
    }

    /// Keys that cannot be read, for the report.
    pub fn unreadable(&self) -> impl Iterator<Item = &String> {
        self.unreadable.keys()
    }
}

fn record<R: Record + Clone>(
    known: &mut Decoded<R>,
    unreadable: &mut Unreadable,
    picture: &Picture,
    key: &str,
) -> Option<At<R>> {
    let entry = picture.entries.get(key)?;
    let decode = |entry: &Entry| R::decode(&entry.key, &entry.value).map_err(|e| e.problem);
    match &*known.of(entry, decode) {
        Ok(value) => Some(At { value: value.clone(), revision: entry.modified.0 }),
        Err(problem) => {
            unreadable.report(entry, problem);
            None
        }
    }
}
