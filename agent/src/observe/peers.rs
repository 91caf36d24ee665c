//! Asking the other members over their REST API, before a race for the leader key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::TimelineId;
use serde::Deserialize;

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
    let position = [body.xlog.location, body.xlog.received_location, body.xlog.replayed_location];
    PeerAnswer {
        primary: body.xlog.location.is_some_and(|at| at > 0)
            || matches!(body.role.as_str(), "primary" | "master"),
        position: Lsn::new(position.into_iter().flatten().max().unwrap_or(0)),
        timeline: body.timeline.map(TimelineId),
        // As in Patroni: who cannot lead for want of a watchdog is in nobody's way.
        nofailover: body.watchdog_failed
            || body.tags.get("nofailover").is_some_and(|v| *v == serde_json::Value::Bool(true)),
    }
}

#[cfg(test)]
mod roles {
    use super::*;

    fn answer(body: serde_json::Value) -> PeerAnswer {
        interpret(&serde_json::from_value(body).expect("a body of this form"))
    }

    /// hazards.md row 9: as agents of each version say it, and with everything else unknown.
    #[test]
    fn whoever_writes_is_a_primary_in_the_words_of_every_version() {
        use serde_json::json;
        for writes in [
            json!({"role": "primary"}),
            json!({"role": "master"}),
            // It has been told to stop, or its role is a word of tomorrow.
            json!({"role": "demoted", "state": "stopping", "xlog": {"location": 1}}),
            json!({"role": "ruler", "xlog": {"location": 67_108_960}}),
            json!({"xlog": {"location": 67_108_960}, "dcs_last_seen": 1}),
            json!({"role": "primary", "xlog": {}, "timeline": null, "tags": {"nofailover": 1}}),
        ] {
            assert!(answer(writes.clone()).primary, "{writes}");
        }
        for reads in [
            json!({}),
            json!({"role": "replica", "xlog": {"received_location": 5, "replayed_location": 5}}),
            json!({"role": "standby_leader", "xlog": {"location": 0}}),
            json!({"role": "uninitialized"}),
        ] {
            assert!(!answer(reads.clone()).primary, "{reads}");
        }
    }
}
