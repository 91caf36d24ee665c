//! Every row of spec/patroni-compat.md 2.5, items 1 to 8: codes, texts, their order, and what is
//! written.

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::Method;
use regent_dcs::memory::{Call, Fault};
use regent_dcs::{Change, Store as _, Txn};
use regent_proto::keys::SiteKey;

use super::*;
use crate::api::asked::Asked;
use crate::api::{Parameters, answer};
use crate::decide::tests::world::{World, name};

const NOW: WallTime = WallTime(1_796_032_800_000);

fn read(verb: Verb, body: Value, paused: bool) -> Result<Wanted, Said> {
    well_formed(verb, body.as_object().expect("an object"), paused, NOW)
}

/// Code and text of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T, Said>) -> (u16, String) {
    let Said(code, text) = result.expect_err("refused");
    (code.as_u16(), text)
}

#[test]
fn what_is_wrong_with_a_request_is_told_in_patronis_words_first_failure_first() {
    let specific = "Failover could be performed only to a specific candidate";
    let from = "Switchover could be performed only from a specific leader";
    let unscheduled = "Failover can't be scheduled";
    let paused_schedule = "Can't schedule switchover in the paused state";
    let zone = "Timezone information is mandatory for the scheduled switchover";
    let past = "Cannot schedule switchover in the past";
    let unparsable = "Unable to parse scheduled timestamp. It should be in an unambiguous format, \
                      e.g. ISO 8601";
    let paused = "Switchover is possible only to a specific candidate in a paused state";
    let same = "Switchover target and source are the same";
    let (to_come, over) = ("2026-11-30T10:00:01Z", "2026-11-30T09:59:59Z");
    use Verb::{Failover, Switchover};
    let cases: [(Verb, bool, Value, u16, &str); 17] = [
        (Failover, false, json!({"leader": "a"}), 400, specific),
        (Failover, false, json!({"candidate": ""}), 400, specific),
        (Switchover, false, json!({"candidate": "b"}), 400, from),
        (Failover, true, json!({"scheduled_at": to_come}), 400, specific),
        (Failover, false, json!({"candidate": "b", "scheduled_at": to_come}), 400, unscheduled),
        (Failover, true, json!({"member": "b", "scheduled_at": "soon"}), 400, unscheduled),
        (Switchover, true, json!({"leader": "a", "scheduled_at": "soon"}), 400, paused_schedule),
        (
            Switchover,
            false,
            json!({"leader": "a", "scheduled_at": "2026-11-30T10:00:01"}),
            400,
            zone,
        ),
        (Switchover, false, json!({"leader": "a", "scheduled_at": over}), 422, past),
        (Switchover, false, json!({"leader": "a", "scheduled_at": "soon"}), 422, unparsable),
        (
            Switchover,
            false,
            json!({"leader": "a", "candidate": "a", "scheduled_at": over}),
            422,
            past,
        ),
        (Switchover, true, json!({"leader": "a"}), 400, paused),
        (Switchover, false, json!({"leader": "a", "candidate": "a"}), 400, same),
        (Switchover, true, json!({"leader": "a", "candidate": "a"}), 400, same),
        (Failover, false, json!({"leader": "a", "candidate": "a"}), 400, same),
        (Switchover, false, json!({"leader": 7}), 400, "leader: 7 is not a text"),
        (
            Switchover,
            false,
            json!({"leader": "a", "scheduled_at": 7}),
            400,
            "scheduled_at: 7 is not a text",
        ),
    ];
    for (verb, paused, body, code, text) in cases {
        let got = refusal(read(verb, body.clone(), paused));
        assert_eq!(got, (code, text.to_owned()), "{verb:?} {body}");
    }
}

#[test]
fn what_is_written_is_patronis_record() {
    for (verb, body, becomes, record) in [
        (
            Verb::Switchover,
            json!({"leader": "a", "candidate": "b"}),
            Verb::Switchover,
            r#"{"leader":"a","member":"b"}"#,
        ),
        (
            Verb::Switchover,
            json!({"leader": "a", "candidate": null}),
            Verb::Switchover,
            r#"{"leader":"a"}"#,
        ),
        (Verb::Failover, json!({"member": "b"}), Verb::Failover, r#"{"member":"b"}"#),
        (
            Verb::Failover,
            json!({"leader": "a", "candidate": "b", "member": "c"}),
            Verb::Switchover,
            r#"{"leader":"a","member":"b"}"#,
        ),
        (
            Verb::Switchover,
            json!({"leader": "a", "scheduled_at": "2026-11-30T12:00:00+01:00"}),
            Verb::Switchover,
            r#"{"leader":"a","scheduled_at":"2026-11-30T12:00:00+01:00"}"#,
        ),
    ] {
        let wanted = read(verb, body, false).expect("well formed");
        assert_eq!((wanted.verb, wanted.record().to_string()), (becomes, record.to_owned()));
    }
}

#[test]
fn what_is_not_possible_is_told_in_patronis_words_first_failure_first() {
    // `a1` leads, `a2` is its synchronous standby, `a3` is not.
    let mut world = World::new();
    let third = world.site().members[&name::<NodeName>("a2")].clone();
    world.site().members.insert(name("a3"), third);
    let mut alone = world.site().clone();
    alone.members.retain(|member, _| *member == name("a1"));
    alone.sync.standbys.clear();
    let mut free = world.site().clone();
    free.leader = None;
    let site = world.site().clone();
    type Case<'a> =
        (&'a SiteView, Verb, Option<&'a str>, Option<&'a str>, bool, Result<&'a str, &'a str>);
    let mismatch = Err("leader name does not match");
    let not_sync = Err("candidate name does not match with sync_standby");
    let nobody = Err("candidate does not exists");
    use Verb::{Failover, Switchover};
    let cases: [Case<'_>; 13] = [
        (&site, Switchover, Some("a2"), None, true, mismatch),
        (&site, Switchover, Some("no name!"), Some("a2"), true, mismatch),
        (&free, Switchover, Some("a1"), Some("a2"), true, mismatch),
        (&site, Switchover, Some("a1"), Some("a3"), true, not_sync),
        (&site, Switchover, Some("a1"), Some("a9"), true, not_sync),
        (&site, Switchover, Some("a1"), Some("a9"), false, nobody),
        (&site, Failover, None, Some("a9"), true, nobody),
        (
            &alone,
            Switchover,
            Some("a1"),
            None,
            true,
            Err("switchover is not possible: can not find sync_standby"),
        ),
        (
            &alone,
            Switchover,
            Some("a1"),
            None,
            false,
            Err("switchover is not possible: cluster does not have members except leader"),
        ),
        (&site, Switchover, Some("a1"), Some("a2"), true, Ok("a2")),
        (&site, Switchover, Some("a1"), None, true, Ok("a2")),
        (&site, Switchover, Some("a1"), None, false, Ok("a2 a3")),
        (&site, Failover, None, Some("a3"), true, Ok("a3")),
    ];
    for (site, verb, leader, candidate, synchronous, outcome) in cases {
        let wanted = Wanted {
            verb,
            leader: leader.map(str::to_owned),
            candidate: candidate.map(str::to_owned),
            scheduled: None,
        };
        let facts = Facts { site, synchronous, paused: false, operation_runs: false };
        let what = format!("{verb:?} {leader:?} {candidate:?} {synchronous}");
        match (possible(&wanted, &facts), outcome) {
            (Ok(members), Ok(names)) => {
                let found: Vec<&str> = members.keys().map(NodeName::as_str).collect();
                assert_eq!(found.join(" "), names, "{what}");
            }
            (result, Err(text)) => {
                assert_eq!(refusal(result), (412, text.to_owned()), "{what}");
            }
            (Err(said), Ok(_)) => panic!("{what}: {said:?}"),
        }
    }
    let wanted = read(Switchover, json!({"leader": "a1", "candidate": "a2"}), false).expect("good");
    for (paused, operation_runs, part) in [(true, false, "paused"), (false, true, "federation")] {
        let facts = Facts { site: &site, synchronous: true, paused, operation_runs };
        let (code, text) = refusal(possible(&wanted, &facts));
        assert!(code == 412 && text.contains(part), "{text}");
    }
}

#[test]
fn what_came_of_it_is_told_in_patronis_words() {
    let told = |verb, candidate: Option<&str>| {
        let candidate = candidate.map(str::to_owned);
        changed(&Wanted { verb, leader: None, candidate, scheduled: None }, "a2")
    };
    assert_eq!(told(Verb::Switchover, None), "Successfully switched over to \"a2\"");
    assert_eq!(told(Verb::Switchover, Some("a2")), "Successfully switched over to \"a2\"");
    assert_eq!(told(Verb::Failover, Some("a2")), "Successfully failed over to \"a2\"");
    assert_eq!(told(Verb::Switchover, Some("a3")), "Switched over to \"a2\" instead of \"a3\"");
    assert_eq!(told(Verb::Failover, Some("a3")), "Failed over to \"a2\" instead of \"a3\"");
}

/// A body of a member that may lead, on a port of this machine.
async fn member_answers() -> u16 {
    let body =
        r#"{"state":"running","role":"replica","timeline":3,"xlog":{"received_location":500}}"#;
    let app = axum::Router::new().fallback(move || async move { body });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

/// `a1` leads its site alone with `a2`, which answers; no federation.
async fn led(extra: &str) -> Asked {
    let port = member_answers().await;
    let mut asked = Asked::new(extra);
    asked.see(|picture| {
        picture.view.federation = None;
        let site = picture.view.site.as_mut().expect("these worlds have one");
        let member = site.members.get_mut(&name::<NodeName>("a2")).expect("a member");
        Arc::make_mut(member).api_url = format!("http://127.0.0.1:{port}/patroni");
    });
    put(&asked, SiteKey::Leader, "a1").await;
    asked
}

async fn put(asked: &Asked, key: SiteKey, value: &str) {
    let put = Change::put(asked.shared.site.keys.key(key), value.to_owned());
    let written = asked.store.txn(Txn::new().then(put), STORE).await.expect("well");
    written.applied().expect("unconditional");
}

async fn stored(asked: &Asked) -> Option<String> {
    let key = asked.shared.site.keys.key(SiteKey::Failover);
    let entry = asked.store.get(&key, STORE).await.expect("well")?;
    Some(String::from_utf8(entry.value.to_vec()).expect("text"))
}

async fn request(asked: &Asked, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
    let mut headers = HeaderMap::new();
    if body.is_some() {
        headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from_static("1"));
    }
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let uri = path.parse().expect("a path");
    let query = Query(Parameters::new());
    let state = State(asked.shared.clone());
    let answer = answer(state, method, uri, query, headers, body).await;
    let code = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 4096).await.expect("short");
    (code, String::from_utf8(body.to_vec()).expect("text"))
}

fn in_an_hour() -> String {
    WallTime(wall_time().0 + 3_600_000).to_string()
}

#[tokio::test]
async fn a_schedule_is_written_shown_and_taken_back() {
    let asked = led("").await;
    let at = in_an_hour();
    let body = json!({"leader": "a1", "candidate": "a2", "scheduled_at": at});
    let answer = request(&asked, Method::POST, "/switchover", Some(body)).await;
    assert_eq!(answer, (202, "Switchover scheduled".to_owned()));
    let written = json!({"leader": "a1", "member": "a2", "scheduled_at": at});
    assert_eq!(stored(&asked).await, Some(written.to_string()));
    let deleted = request(&asked, Method::DELETE, "/switchover", None).await;
    assert_eq!(deleted, (200, "scheduled switchover deleted".to_owned()));
    assert_eq!(stored(&asked).await.as_deref(), Some("{}"));
    let again = request(&asked, Method::DELETE, "/switchover", None).await;
    assert_eq!(again, (404, "no switchover is scheduled".to_owned()));
}

#[tokio::test]
async fn only_a_schedule_is_taken_back_and_only_the_one_that_was_read() {
    let asked = led("").await;
    put(&asked, SiteKey::Failover, r#"{"leader":"a1"}"#).await;
    assert_eq!(request(&asked, Method::DELETE, "/switchover", None).await.0, 404);
    assert_eq!(stored(&asked).await.as_deref(), Some(r#"{"leader":"a1"}"#));
    let text = json!({"leader": "a1", "scheduled_at": in_an_hour()}).to_string();
    put(&asked, SiteKey::Failover, &text).await;
    let key = asked.shared.site.keys.key(SiteKey::Failover);
    let read = asked.store.get(&key, STORE).await.expect("well").expect("there");
    let other = text.replace("a1", "a2");
    put(&asked, SiteKey::Failover, &other).await;
    let Said(code, _) = take_back(&asked.shared, Some(&read)).await;
    assert_eq!(code, StatusCode::CONFLICT);
    assert_eq!(stored(&asked).await, Some(other), "it stands");
}

#[tokio::test]
async fn the_answer_waits_for_the_leader_to_change() {
    for (candidate, leader, wanted) in [
        (Some("a2"), "a2", "Successfully switched over to \"a2\""),
        (None, "a2", "Successfully switched over to \"a2\""),
        (Some("a2"), "a3", "Switched over to \"a3\" instead of \"a2\""),
    ] {
        let asked = led("").await;
        let body = json!({"leader": "a1", "candidate": candidate});
        let happens = async {
            until_written(&asked).await;
            put(&asked, SiteKey::Leader, leader).await;
            put(&asked, SiteKey::Failover, "{}").await;
        };
        let posted = request(&asked, Method::POST, "/switchover", Some(body));
        let (answer, ()) = tokio::join!(posted, happens);
        assert_eq!(answer, (200, wanted.to_owned()));
    }
}

/// The request stands in the store.
async fn until_written(asked: &Asked) {
    while stored(asked).await.is_none_or(|text| text == "{}") {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_that_ends_under_the_same_leader_has_failed() {
    let asked = led("").await;
    let body = json!({"candidate": "a2"});
    let happens = async {
        until_written(&asked).await;
        put(&asked, SiteKey::Failover, "{}").await;
    };
    let posted = request(&asked, Method::POST, "/failover", Some(body));
    let (answer, ()) = tokio::join!(posted, happens);
    assert_eq!(answer, (503, "Failover failed".to_owned()));
}

#[tokio::test]
async fn a_request_that_nobody_acts_upon_is_not_waited_for_without_end() {
    let asked = led("").await;
    let wanted = read(Verb::Switchover, json!({"leader": "a1"}), false).expect("good");
    write(&asked.shared, wanted.record()).await.expect("written");
    let before = name("a1");
    let said = outcome(&asked.shared, &wanted, Some(&before), LOOKS_APART * 3).await;
    assert_eq!(said, super::said(StatusCode::SERVICE_UNAVAILABLE, "Switchover status unknown"));
}

#[tokio::test]
async fn what_cannot_be_asked_or_written_is_said() {
    let body = json!({"leader": "a1", "candidate": "a2"});
    let mut silent = led("").await;
    silent.see(|picture| {
        let site = picture.view.site.as_mut().expect("these worlds have one");
        let member = site.members.get_mut(&name::<NodeName>("a2")).expect("a member");
        Arc::make_mut(member).api_url = "http://127.0.0.1:1/patroni".to_owned();
    });
    let nobody = "switchover is not possible: no good candidates have been found";
    let refused = request(&silent, Method::POST, "/switchover", Some(body.clone())).await;
    assert_eq!(refused, (412, nobody.to_owned()));
    assert_eq!(stored(&silent).await, None);
    for call in [Call::Get, Call::Txn] {
        let mut asked = led("").await;
        let store = asked.store.process("agent");
        store.faults().order(Some(call), Fault::NotDone);
        asked.shared.site.store = Arc::new(store);
        let refused = request(&asked, Method::POST, "/switchover", Some(body.clone())).await;
        assert_eq!(refused, (503, "failed to write failover key into DCS".to_owned()), "{call:?}");
    }
    let asked = led("").await;
    assert_eq!(request(&asked, Method::POST, "/switchover", None).await.0, 411);
    for body in [json!({}), json!([]), json!("x")] {
        assert_eq!(request(&asked, Method::POST, "/switchover", Some(body)).await.0, 400);
    }
    let named = json!({"leader": "a1", "candidate": "é", "scheduled_at": in_an_hour()});
    let (code, text) = request(&asked, Method::POST, "/switchover", Some(named)).await;
    assert_eq!((code, text.contains("is not the name of a member")), (400, true), "{text}");
}

#[tokio::test]
async fn whoever_may_not_change_anything_may_not_switch_over_either() {
    let users = led(", authentication: {username: ann, password: pw}").await;
    let body = json!({"leader": "a1", "candidate": "a2"});
    for (method, path, body) in [
        (Method::POST, "/switchover", Some(body.clone())),
        (Method::POST, "/failover", Some(body)),
        (Method::DELETE, "/switchover", None),
    ] {
        assert_eq!(request(&users, method, path, body).await.0, 401, "{path}");
    }
    assert_eq!(stored(&users).await, None);
}
