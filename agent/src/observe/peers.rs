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
    #[serde(default)]
    regent: Ours,
}

/// What Patroni does not tell.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ours {
    end_asked_ms_ago: Option<u64>,
    promotion: Option<String>,
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
        age: body.regent.end_asked_ms_ago.map(Duration::from_millis),
        promotion: body.regent.promotion.as_ref().and_then(|id| id.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use regent_proto::name::PromotionId;

    use super::*;

    #[test]
    fn an_answer_says_of_when_its_position_is_or_nothing_of_it() {
        for (regent, age) in [
            (r#"{"promotion": "p3", "end_asked_ms_ago": 7}"#, Some(Duration::from_millis(7))),
            (r#"{"version": "0.1.0"}"#, None),
        ] {
            let text = format!(
                r#"{{"state": "running", "role": "replica", "timeline": 3, "regent": {regent},
                    "xlog": {{"received_location": 500, "replayed_location": 400}}}}"#
            );
            let answer = interpret(&serde_json::from_str(&text).expect("a body"));
            assert_eq!((answer.position, answer.age), (Lsn::new(500), age), "{regent}");
            let promotion = answer.promotion.as_ref().map(PromotionId::as_str);
            assert_eq!(promotion, age.map(|_| "p3"), "{regent}");
        }
        let patronis = r#"{"role": "replica", "xlog": {"received_location": 500}}"#;
        assert_eq!(interpret(&serde_json::from_str(patronis).expect("a body")).age, None);
    }
}
