//! Whether the other sites' nodes answer on the replication port with the replication role: asked
//! in the background, shown in the report, wanted by switchover plans.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::name::{NodeName, SiteName};
use regent_proto::record::{Reach, Report};

use crate::act::postgres::{copy, files::Files, programs::Programs};
use crate::config::User;

/// The longest wait for one site.
const BOUND: Duration = Duration::from_secs(4);

/// Asks one node of each other site; its leader first.
pub async fn ask(
    programs: &Programs,
    files: &Files,
    user: &User,
    reports: &BTreeMap<SiteName, Arc<Report>>,
    own: &SiteName,
) -> BTreeMap<SiteName, Reach> {
    let questions = reports.iter().filter(|(site, _)| *site != own).map(|(site, report)| async {
        let mut nodes: Vec<_> = report.nodes.iter().collect();
        nodes.sort_by_key(|node| node.name != report.node);
        let mut last = Reach::Refused { problem: "the site reports no node".to_owned() };
        for node in nodes.into_iter().take(2) {
            last = one(programs, files, user, &node.name, (&node.host, node.port)).await;
            if matches!(last, Reach::Reached { .. }) {
                break;
            }
        }
        (site.clone(), last)
    });
    futures::future::join_all(questions).await.into_iter().collect()
}

async fn one(
    programs: &Programs,
    files: &Files,
    user: &User,
    node: &NodeName,
    (host, port): (&str, u16),
) -> Reach {
    let conninfo = files.conninfo(user, &[(host.to_owned(), port)], "regent reach");
    match copy::identify(programs, &conninfo, BOUND).await {
        Ok(_identity) => Reach::Reached { node: node.clone() },
        Err(error) => Reach::Refused { problem: error.to_string() },
    }
}
