//! `POST` and `DELETE /restart`, `POST /reinitialize` and `/reload` (spec/patroni-compat.md 2.5): what is asked is
//! read whole or refused, handed to the main loop over a queue with a bound, and answered in Patroni's
//! codes and texts once the loop has an answer, or after a bound of its own.

use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_proto::time::{BootTime, WallTime};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use crate::decide::view::{
    Answer, Ask, Due, NodeRole, Reinitialize, Restart, ScheduledRestart, ServerVersion,
};
use crate::observe::schedule::{self, NoInstant};

/// How many requests may wait for the loop.
pub const MOST: usize = 8;
/// The longest that anybody waits for an answer: every step of a restart has a shorter bound.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1800);

/// A request on its way to the loop.
#[derive(Debug)]
pub struct Asked {
    /// What is asked for.
    pub ask: Ask,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// What the clocks say at the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clocks {
    pub(super) wall: WallTime,
    pub(super) boot: BootTime,
}

/// What is wrong with a request.
type Refusal = (StatusCode, String);

/// `POST /restart`.
pub(super) async fn restart(
    desk: &mpsc::Sender<Asked>,
    paused: bool,
    body: &[u8],
    clocks: Clocks,
) -> Response {
    match read_restart(body, paused, clocks) {
        Ok(ask) => asked(desk, ask).await,
        Err((code, problem)) => text(code, &problem),
    }
}

/// `DELETE /restart`.
pub(super) async fn unschedule(desk: &mpsc::Sender<Asked>) -> Response {
    asked(desk, Ask::Unschedule).await
}

/// `POST /reinitialize`.
pub(super) async fn reinitialize(desk: &mpsc::Sender<Asked>, body: &[u8]) -> Response {
    match read_reinitialize(body) {
        Ok(how) => asked(desk, Ask::Reinitialize(how)).await,
        Err((code, problem)) => text(code, &problem),
    }
}

/// `POST /reload`: what SIGHUP is, which this process's own handler takes.
pub(super) fn reload() -> Response {
    match kill(Pid::this(), Signal::SIGHUP) {
        Ok(()) => text(StatusCode::ACCEPTED, "reload scheduled"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn asked(desk: &mpsc::Sender<Asked>, ask: Ask) -> Response {
    // A queue that is full is of requests that wait for one of their kind.
    let (busy, failed) = match &ask {
        Ask::Restart(_) | Ask::Schedule(_) | Ask::Unschedule => ("restart", "restart failed"),
        Ask::Reinitialize(_) => ("reinitialize", "reinitialize failed"),
    };
    let (answer, answered) = oneshot::channel();
    match desk.try_send(Asked { ask, answer }) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => return reply(Answer::InProgress(busy)),
        // The agent ends.
        Err(mpsc::error::TrySendError::Closed(_)) => {
            return text(StatusCode::SERVICE_UNAVAILABLE, failed);
        }
    }
    match tokio::time::timeout(ANSWERED_WITHIN, answered).await {
        Ok(Ok(answer)) => reply(answer),
        Ok(Err(_)) | Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, failed),
    }
}

/// An answer on the wire.
fn reply(answer: Answer) -> Response {
    let (code, words) = wire(answer);
    text(code, &words)
}

fn wire(answer: Answer) -> (StatusCode, String) {
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let (code, words) = match answer {
        Answer::Restarted => (StatusCode::OK, "restarted successfully"),
        Answer::ConditionsUnmet => (unavailable, "restart conditions are not satisfied"),
        Answer::InProgress(what) => return (unavailable, format!("{what} already in progress")),
        Answer::StillStarting => (unavailable, "postgres is still starting"),
        Answer::RestartFailed => (unavailable, "restart failed"),
        Answer::Scheduled => (StatusCode::ACCEPTED, "Restart scheduled"),
        Answer::AlreadyScheduled => (StatusCode::CONFLICT, "Another restart is already scheduled"),
        Answer::Unscheduled => (StatusCode::OK, "scheduled restart deleted"),
        Answer::NothingScheduled => (StatusCode::NOT_FOUND, "no restarts are scheduled"),
        Answer::ReinitializeStarted => (StatusCode::OK, "reinitialize started"),
        Answer::NoLeader => (unavailable, "Cluster has no leader, can not reinitialize"),
        Answer::IsLeader => (unavailable, "I am the leader, can not reinitialize"),
    };
    (code, words.to_owned())
}

fn text(code: StatusCode, words: &str) -> Response {
    (code, [(header::CONTENT_TYPE, "text/html")], words.to_owned()).into_response()
}

fn bad(problem: impl Into<String>) -> Refusal {
    (StatusCode::BAD_REQUEST, problem.into())
}

/// A body may be missing, and is an object otherwise.
fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(body)
        .map_err(|error| bad(format!("the body is no JSON object: {error}")))
}

fn read_restart(body: &[u8], paused: bool, clocks: Clocks) -> Result<Ask, Refusal> {
    let body = object(body)?;
    if paused && body.contains_key("schedule") {
        let problem = "Can't schedule restart in the paused state";
        return Err((StatusCode::INTERNAL_SERVER_ERROR, problem.to_owned()));
    }
    let mut restart = Restart::default();
    let mut schedule = None;
    // In the order of the body: the first that is wrong is told.
    for (key, value) in &body {
        match key.as_str() {
            "schedule" => schedule = Some(instant(value, clocks)?),
            "role" => restart.role = Some(role(value)?),
            "postgres_version" => restart.postgres_version = Some(version(value)?),
            "timeout" => restart.timeout = Some(timeout(value)?),
            // Whatever its value is, as in Patroni.
            "restart_pending" => restart.restart_pending = true,
            unknown => {
                let problem = format!(
                    "{unknown:?} is no condition of a restart; want role, postgres_version, \
                     restart_pending, timeout or schedule"
                );
                return Err(bad(problem));
            }
        }
    }
    Ok(match schedule {
        None => Ask::Restart(restart),
        Some((schedule, due)) => {
            Ask::Schedule(ScheduledRestart { schedule, due, started: None, restart })
        }
    })
}

/// What a person wrote, and the same on the boot clock, which nothing steps (I11).
fn instant(value: &Value, clocks: Clocks) -> Result<(String, BootTime), Refusal> {
    let written = value.as_str().unwrap_or_default();
    let at = schedule::read(written).map_err(|why| match why {
        NoInstant::NoTimeZone => bad("the scheduled restart needs a time zone, as in +00:00"),
        NoInstant::Unparsable => {
            let problem = format!("schedule: {value} is no timestamp of the form of ISO 8601");
            (StatusCode::UNPROCESSABLE_ENTITY, problem)
        }
    })?;
    match schedule::due(at, clocks.wall, clocks.boot) {
        Due::At(due) if due >= clocks.boot => Ok((written.trim().to_owned(), due)),
        Due::At(_) | Due::BeforeBoot => {
            let problem = format!("cannot schedule a restart in the past: {written}");
            Err((StatusCode::UNPROCESSABLE_ENTITY, problem))
        }
    }
}

fn role(value: &Value) -> Result<NodeRole, Refusal> {
    [NodeRole::Primary, NodeRole::StandbyLeader, NodeRole::Replica]
        .into_iter()
        .find(|role| value.as_str() == Some(role.word()))
        .ok_or_else(|| bad(format!("role: {value}; want primary, standby_leader or replica")))
}

/// `X.Y` from 10 on, `X.Y.Z` before.
fn version(value: &Value) -> Result<ServerVersion, Refusal> {
    let written = value.as_str().unwrap_or_default();
    let wrong = || bad(format!("postgres_version: {value}; want X.Y or X.Y.Z"));
    let parts: Vec<&str> = written.split('.').collect();
    let parts: Option<Vec<u32>> =
        parts.into_iter().map(|part| part.parse().ok().filter(|n: &u32| *n < 100)).collect();
    let number = match parts.ok_or_else(wrong)?[..] {
        [major, minor] if major >= 10 => major * 10_000 + minor,
        [major, middle, minor] => major * 10_000 + middle * 100 + minor,
        _ => return Err(wrong()),
    };
    Ok(ServerVersion { text: written.to_owned(), number })
}

/// A number of seconds, or a span with a unit of PostgreSQL's.
fn timeout(value: &Value) -> Result<Duration, Refusal> {
    let wrong = || bad(format!("timeout: {value}; want a positive number of seconds"));
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim().to_owned(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(wrong()),
    };
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let seconds = match text[unit..].trim() {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let seconds = text[..unit].parse::<f64>().map_err(|_| wrong())? * seconds;
    // A day is enough for anybody, and keeps what waits for the answer bounded.
    if !(0.5..=86_400.0).contains(&seconds) {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(seconds.round()))
}

fn read_reinitialize(body: &[u8]) -> Result<Reinitialize, Refusal> {
    let body = object(body)?;
    // Patroni's own tool writes the second with a hyphen.
    let flag = |names: &[&str]| {
        let value = names.iter().find_map(|name| body.get(*name));
        value.is_some_and(|value| match value {
            Value::Bool(on) => *on,
            Value::String(text) => matches!(text.to_lowercase().as_str(), "true" | "on" | "yes"),
            Value::Number(number) => number.as_u64() == Some(1),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        })
    };
    Ok(Reinitialize { force: flag(&["force"]), from_leader: flag(&["from_leader", "from-leader"]) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CLOCKS: Clocks =
        Clocks { wall: WallTime(1_796_040_000_000), boot: BootTime::from_nanos(1_000) };

    fn read(body: &Value) -> Result<Ask, u16> {
        read_restart(body.to_string().as_bytes(), false, CLOCKS).map_err(|(code, _)| code.as_u16())
    }

    /// Spec 2.5, row `POST /restart`.
    #[test]
    fn conditions_are_read_and_what_is_wrong_has_patroni_s_code() {
        for (body, code) in [
            (json!({"role": "master"}), 400),
            (json!({"role": 3}), 400),
            (json!({"postgres_version": "15"}), 400),
            (json!({"postgres_version": "9.6"}), 400),
            (json!({"postgres_version": "15.x"}), 400),
            (json!({"postgres_version": 15.3}), 400),
            (json!({"timeout": 0}), 400),
            (json!({"timeout": -1}), 400),
            (json!({"timeout": "soon"}), 400),
            (json!({"timeout": "5 parsecs"}), 400),
            (json!({"timeout": null}), 400),
            (json!({"why": "not"}), 400),
            (json!({"schedule": "2026-12-01T12:00:00"}), 400),
            (json!({"schedule": "tomorrow"}), 422),
            (json!({"schedule": 3}), 422),
            (json!({"schedule": "2026-11-30T11:59:59Z"}), 422),
            (json!(["role"]), 400),
            (json!("role"), 400),
            // The first that is wrong.
            (json!({"schedule": "tomorrow", "role": "x"}), 422),
            (json!({"role": "x", "schedule": "tomorrow"}), 400),
        ] {
            assert_eq!(read(&body), Err(code), "{body}");
        }
        assert_eq!(read_restart(b"", false, CLOCKS), Ok(Ask::Restart(Restart::default())));
        assert_eq!(read_restart(b"{", false, CLOCKS).map_err(|e| e.0.as_u16()), Err(400));
        let all = json!({"role": "replica", "postgres_version": "15.4", "timeout": "2min",
            "restart_pending": false});
        let restart = Restart {
            role: Some(NodeRole::Replica),
            postgres_version: Some(ServerVersion { text: "15.4".to_owned(), number: 150_004 }),
            restart_pending: true,
            timeout: Some(Duration::from_secs(120)),
        };
        assert_eq!(read(&all), Ok(Ask::Restart(restart)));
        for (written, number) in [("9.6.24", 90_624), ("10.0", 100_000), ("17.2", 170_002)] {
            assert_eq!(version(&json!(written)).map(|version| version.number), Ok(number));
        }
        for (written, seconds) in [(json!(5), 5), (json!("5"), 5), (json!("1 h"), 3600)] {
            assert_eq!(timeout(&written), Ok(Duration::from_secs(seconds)), "{written}");
        }
    }

    #[test]
    fn a_schedule_is_kept_as_it_was_written_and_not_taken_in_a_pause() {
        let body = json!({"schedule": "2026-11-30T13:00:02+01:00"}).to_string();
        let Ok(Ask::Schedule(scheduled)) = read_restart(body.as_bytes(), false, CLOCKS) else {
            panic!("not scheduled");
        };
        assert_eq!(scheduled.schedule, "2026-11-30T13:00:02+01:00");
        assert_eq!(scheduled.due, CLOCKS.boot.plus(Duration::from_secs(2)));
        let paused = read_restart(body.as_bytes(), true, CLOCKS);
        let text = "Can't schedule restart in the paused state".to_owned();
        assert_eq!(paused, Err((StatusCode::INTERNAL_SERVER_ERROR, text)));
        assert!(read_restart(b"", true, CLOCKS).is_ok(), "one at once is");
    }

    #[test]
    fn a_reinitialize_is_read_in_both_spellings() {
        for (body, force, from_leader) in [
            (json!({}), false, false),
            (json!({"force": true}), true, false),
            (json!({"from_leader": true}), false, true),
            (json!({"force": "on", "from-leader": 1}), true, true),
            (json!({"force": null}), false, false),
        ] {
            let how = read_reinitialize(body.to_string().as_bytes());
            assert_eq!(how, Ok(Reinitialize { force, from_leader }), "{body}");
        }
        assert!(read_reinitialize(b"").is_ok());
        assert_eq!(read_reinitialize(b"[]").map_err(|e| e.0.as_u16()), Err(400));
    }

    /// Spec 2.5: the codes and texts that clients go by.
    #[test]
    fn each_answer_has_patroni_s_code_and_text() {
        for (answer, code, words) in [
            (Answer::Restarted, 200, "restarted successfully"),
            (Answer::ConditionsUnmet, 503, "restart conditions are not satisfied"),
            (Answer::InProgress("restart"), 503, "restart already in progress"),
            (Answer::StillStarting, 503, "postgres is still starting"),
            (Answer::RestartFailed, 503, "restart failed"),
            (Answer::Scheduled, 202, "Restart scheduled"),
            (Answer::AlreadyScheduled, 409, "Another restart is already scheduled"),
            (Answer::Unscheduled, 200, "scheduled restart deleted"),
            (Answer::NothingScheduled, 404, "no restarts are scheduled"),
            (Answer::ReinitializeStarted, 200, "reinitialize started"),
            (Answer::NoLeader, 503, "Cluster has no leader, can not reinitialize"),
            (Answer::IsLeader, 503, "I am the leader, can not reinitialize"),
        ] {
            assert_eq!(wire(answer), (StatusCode::from_u16(code).expect("a code"), words.into()));
        }
    }

    #[tokio::test]
    async fn whoever_asks_waits_for_the_loop_and_not_for_a_full_queue_or_an_agent_that_ends() {
        let (desk, mut arriving) = mpsc::channel(1);
        let other = desk.clone();
        let waits = tokio::spawn(async move { unschedule(&other).await.status() });
        let asked = arriving.recv().await.expect("one");
        assert_eq!(asked.ask, Ask::Unschedule);
        asked.answer.send(Answer::NothingScheduled).expect("it waits");
        assert_eq!(waits.await.expect("no panic"), StatusCode::NOT_FOUND);
        let (answer, _) = oneshot::channel();
        desk.try_send(Asked { ask: Ask::Unschedule, answer }).expect("room for one");
        let full = reinitialize(&desk, b"").await;
        assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(arriving);
        assert_eq!(unschedule(&desk).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
