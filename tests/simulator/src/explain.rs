//! A view in few words: what a person needs to judge a decision.

use regent_agent::decide::view::{DataDirectory, View};

/// What was seen.
#[must_use]
pub fn saw(view: &View) -> String {
    let mut words = Vec::new();
    match &view.site {
        None => words.push("no site DCS".to_owned()),
        Some(site) => {
            let leader = site.leader.as_ref().map_or_else(
                || format!("no leader for {:?}", site.leaderless),
                |l| format!("leader {}{}", l.name, if l.bound_to_my_lease { " (own)" } else { "" }),
            );
            words.push(leader);
            words.push(format!("read {:?} ago", site.age));
            let sync: Vec<&str> = site.sync.standbys.iter().map(|name| name.as_str()).collect();
            words.push(format!("sync {:?}/{}", site.sync.leader, sync.join(",")));
            if site.mark.is_some() {
                words.push("marked".to_owned());
            }
        }
    }
    words.push(format!("D site {:?}", view.tenure.site.left(view.now)));
    if let Some(federation) = &view.federation {
        match &federation.primary {
            None => words.push("no primary".to_owned()),
            Some(primary) => words.push(format!(
                "primary {} epoch {} {} (rev {})",
                primary.value.holder,
                primary.value.epoch,
                primary.value.state.name(),
                primary.revision
            )),
        }
        let left = view.tenure.primary.as_ref().map(|held| held.deadline.left(view.now));
        words.push(format!("D primary {left:?}"));
    }
    let postgres = &view.postgres;
    match (&postgres.status, &postgres.data) {
        (Some(status), _) => words.push(format!(
            "{} at {} on {}, list {:?}, senders {:?}",
            if status.in_recovery { "standby" } else { "primary" },
            status.end,
            status.ancestry.timeline,
            status.synchronous_standby_names,
            status.senders.keys().collect::<Vec<_>>()
        )),
        (None, DataDirectory::Cluster(control)) => words.push(format!(
            "{:?}, {:?} at {} on {}",
            postgres.process, control.state, control.end, control.ancestry.timeline
        )),
        (None, data) => words.push(format!("{:?}, {data:?}", postgres.process)),
    }
    words.join(", ")
}
