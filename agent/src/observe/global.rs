//! The global quorum as decisions see it.

use std::collections::BTreeMap;

use regent_proto::keys::{GlobalKey, GlobalKeys};
use regent_proto::name::SiteName;
use regent_proto::record::{Assignment, EpochHistory, Lease, Primary, Record, Report};
use regent_proto::time::BootTime;

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
}

impl GlobalObserver {
    /// For this federation and site.
    #[must_use]
    pub fn new(keys: GlobalKeys, site: SiteName) -> Self {
        Self { keys, site, primary_seen: None, unreadable: Unreadable::default() }
    }

    /// The view.
    pub fn read(
        &mut self,
        picture: &Picture,
        disk_epoch: DiskEpoch,
        now: BootTime,
    ) -> FederationView {
        self.unreadable.keep(&picture.entries);
        let primary: Option<At<Primary>> = self.record(picture, &self.keys.primary());
        let lease: Option<At<Lease>> = self.record(picture, &self.keys.lease());
        let assignment: Option<At<Assignment>> =
            self.record(picture, &self.keys.assignment(&self.site.clone()));
        if let Some(primary) = &primary
            && self.primary_seen.is_none_or(|(revision, _)| revision != primary.revision)
        {
            self.primary_seen = Some((primary.revision, now));
        }
        let history: Option<At<EpochHistory>> = primary
            .as_ref()
            .and_then(|primary| self.record(picture, &self.keys.history(primary.value.epoch)));
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
        let mut reports = BTreeMap::new();
        for key in picture.entries.keys() {
            if let GlobalKey::Report(site) = self.keys.classify(key)
                && let Some(report) = self.record::<Report>(picture, key)
            {
                // A report under another site's key is not that site's word.
                if report.value.site == site {
                    reports.insert(site, report.value);
                }
            }
        }
        reports
    }

    fn record<R: Record>(&mut self, picture: &Picture, key: &str) -> Option<At<R>> {
        let entry = picture.entries.get(key)?;
        match R::decode(key, &entry.value) {
            Ok(value) => Some(At { value, revision: entry.modified.0 }),
            Err(error) => {
                self.unreadable.report(entry, &error.problem);
                None
            }
        }
    }

    /// Keys that cannot be read, for the report.
    pub fn unreadable(&self) -> impl Iterator<Item = &String> {
        self.unreadable.keys()
    }
}
