//! `POST /switchover` and `/failover`, `DELETE /switchover` (spec/patroni-compat.md 2.5, items 1 to 8):
//! a request is checked, written into the `failover` key, and answered once the leader has changed or
//! the request has ended. Codes and texts are Patroni's: `patronictl` and people's scripts go by them.
//! What only Regent refuses says so in words of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use regent_dcs::{Change, Compare, Entry, StoreError, Txn, TxnOutcome};
use regent_proto::keys::SiteKey;
use regent_proto::name::NodeName;
use regent_proto::time::WallTime;
use serde_json::{Map, Value, json};

use super::Shared;
use crate::act::publish::Picture;
use crate::decide::upstream;
use crate::decide::view::{Member, SiteView};
use crate::observe::clock::wall_time;
use crate::observe::peers;
use crate::observe::schedule::{self, NoInstant};

/// The longest that one request may take at the store.
const STORE: Duration = Duration::from_secs(5);
/// How often the outcome is looked for at most: each look reads two keys.
const LOOKS_APART: Duration = Duration::from_millis(50);
/// And at least.
const LOOKS_AGAIN: Duration = Duration::from_secs(1);
/// Half of the least time for which an outcome is waited for.
const OUTCOME_LEAST: Duration = Duration::from_secs(10);

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// From a leader that lives.
    Switchover,
    /// To a candidate, whoever leads.
    Failover,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::Failover => "failover",
        }
    }

    /// At the beginning of a sentence.
    fn title(self) -> &'static str {
        match self {
            Self::Switchover => "Switchover",
            Self::Failover => "Failover",
        }
    }
}

/// A code with a text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said(StatusCode, String);

fn said(code: StatusCode, text: impl Into<String>) -> Said {
    Said(code, text.into())
}

impl Said {
    fn answer(self) -> Response {
        (self.0, [(header::CONTENT_TYPE, "text/html")], self.1).into_response()
    }
}

/// A request that is well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    verb: Verb,
    leader: Option<String>,
    candidate: Option<String>,
    /// As it was written.
    scheduled: Option<String>,
}

impl Wanted {
    /// The value of the key.
    fn record(&self) -> Value {
        let mut record = Map::new();
        let parts = [
            ("leader", &self.leader),
            ("member", &self.candidate),
            ("scheduled_at", &self.scheduled),
        ];
        for (key, part) in parts {
            if let Some(part) = part {
                record.insert(key.to_owned(), json!(part));
            }
        }
        Value::Object(record)
    }
}

/// The body as an object.
fn object(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, Said> {
    if body.is_empty() && !headers.contains_key(header::CONTENT_LENGTH) {
        return Err(said(StatusCode::LENGTH_REQUIRED, "Length Required"));
    }
    let read: Result<Map<String, Value>, _> = serde_json::from_slice(body);
    let problem = match read {
        Ok(object) if !object.is_empty() => return Ok(object),
        Ok(_) => "it is empty".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!("the body is not a JSON object that asks for anything: {problem}");
    Err(said(StatusCode::BAD_REQUEST, text))
}

/// A text, where there is one; an empty one is none, as in Patroni.
fn text(body: &Map<String, Value>, key: &str) -> Result<Option<String>, Said> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => {
            let shown: String = other.to_string().chars().take(60).collect();
            Err(said(StatusCode::BAD_REQUEST, format!("{key}: {shown} is not a text")))
        }
    }
}

/// Items 1 to 5: what can be told from the request alone.
fn well_formed(
    verb: Verb,
    body: &Map<String, Value>,
    paused: bool,
    now: WallTime,
) -> Result<Wanted, Said> {
    let bad = |text: &str| Err(said(StatusCode::BAD_REQUEST, text));
    let leader = text(body, "leader")?;
    let candidate = text(body, "candidate")?.or(text(body, "member")?);
    let scheduled = text(body, "scheduled_at")?;
    match verb {
        Verb::Failover if candidate.is_none() => {
            return bad("Failover could be performed only to a specific candidate");
        }
        Verb::Switchover if leader.is_none() => {
            return bad("Switchover could be performed only from a specific leader");
        }
        Verb::Failover | Verb::Switchover => {}
    }
    if let Some(scheduled) = &scheduled {
        match verb {
            Verb::Failover => return bad("Failover can't be scheduled"),
            Verb::Switchover if paused => {
                return bad("Can't schedule switchover in the paused state");
            }
            Verb::Switchover => to_come(verb, scheduled, now)?,
        }
    }
    if paused && candidate.is_none() {
        return bad("Switchover is possible only to a specific candidate in a paused state");
    }
    // A failover that names the leader is a switchover.
    let verb = if leader.is_some() { Verb::Switchover } else { verb };
    if leader == candidate {
        return bad("Switchover target and source are the same");
    }
    Ok(Wanted { verb, leader, candidate, scheduled })
}

/// The rules for a time.
fn to_come(verb: Verb, text: &str, now: WallTime) -> Result<(), Said> {
    let action = verb.name();
    match schedule::read(text) {
        Ok(instant) if instant >= now => Ok(()),
        Ok(_) => Err(said(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("Cannot schedule {action} in the past"),
        )),
        Err(NoInstant::NoTimeZone) => Err(said(
            StatusCode::BAD_REQUEST,
            format!("Timezone information is mandatory for the scheduled {action}"),
        )),
        Err(NoInstant::Unparsable) => Err(said(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO \
             8601",
        )),
    }
}

/// What of the site a request is held against.
struct Facts<'a> {
    site: &'a SiteView,
    /// Only whom `sync` names may lead.
    synchronous: bool,
    paused: bool,
    /// An operation of the federation runs.
    operation_runs: bool,
}

type Members = BTreeMap<NodeName, Arc<Member>>;

/// Item 6: whom the request could choose, for asking them.
fn possible(wanted: &Wanted, facts: &Facts<'_>) -> Result<Members, Said> {
    let action = wanted.verb.name();
    let refuse = |text: String| Err(said(StatusCode::PRECONDITION_FAILED, text));
    let site = facts.site;
    let leader = site.leader.as_ref().filter(|leader| !leader.unreadable);
    let leader = leader.map(|leader| leader.name.as_str());
    if wanted.leader.is_some() && wanted.leader.as_deref() != leader {
        return refuse("leader name does not match".to_owned());
    }
    if facts.paused {
        return refuse(format!(
            "{action} is not possible: while the cluster is paused its fence is off and no server \
             is opened; resume it first"
        ));
    }
    if facts.operation_runs {
        return refuse(format!(
            "{action} is not possible: an operation of the federation runs; see `regentctl status`"
        ));
    }
    let members = |keep: &dyn Fn(&str) -> bool| -> Members {
        let all = site.members.iter().filter(|(name, _)| keep(name.as_str()));
        all.map(|(name, member)| (name.clone(), Arc::clone(member))).collect()
    };
    let in_sync = |name: &str| site.sync.standbys.iter().any(|standby| standby.as_str() == name);
    let (found, none) = match &wanted.candidate {
        Some(candidate) => {
            let switchover = wanted.verb == Verb::Switchover;
            if switchover && facts.synchronous && !in_sync(candidate) {
                return refuse("candidate name does not match with sync_standby".to_owned());
            }
            (members(&|name| name == candidate), "candidate does not exists".to_owned())
        }
        None if facts.synchronous => {
            (members(&in_sync), format!("{action} is not possible: can not find sync_standby"))
        }
        None => (
            members(&|name| Some(name) != leader),
            format!("{action} is not possible: cluster does not have members except leader"),
        ),
    };
    if found.is_empty() { refuse(none) } else { Ok(found) }
}

/// `POST /switchover` or `/failover`.
pub(super) async fn post(
    shared: &Shared,
    picture: &Picture,
    verb: Verb,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    match asked(shared, picture, verb, (headers, body)).await {
        Ok(done) | Err(done) => done.answer(),
    }
}

async fn asked(
    shared: &Shared,
    picture: &Picture,
    verb: Verb,
    (headers, body): (&HeaderMap, &[u8]),
) -> Result<Said, Said> {
    let paused = picture.dynamic.pause;
    let wanted = well_formed(verb, &object(headers, body)?, paused, wall_time())?;
    let Some(site) = &picture.view.site else {
        let text = "the site DCS has not answered yet";
        return Err(said(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    if wanted.scheduled.is_none() {
        let federation = picture.view.federation.as_ref();
        let facts = Facts {
            site,
            synchronous: picture.dynamic.synchronous_mode
                && !upstream::is_standby_site(&picture.view),
            paused,
            operation_runs: federation.is_some_and(|federation| federation.operation_runs),
        };
        let mut members = possible(&wanted, &facts)?;
        members.retain(|_, member| !member.nofailover);
        let members = members.into_iter().map(|(name, member)| (name, member.api_url.clone()));
        let members = members.collect();
        let answers = match &shared.http {
            Some(http) => peers::ask(http, members).await,
            None => BTreeMap::new(),
        };
        if !answers.values().any(|answer| !answer.nofailover) {
            let action = wanted.verb.name();
            let text = format!("{action} is not possible: no good candidates have been found");
            return Err(said(StatusCode::PRECONDITION_FAILED, text));
        }
    } else {
        names_only(&wanted)?;
    }
    write(shared, wanted.record()).await?;
    tracing::info!(
        node = %shared.config.name, leader = wanted.leader, candidate = wanted.candidate,
        scheduled_at = wanted.scheduled, "{} was asked for by REST", wanted.verb.name()
    );
    if wanted.scheduled.is_some() {
        return Ok(said(StatusCode::ACCEPTED, format!("{} scheduled", wanted.verb.title())));
    }
    let before = site.leader.as_ref().map(|leader| leader.name.clone());
    let most = picture.dynamic.loop_wait.max(OUTCOME_LEAST) * 2;
    Ok(outcome(shared, &wanted, before.as_ref(), most).await)
}

/// A schedule is held against nothing before it is due; but what is no name can never be one.
fn names_only(wanted: &Wanted) -> Result<(), Said> {
    for (what, name) in [("leader", &wanted.leader), ("candidate", &wanted.candidate)] {
        if let Some(name) = name
            && name.parse::<NodeName>().is_err()
        {
            let shown: String = name.chars().take(60).collect();
            let text = format!("{what}: {shown:?} is not the name of a member");
            return Err(said(StatusCode::BAD_REQUEST, text));
        }
    }
    Ok(())
}

/// Item 7: over what is there, by its revision.
async fn write(shared: &Shared, record: Value) -> Result<(), Said> {
    let failed = |problem: String| {
        tracing::warn!(node = %shared.config.name, problem, "writing the failover key");
        Err(said(StatusCode::SERVICE_UNAVAILABLE, "failed to write failover key into DCS"))
    };
    let key = shared.site.keys.key(SiteKey::Failover);
    let store = &shared.site.store;
    let found = match store.get(&key, STORE).await {
        Ok(found) => found,
        Err(error) => return failed(error.to_string()),
    };
    let as_read = Compare::as_read(key.clone(), found.as_ref());
    let txn = Txn::new().when(as_read).then(Change::put(key, record.to_string()));
    match store.txn(txn, STORE).await {
        Ok(TxnOutcome::Applied { .. }) => Ok(()),
        Ok(TxnOutcome::Conflict { .. }) => failed("somebody else was faster".to_owned()),
        Err(error) => failed(error.to_string()),
    }
}

/// Item 8: until the leader has changed, or the request has ended, or it has been long enough.
async fn outcome(
    shared: &Shared,
    wanted: &Wanted,
    before: Option<&NodeName>,
    most: Duration,
) -> Said {
    let mut pictures = shared.pictures.clone();
    let looked = async {
        loop {
            if let Some(found) = look(shared, wanted, before).await {
                return found;
            }
            tokio::time::sleep(LOOKS_APART).await;
            // A picture that changes may be the news; one that does not changes nothing here.
            drop(tokio::time::timeout(LOOKS_AGAIN, pictures.changed()).await);
        }
    };
    let title = wanted.verb.title();
    tokio::time::timeout(most, looked).await.unwrap_or_else(|_| {
        said(StatusCode::SERVICE_UNAVAILABLE, format!("{title} status unknown"))
    })
}

/// The request first, then the leader: whoever takes the key ends the request only afterwards, so a
/// request that has ended under the leader of before has failed.
async fn look(shared: &Shared, wanted: &Wanted, before: Option<&NodeName>) -> Option<Said> {
    let store = &shared.site.store;
    let request = store.get(&shared.site.keys.key(SiteKey::Failover), STORE).await.ok()?;
    let leader = store.get(&shared.site.keys.key(SiteKey::Leader), STORE).await.ok()?;
    let leader: Option<NodeName> = leader
        .and_then(|entry| String::from_utf8(entry.value.to_vec()).ok())
        .and_then(|name| name.parse().ok());
    if let Some(leader) = leader
        && Some(&leader) != before
    {
        return Some(said(StatusCode::OK, changed(wanted, leader.as_str())));
    }
    request
        .is_none_or(|entry| is_idle(&entry))
        .then(|| said(StatusCode::SERVICE_UNAVAILABLE, format!("{} failed", wanted.verb.title())))
}

fn changed(wanted: &Wanted, leader: &str) -> String {
    match (wanted.verb, &wanted.candidate) {
        (Verb::Switchover, Some(candidate)) if candidate != leader => {
            format!("Switched over to \"{leader}\" instead of \"{candidate}\"")
        }
        (Verb::Failover, Some(candidate)) if candidate != leader => {
            format!("Failed over to \"{leader}\" instead of \"{candidate}\"")
        }
        (Verb::Switchover, _) => format!("Successfully switched over to \"{leader}\""),
        (Verb::Failover, _) => format!("Successfully failed over to \"{leader}\""),
    }
}

fn record(entry: &Entry) -> Map<String, Value> {
    serde_json::from_slice(&entry.value).unwrap_or_default()
}

fn is_idle(entry: &Entry) -> bool {
    let record = record(entry);
    ["leader", "member"].iter().all(|key| record.get(*key).is_none_or(Value::is_null))
}

/// `DELETE /switchover`.
pub(super) async fn delete(shared: &Shared) -> Response {
    let key = shared.site.keys.key(SiteKey::Failover);
    match shared.site.store.get(&key, STORE).await {
        Ok(found) => take_back(shared, found.as_ref()).await.answer(),
        Err(error) => unreachable(&error).answer(),
    }
}

fn unreachable(error: &StoreError) -> Said {
    said(StatusCode::SERVICE_UNAVAILABLE, format!("the site DCS: {error}"))
}

/// Takes a schedule back, where it is still the one that was read.
async fn take_back(shared: &Shared, found: Option<&Entry>) -> Said {
    let scheduled = found.filter(|entry| {
        record(entry).get("scheduled_at").is_some_and(|at| !at.is_null()) && !is_idle(entry)
    });
    let Some(entry) = scheduled else {
        return said(StatusCode::NOT_FOUND, "no switchover is scheduled");
    };
    let as_read = Compare::as_read(entry.key.clone(), Some(entry));
    let txn = Txn::new().when(as_read).then(Change::put(entry.key.clone(), "{}"));
    match shared.site.store.txn(txn, STORE).await {
        Ok(TxnOutcome::Applied { .. }) => said(StatusCode::OK, "scheduled switchover deleted"),
        Ok(TxnOutcome::Conflict { .. }) => {
            said(StatusCode::CONFLICT, "the request was changed by somebody else meanwhile")
        }
        Err(error) => unreachable(&error),
    }
}

#[cfg(test)]
mod tests;
