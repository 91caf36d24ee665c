//! The global quorum as decisions see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use regent_dcs::Entry;
use regent_proto::keys::{GlobalKey, GlobalKeys};
use regent_proto::name::SiteName;
use regent_proto::record::{
    Assignment, EpochHistory, Lease, Primary, Record, Report, RunningOperation,
};
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
    lease_seen: Option<(Option<u64>, BootTime)>,
    unreadable: Unreadable,
    known: Known,
}

/// Records of each kind that were decoded already. Clones are the same.
#[derive(Debug, Default, Clone)]
pub struct Known {
    primary: Decoded<Primary>,
    lease: Decoded<Lease>,
    assignment: Decoded<Assignment>,
    history: Decoded<EpochHistory>,
    reports: Decoded<Arc<Report>>,
    running: Decoded<RunningOperation>,
}

impl GlobalObserver {
    /// For this federation and site.
    #[must_use]
    pub fn new(keys: GlobalKeys, site: SiteName) -> Self {
        Self::sharing(keys, site, Known::default())
    }

    /// One of several of this process that watch the same store.
    #[must_use]
    pub fn sharing(keys: GlobalKeys, site: SiteName, known: Known) -> Self {
        Self {
            keys,
            site,
            primary_seen: None,
            lease_seen: None,
            unreadable: Unreadable::default(),
            known,
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
        let (keys, known, bad) = (&self.keys, &self.known, &mut self.unreadable);
        known.history.keep(&picture.entries);
        let primary = record(&known.primary, bad, picture, &keys.primary());
        let lease = record(&known.lease, bad, picture, &keys.lease());
        let assignment = keys.assignment(&self.site);
        let assignment = record(&known.assignment, bad, picture, &assignment);
        if let Some(primary) = &primary
            && self.primary_seen.is_none_or(|(revision, _)| revision != primary.revision)
        {
            self.primary_seen = Some((primary.revision, now));
        }
        let lease_revision = picture.entries.get(&keys.lease()).map(|entry| entry.modified.0);
        // A mirror that was not filled yet has no lease, and says nothing about it.
        if picture.answered.is_some()
            && self.lease_seen.is_none_or(|(revision, _)| revision != lease_revision)
        {
            self.lease_seen = Some((lease_revision, now));
        }
        let history = primary.as_ref().and_then(|primary| {
            let key = keys.history(primary.value.epoch);
            record(&known.history, bad, picture, &key)
        });
        let running = record(&known.running, bad, picture, &keys.running_operation());
        FederationView {
            operation_runs: running.is_some_and(|at| at.value.id.is_some()),
            history,
            site: self.site.clone(),
            age: picture.answered.map(|answered| now.since(answered)),
            primary_age: self.primary_seen.map(|(_, at)| now.since(at)).unwrap_or_default(),
            primary,
            lease_revision,
            lease_age: self.lease_seen.map(|(_, at)| now.since(at)).unwrap_or_default(),
            lease,
            assignment: assignment.map(|at| at.value),
            reports: self.reports(picture),
            disk_epoch,
        }
    }

    fn reports(&mut self, picture: &Picture) -> BTreeMap<SiteName, Arc<Report>> {
        self.known.reports.keep(&picture.entries);
        let mut reports = BTreeMap::new();
        let sites = self.keys.sites();
        let of_sites = picture.entries.range(sites.clone()..);
        for (key, entry) in of_sites.take_while(|(key, _)| key.starts_with(&sites)) {
            let GlobalKey::Report(site) = self.keys.classify(key) else { continue };
            let decode = |entry: &Entry| {
                Report::decode(&entry.key, &entry.value).map(Arc::new).map_err(|e| e.problem)
            };
            match &*self.known.reports.of(entry, decode) {
                // A report under another site's key is not that site's word.
                Ok(report) if report.site == site => {
                    reports.insert(site, Arc::clone(report));
                }
                Ok(_) => {}
                Err(problem) => self.unreadable.report(entry, problem),
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
    known: &Decoded<R>,
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
