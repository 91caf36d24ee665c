//! Asking the other members over their REST API, before a race for the leader key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::{Ancestry, TimelineId};
use serde::Deserialize;

use crate::config::tags;
use crate::decide::view::{Member, PeerAnswer};

/// The longest wait for one answer; all are asked at once.
pub const ANSWER_BOUND: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize)]
struct Body {
    #[serde(default)]
    role: String,
    #[serde(default)]
    timeline: Option<u32>,
    #[serde(default)]
    xlog: Xlog,
    #[serde(default)]
    watchdog_failed: bool,
    #[serde(default)]
    tags: BTreeMap<String, serde_json::Value>,
    /// Ours; a newer version's may be of another form.
    #[serde(default)]
    regent: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Xlog {
    location: Option<u64>,
    received_location: Option<u64>,
    replayed_location: Option<u64>,
}

/// Asks all members at once; those that do not answer in time are missing.
pub async fn ask(
    client: &reqwest::Client,
    members: BTreeMap<NodeName, Arc<Member>>,
) -> BTreeMap<NodeName, PeerAnswer> {
    let questions = members.into_iter().map(|(name, member)| async move {
        let asked = async {
            let response = client.get(&member.api_url).send().await?;
            response.json::<Body>().await
        };
        match tokio::time::timeout(ANSWER_BOUND, asked).await {
            Ok(Ok(body)) => Some((name, interpret(&body))),
            Ok(Err(_)) | Err(_) => None,
        }
    });
    futures::future::join_all(questions).await.into_iter().flatten().collect()
}

fn interpret(body: &Body) -> PeerAnswer {
    // What is wrong with them is said where the member's record is read.
    let tags = tags::read(&body.tags).tags;
    let told = body.regent.as_ref().and_then(|regent| regent.get("ancestry"));
    let position = [body.xlog.location, body.xlog.received_location, body.xlog.replayed_location];
    PeerAnswer {
        primary: body.xlog.location.is_some_and(|at| at > 0)
            || matches!(body.role.as_str(), "primary" | "master"),
        position: Lsn::new(position.into_iter().flatten().max().unwrap_or(0)),
        timeline: body.timeline.map(TimelineId),
        // As in Patroni: who cannot lead for want of a watchdog is in nobody's way.
        nofailover: body.watchdog_failed || tags.nofailover,
        failover_priority: tags.failover_priority,
        ancestry: told.and_then(|told| Ancestry::deserialize(told).ok()),
    }
}
