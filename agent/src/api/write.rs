//! What REST may change: the dynamic configuration (spec/patroni-compat.md 2.5), which is how
//! `patronictl pause`, `resume` and `edit-config` work.
//!
//! A document is taken whole or refused whole, before it is written: one that the agents would not
//! obey never stands in the DCS (I21). Written by compare-and-swap; access as in Patroni (2.6).

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use regent_dcs::{Change, Compare, Entry, Store, StoreError, Txn, TxnOutcome};
use serde_json::{Map, Value};

use crate::config::dynamic::Dynamic;
use crate::config::{Config, Listener, standby_cluster};

/// The longest that a request may take at the store.
const STORE: Duration = Duration::from_secs(5);

/// What whoever may not change anything is answered.
pub(super) fn refused(rest: &Listener, headers: &HeaderMap) -> Option<Response> {
    rest.closed.first().map(|restriction| closed(restriction)).or_else(|| denied(rest, headers))
}

/// What a leader that may not ask for this member's word is answered. Who is a member stands in the
/// DCS, which such a leader has lost, so that restriction is left out, as in Patroni.
pub(super) fn refused_leader(rest: &Listener, headers: &HeaderMap) -> Option<Response> {
    let members = "restapi.allowlist_include_members";
    let other = rest.closed.iter().find(|restriction| **restriction != members);
    other.map(|restriction| closed(restriction)).or_else(|| denied(rest, headers))
}

fn closed(restriction: &str) -> Response {
    let text = format!("{restriction} is not built yet, so nobody may change anything here");
    (StatusCode::FORBIDDEN, text).into_response()
}

fn denied(rest: &Listener, headers: &HeaderMap) -> Option<Response> {
    let user = rest.authentication.as_ref()?;
    let wanted = base64::engine::general_purpose::STANDARD.encode(format!(
        "{}:{}",
        user.username,
        user.password.reveal()
    ));
    let given = headers.get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
    let refuse = |text: &'static str| {
        let challenge = (header::WWW_AUTHENTICATE, "Basic realm=\"Patroni\"");
        Some((StatusCode::UNAUTHORIZED, [challenge], text).into_response())
    };
    match given.map(|given| given.strip_prefix(b"Basic ")) {
        None => refuse("no auth header received"),
        Some(Some(given)) if same(given, wanted.as_bytes()) => None,
        Some(_) => refuse("not authenticated"),
    }
}

/// Takes the same time wherever the first difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// How a document is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// PATCH: merged into what is there.
    Merge,
    /// PUT: in place of what is there.
    Replace,
}

/// Changes the `config` key; the answer is the new document.
pub(super) async fn config(
    (store, key): (&dyn Store, &str),
    config: &Config,
    in_force: &Dynamic,
    how: How,
    body: &[u8],
) -> Response {
    let given: Map<String, Value> = match serde_json::from_slice(body) {
        Ok(given) => given,
        Err(error) => {
            let text = format!("the body is not a JSON object: {error}");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let found = match store.get(key, STORE).await {
        Ok(found) => found,
        Err(error) => return unreachable_store(&error, how),
    };
    let current = found.as_ref().and_then(document);
    let next = match (how, current.clone()) {
        (How::Replace, _) => given,
        (How::Merge, Some(mut current)) => {
            merge(&mut current, given);
            current
        }
        (How::Merge, None) => {
            let text = "the DCS has no readable configuration; PUT a whole one";
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        }
    };
    let section = |of: &Map<String, Value>| {
        of.get(standby_cluster::KEY).filter(|value| !value.is_null()).cloned()
    };
    if config.federation.is_some() && section(&next) != current.as_ref().and_then(section) {
        let text = "standby_cluster: in a federation its records say whom a site follows; use \
                    `regentctl switchover`; nothing was changed";
        return (StatusCode::CONFLICT, text).into_response();
    }
    let unchanged = current.as_ref() == Some(&next);
    let next = Value::Object(next);
    if !unchanged {
        let before = current.map(|current| Dynamic::read(&Value::Object(current), in_force));
        if let Some(problem) = refusal(config, in_force, before.as_ref(), &next) {
            return (StatusCode::BAD_REQUEST, format!("{problem}; nothing was changed"))
                .into_response();
        }
        let txn = Txn::new()
            .when(Compare::as_read(key.to_owned(), found.as_ref()))
            .then(Change::put(key.to_owned(), next.to_string()));
        match store.txn(txn, STORE).await {
            Ok(TxnOutcome::Applied { .. }) => {
                tracing::info!(node = %config.name, "the dynamic configuration was changed by REST");
            }
            Ok(TxnOutcome::Conflict { .. }) => {
                let text = "the configuration was changed by somebody else meanwhile: try again";
                return (StatusCode::CONFLICT, text).into_response();
            }
            Err(error) => return unreachable_store(&error, how),
        }
    }
    super::json(StatusCode::OK, &next)
}

/// The document as it stands, for `GET /config`.
pub(super) async fn read(store: &dyn Store, key: &str) -> Response {
    match store.get(key, STORE).await {
        Ok(found) => match found.as_ref().and_then(document) {
            Some(document) => super::json(StatusCode::OK, &Value::Object(document)),
            None => StatusCode::BAD_GATEWAY.into_response(),
        },
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

/// The lines of `history`; none where there are none. `None` where the store does not answer.
pub(super) async fn stored_history(store: &dyn Store, key: &str) -> Option<Value> {
    let found = store.get(key, STORE).await.ok()?;
    let lines = found.and_then(|entry| serde_json::from_slice::<Vec<Value>>(&entry.value).ok());
    Some(Value::Array(lines.unwrap_or_default()))
}

fn document(entry: &Entry) -> Option<Map<String, Value>> {
    serde_json::from_slice(&entry.value).ok()
}

fn unreachable_store(error: &StoreError, how: How) -> Response {
    let code = match how {
        How::Merge => StatusCode::SERVICE_UNAVAILABLE,
        How::Replace => StatusCode::BAD_GATEWAY,
    };
    (code, format!("the site DCS: {error}")).into_response()
}

/// What the agents would not obey, where that was not so before.
fn refusal(
    config: &Config,
    in_force: &Dynamic,
    before: Option<&Dynamic>,
    next: &Value,
) -> Option<String> {
    let read = Dynamic::read(next, in_force);
    let old = before.map(|before| before.problems.as_slice()).unwrap_or_default();
    if let Some(problem) = read.problems.iter().find(|problem| !old.contains(problem)) {
        return Some(problem.clone());
    }
    let fitted = before.is_none_or(|before| config.check_timing(before).is_ok());
    config.check_timing(&read).err().filter(|_| fitted).map(|problem| problem.to_string())
}

/// Patroni's merge: `null` deletes, objects are merged, the rest is replaced.
fn merge(into: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match (value, into.get_mut(&key)) {
            (Value::Null, _) => drop(into.shift_remove(&key)),
            (Value::Object(patch), Some(Value::Object(old))) => merge(old, patch),
            (Value::Object(patch), _) => {
                let mut new = Map::new();
                merge(&mut new, patch);
                into.insert(key, Value::Object(new));
            }
            (value, _) => drop(into.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regent_dcs::clock::BootClock;
    use regent_dcs::memory::{Call, Fault, MemoryStore};
    use serde_json::json;

    const KEY: &str = "/service/eu/config";

    fn rest(extra: &str) -> Config {
        let text = format!(
            "
scope: eu
name: eu-1
restapi: {{listen: '127.0.0.1:8008'{extra}}}
sqlite: {{path: /tmp/eu.db}}
regent: {{run_dir: /tmp/run, stop_budget: 1500ms}}
bootstrap: {{dcs: {{ttl: 5, loop_wait: 1, retry_timeout: 1}}}}
postgresql:
  listen: 127.0.0.1:5501
  data_dir: /tmp/data
  authentication:
    superuser: {{username: postgres, password: s3cret}}
    replication: {{username: replicator, password: s3cret}}
"
        );
        Config::parse(std::path::Path::new("agent.yml"), &text).expect("good")
    }

    async fn stored(store: &MemoryStore) -> Value {
        let entry = store.get(KEY, STORE).await.expect("well").expect("there");
        serde_json::from_slice(&entry.value).expect("JSON")
    }

    #[tokio::test]
    async fn a_patch_pauses_and_resumes_and_keeps_every_other_key_in_its_place() {
        let store = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let first = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 1, "theirs": {"a": 1}});
        let put = Change::put(KEY, first.to_string());
        store.txn(Txn::new().then(put), STORE).await.expect("well");
        let agent = rest("");
        let in_force = agent.first_dynamic();
        let patch = |body: Value| {
            let (store, agent, in_force) = (store.clone(), agent.clone(), in_force.clone());
            async move {
                let body = body.to_string();
                config((&store, KEY), &agent, &in_force, How::Merge, body.as_bytes()).await.status()
            }
        };
        assert_eq!(patch(json!({"pause": true})).await, StatusCode::OK);
        assert_eq!(stored(&store).await["pause"], json!(true));
        assert!(Dynamic::read(&stored(&store).await, &in_force).pause);
        assert_eq!(patch(json!({"pause": null, "theirs": {"b": 2}})).await, StatusCode::OK);
        let mut wanted = first.clone();
        wanted["theirs"] = json!({"a": 1, "b": 2});
        assert_eq!(stored(&store).await.to_string(), wanted.to_string(), "in the same order");
        for refused in [
            json!({"ttl": "soon"}),
            json!({"ttl": 2}),
            json!({"pause": "perhaps"}),
            json!({"postgresql": {"parameters": 3}}),
        ] {
            assert_eq!(patch(refused.clone()).await, StatusCode::BAD_REQUEST, "{refused}");
        }
        for refused in [json!([]), json!("pause"), json!(null)] {
            assert_eq!(patch(refused.clone()).await, StatusCode::BAD_REQUEST, "{refused}");
        }
        assert_eq!(stored(&store).await, wanted, "and nothing was changed");
    }

    #[tokio::test]
    async fn a_site_of_a_federation_is_told_elsewhere_whom_it_follows() {
        let store = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let patch = |agent: Config, section: Value| {
            let store = store.clone();
            async move {
                let body = json!({"standby_cluster": section}).to_string();
                let in_force = agent.first_dynamic();
                config((&store, KEY), &agent, &in_force, How::Merge, body.as_bytes()).await
            }
        };
        let federated =
            rest("}\nfederation: {name: f, site: eu, quorum: {sqlite: {path: /tmp/q.db}}");
        let section = json!({"host": "us", "port": 5433});
        let timings = json!({"ttl": 5, "loop_wait": 1, "retry_timeout": 1});
        let put = Change::put(KEY, timings.to_string());
        store.txn(Txn::new().then(put), STORE).await.expect("well");
        let refused = patch(federated.clone(), section.clone()).await;
        assert_eq!(refused.status(), StatusCode::CONFLICT);
        assert_eq!(stored(&store).await, timings);
        assert_eq!(patch(rest(""), section.clone()).await.status(), StatusCode::OK);
        assert_eq!(stored(&store).await["standby_cluster"], section);
        // What stands there is output, and anything else may change beside it.
        assert_eq!(patch(federated.clone(), section.clone()).await.status(), StatusCode::OK);
        assert_eq!(patch(federated, json!(null)).await.status(), StatusCode::CONFLICT);
        assert_eq!(stored(&store).await["standby_cluster"], section);
    }

    #[tokio::test]
    async fn a_lost_race_a_lost_store_and_a_missing_document_are_told_apart() {
        let store = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let agent = rest("");
        let in_force = agent.first_dynamic();
        let ask = |how| config((&store, KEY), &agent, &in_force, how, br#"{"pause": true}"#);
        assert_eq!(ask(How::Merge).await.status(), StatusCode::SERVICE_UNAVAILABLE, "missing");
        assert_eq!(ask(How::Replace).await.status(), StatusCode::OK);
        store.faults().order(Some(Call::Get), Fault::NotDone);
        assert_eq!(ask(How::Merge).await.status(), StatusCode::SERVICE_UNAVAILABLE);
        store.faults().order(Some(Call::Get), Fault::NotDone);
        assert_eq!(ask(How::Replace).await.status(), StatusCode::BAD_GATEWAY);
    }

    #[test]
    fn whoever_must_not_change_anything_is_refused() {
        let with = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            }
            headers
        };
        let code = |config: &Config, header: Option<&str>| {
            refused(&config.rest, &with(header)).map_or(StatusCode::OK, |answer| answer.status())
        };
        assert_eq!(code(&rest(""), None), StatusCode::OK, "as in Patroni");
        let users = rest(", authentication: {username: ann, password: pw}");
        for (header, wanted) in [
            (None, StatusCode::UNAUTHORIZED),
            (Some("Basic YW5uOnB4"), StatusCode::UNAUTHORIZED),
            (Some("Bearer YW5uOnB3"), StatusCode::UNAUTHORIZED),
            (Some("Basic YW5uOnB3"), StatusCode::OK),
        ] {
            assert_eq!(code(&users, header), wanted, "{header:?}");
        }
        assert_eq!(code(&rest(", allowlist: [10.0.0.1]"), None), StatusCode::FORBIDDEN);
    }

    #[test]
    fn a_leader_that_must_not_ask_is_refused_and_need_not_be_known_as_a_member() {
        let code = |config: &Config, header: Option<&str>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = header {
                headers.insert(header::AUTHORIZATION, value.parse().expect("a header"));
            }
            let refused = refused_leader(&config.rest, &headers);
            refused.map_or(StatusCode::OK, |answer| answer.status())
        };
        let users = ", authentication: {username: ann, password: pw}";
        let members = ", allowlist_include_members: true";
        for (extra, header, wanted) in [
            (String::new(), None, StatusCode::OK),
            (users.to_owned(), None, StatusCode::UNAUTHORIZED),
            (users.to_owned(), Some("Basic YW5uOnB3"), StatusCode::OK),
            (members.to_owned(), None, StatusCode::OK),
            (format!("{members}{users}"), None, StatusCode::UNAUTHORIZED),
            (", allowlist: [10.0.0.1]".to_owned(), None, StatusCode::FORBIDDEN),
            (", verify_client: required".to_owned(), None, StatusCode::FORBIDDEN),
            (format!("{members}, verify_client: required"), None, StatusCode::FORBIDDEN),
        ] {
            assert_eq!(code(&rest(&extra), header), wanted, "{extra:?} {header:?}");
        }
        assert_eq!(
            refused(&rest(members).rest, &HeaderMap::new()).map(|answer| answer.status()),
            Some(StatusCode::FORBIDDEN),
            "but it is a restriction for whoever changes something"
        );
    }
}
