//! Asking the other members over their REST API, before a race for the leader key.

use std::collections::BTreeMap;
use std::time::Duration;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;
use regent_proto::timeline::{Ancestry, TimelineId};
use serde::Deserialize;

use crate::config::tags;
use crate::decide::view::PeerAnswer;

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

/// Asks all members at once, each at its address; those that do not answer in time are missing.
pub async fn ask(
    client: &reqwest::Client,
    members: BTreeMap<NodeName, String>,
) -> BTreeMap<NodeName, PeerAnswer> {
    let questions = members.into_iter().map(|(name, url)| async move {
        let asked = async {
            let response = client.get(&url).send().await?;
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
    let ours = |name| body.regent.as_ref().and_then(|regent| regent.get(name));
    let position = [body.xlog.location, body.xlog.received_location, body.xlog.replayed_location];
    PeerAnswer {
        primary: body.xlog.location.is_some_and(|at| at > 0)
            || matches!(body.role.as_str(), "primary" | "master"),
        position: Lsn::new(position.into_iter().flatten().max().unwrap_or(0)),
        timeline: body.timeline.map(TimelineId),
        // As in Patroni: who cannot lead for want of a watchdog is in nobody's way.
        nofailover: body.watchdog_failed || tags.nofailover,
        failover_priority: tags.failover_priority,
        age: ours("end_asked_ms_ago")
            .and_then(serde_json::Value::as_u64)
            .map(Duration::from_millis),
        ancestry: ours("ancestry").and_then(|told| Ancestry::deserialize(told).ok()),
        without_data: body.role == "uninitialized",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: serde_json::Value) -> PeerAnswer {
        interpret(&serde_json::from_value(body).expect("a body of ours"))
    }

    #[test]
    fn a_peer_is_taken_for_what_it_takes_itself_for() {
        use serde_json::json;
        for (tags, nofailover, priority) in [
            (json!({}), false, 1),
            (json!({"failover_priority": 0}), true, 0),
            (json!({"failover_priority": "4"}), false, 4),
            (json!({"nofailover": true}), true, 1),
            (json!({"nofailover": false, "failover_priority": 0}), false, 0),
        ] {
            let answer = answer(json!({"tags": tags}));
            assert_eq!(
                (answer.nofailover, answer.failover_priority),
                (nofailover, priority),
                "{tags}"
            );
        }
        // Spec 3.4 d: without its watchdog it cannot lead.
        assert!(answer(json!({"watchdog_failed": true})).nofailover);
    }

    #[test]
    fn a_regent_peer_tells_its_ancestry_and_a_patroni_member_none() {
        use serde_json::json;
        let ancestry = json!({"timeline": 2, "promotion": "p2", "switches": [
            {"timeline": 1, "end": "0/64"}]});
        let told =
            answer(json!({"role": "replica", "timeline": 2, "regent": {"ancestry": ancestry},
            "xlog": {"received_location": 300, "replayed_location": 200}}));
        assert_eq!((told.position, told.timeline), (Lsn::new(300), Some(TimelineId(2))));
        assert_eq!(told.ancestry, serde_json::from_value(ancestry).ok());
        assert!(told.ancestry.is_some() && !told.primary);
        for regent in [json!(null), json!({}), json!({"ancestry": 7})] {
            assert_eq!(answer(json!({"role": "replica", "regent": regent})).ancestry, None);
        }
        assert!(answer(json!({"xlog": {"location": 5}})).primary);
    }

    #[test]
    fn an_answer_says_of_when_its_position_is_or_nothing_of_it() {
        use serde_json::json;
        for (regent, age) in [
            (json!({"end_asked_ms_ago": 7}), Some(Duration::from_millis(7))),
            (json!({"end_asked_ms_ago": "7"}), None),
            (json!({"version": "0.1.0"}), None),
            (json!(null), None),
        ] {
            let told = answer(json!({"role": "replica", "timeline": 3, "regent": regent,
                "xlog": {"received_location": 500, "replayed_location": 400}}));
            assert_eq!((told.position, told.age), (Lsn::new(500), age), "{regent}");
        }
        let patronis = json!({"role": "replica", "xlog": {"received_location": 500}});
        assert_eq!(answer(patronis).age, None);
    }

    #[test]
    fn who_starts_or_replays_does_not_say_what_it_has() {
        use serde_json::json;
        let told = json!({"end_asked_ms_ago": 7});
        for (body, says) in [
            (json!({"role": "replica", "xlog": {"received_location": 500}, "regent": told}), true),
            (json!({"role": "replica", "xlog": {"received_location": 500}, "regent": {}}), false),
            (json!({"role": "replica", "regent": told}), false),
            (json!({"role": "replica"}), false),
            (json!({"role": "uninitialized"}), true),
        ] {
            assert_eq!(answer(body.clone()).tells_what_it_has(), says, "{body}");
        }
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
