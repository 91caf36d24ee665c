//! What a leader without its store asks of this node, through the same functions as over the wire:
//! nothing is answered with yes before it binds (protocol.md rule 11), and each refusal alone
//! refuses.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::ConnectInfo;
use regent_dcs::clock::BootClock;
use regent_dcs::memory::{Call, Fault, MemoryStore};
use regent_dcs::{Change, Revision, Store as _, Txn};
use regent_guardian::page::Page;
use regent_proto::keys::SiteKeys;
use regent_proto::name::NodeName;
use regent_proto::record::{Promise, Record as _};
use regent_proto::time::{Deadline, WallTime};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::tls::Peer;
use super::*;
use crate::act::failsafe::members::SPAN_HEADER;
use crate::act::failsafe::word::Word;
use crate::act::failsafe::{Shared as Failsafe, SharedGiven};
use crate::decide::failsafe::quorum::Refusal;
use crate::decide::tests::world::{World, name};
use crate::fence::rounds::SharedLeader;

const CALL: Duration = Duration::from_secs(5);

/// Node `a1` and its site's store.
pub(super) struct Asked {
    pub(super) store: MemoryStore,
    pub(super) shared: Shared,
    pictures: watch::Sender<Option<Arc<Picture>>>,
    picture: Picture,
    dir: tempfile::TempDir,
}

fn config(extra: &str) -> Config {
    let text = format!(
        "
scope: a
name: a1
restapi: {{listen: '127.0.0.1:8008'{extra}}}
sqlite: {{path: /tmp/a.db}}
regent: {{run_dir: /tmp/run, stop_budget: 1500ms}}
bootstrap: {{dcs: {{ttl: 5, loop_wait: 1, retry_timeout: 1, failsafe_mode: true}}}}
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

impl Asked {
    /// `a1` runs in recovery; site `b` is the primary site.
    pub(super) fn new(extra: &str) -> Self {
        let mut world = World::new();
        world.standby(3, 500);
        world.held_by_b();
        world.view.now = boot_time();
        let config = Arc::new(config(extra));
        let store = MemoryStore::new(BootClock::kernel().expect("a boot id"));
        let picture = Picture {
            at: WallTime(0),
            view: world.view,
            extra: crate::observe::postgres::Extra::default(),
            dynamic: config.first_dynamic(),
            lease: None,
            checkpointed_for: None,
            opened: None,
            reaches: Default::default(),
            warnings: Vec::new(),
            unreadable: Default::default(),
            reason: String::new(),
            attention: Vec::new(),
            progress: None,
            suspended: false,
            writing: Deadline::NEVER,
            round_trips: RoundTrips::default(),
            dcs_seen: WallTime(0),
            scheduled_restart: None,
            withdraws: false,
            refuses: false,
            fences: Default::default(),
            restarts: Default::default(),
            config: crate::observe::site::ConfigKey::Read,
            slots: Default::default(),
        };
        let (pictures, receiver) = watch::channel(Some(Arc::new(picture.clone())));
        let dir = tempfile::tempdir().expect("a directory");
        let word = Word::open(dir.path().join("word"), boot_time()).expect("nothing there");
        // As `main` does: without a provider no client can be built. Another test may have been
        // faster.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let shared = Shared {
            site: SiteStore {
                store: Arc::new(store.process("agent")),
                keys: SiteKeys::new("/service", &name("a")),
                me: name("a1"),
            },
            pictures: receiver,
            deadlines: Arc::new(Deadlines::new(Page::create().expect("a page"), true)),
            failsafe: Failsafe {
                leader: SharedLeader::default(),
                word: Arc::new(word),
                given: SharedGiven::default(),
            },
            http: Some(http),
            config,
            requests: mpsc::channel(requests::MOST).0,
        };
        Self { store, shared, pictures, picture, dir }
    }

    pub(super) fn see(&mut self, change: impl FnOnce(&mut Picture)) {
        change(&mut self.picture);
        self.pictures.send_replace(Some(Arc::new(self.picture.clone())));
    }

    async fn post(&self, header: Option<&str>, body: Value) -> Response {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(header::AUTHORIZATION, header.parse().expect("a header"));
        }
        let uri = "/failsafe".parse().expect("a path");
        let body = Bytes::from(body.to_string());
        let query = Query(Parameters::new());
        answer(State(self.shared.clone()), Method::POST, uri, query, headers, body).await
    }

    /// `a1` leads its site and asks nobody.
    async fn lead(&mut self) -> Revision {
        let key = self.shared.site.keys.key(SiteKey::Leader);
        let put = Txn::new().then(Change::put(key, "a1"));
        let revision = self.store.txn(put, CALL).await.expect("well").applied().expect("done");
        self.see(|picture| {
            let leader = picture.view.site.as_mut().and_then(|site| site.leader.as_mut());
            leader.expect("these worlds have one").revision = revision.0;
        });
        self.shared.deadlines.page().set_site_deadline(Deadline::at(boot_time().plus(CALL)));
        revision
    }

    async fn promise(&self) -> (StatusCode, Value) {
        let body = json!({
            "site": "b", "node": "b1", "tenure": "t7", "epoch": 3, "span_ms": 15_000,
        });
        let peer = ConnectInfo(Peer::Unproven);
        let body = Bytes::from(body.to_string());
        let answer = promise::answer(State(self.shared.clone()), peer, body).await;
        let code = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 4096).await.expect("short");
        (code, serde_json::from_slice(&body).expect("JSON"))
    }

    async fn written(&self) -> Option<Promise> {
        let key = self.shared.site.keys.key(SiteKey::Promise);
        let entry = self.store.get(&key, CALL).await.expect("well")?;
        Some(Promise::decode(&key, &entry.value).expect("readable"))
    }

    fn stands(&self) -> bool {
        self.shared.failsafe.given.lock().standing(boot_time()).is_some()
    }
}

fn asks(name: &str) -> Value {
    json!({"name": name, "conn_url": "", "api_url": "", "slots": {"a2": 1}})
}

#[tokio::test]
async fn a_member_answers_once_its_word_binds_also_its_next_life() {
    let asked = Asked::new("");
    let answer = asked.post(None, asks("a2")).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["lsn"], "500");
    assert_eq!(answer.headers()[SPAN_HEADER], "5000");
    let body = axum::body::to_bytes(answer.into_body(), 64).await.expect("short");
    assert_eq!(&body[..], b"Accepted");
    let promised = asked.shared.failsafe.word.enter(boot_time()).expect_err("promised");
    assert_eq!(promised.leader, name::<NodeName>("a2"));
    let again = Word::open(asked.dir.path().join("word"), boot_time()).expect("readable");
    assert!(again.enter(boot_time()).is_err());
}

#[tokio::test]
async fn each_thing_alone_makes_a_member_refuse() {
    type Bend = fn(&mut Picture);
    let nothing: Bend = |_| {};
    let users = ", authentication: {username: ann, password: pw}";
    let cases: [(&str, &str, Value, Bend, u16); 9] = [
        ("", "access", asks("a2"), nothing, 200),
        (users, "no password", asks("a2"), nothing, 401),
        (", allowlist: [10.0.0.1]", "not on the list", asks("a2"), nothing, 403),
        ("", "no name", json!({"conn_url": ""}), nothing, 400),
        ("", "off", asks("a2"), |p| p.dynamic.failsafe_mode = false, 502),
        ("", "no picture of the site", asks("a2"), |p| p.view.site = None, 502),
        ("", "its own name", asks("a1"), nothing, 500),
        (
            "",
            "it writes",
            asks("a2"),
            |p| {
                p.view.postgres.status.as_mut().expect("runs").in_recovery = false;
            },
            500,
        ),
        (
            "",
            "it starts to write",
            asks("a2"),
            |p| {
                p.view.postgres.status = None;
                p.view.postgres.standby_signal = false;
            },
            500,
        ),
    ];
    for (extra, what, body, bend, wanted) in cases {
        let mut asked = Asked::new(extra);
        asked.see(bend);
        assert_eq!(asked.post(None, body).await.status().as_u16(), wanted, "{what}");
        let promised = asked.shared.failsafe.word.standing(boot_time()).is_some();
        assert_eq!(promised, wanted == 200, "{what}");
    }
    let entered = Asked::new("");
    entered.shared.failsafe.word.enter(boot_time()).expect("nothing promised");
    assert_eq!(entered.post(None, asks("a2")).await.status().as_u16(), 500, "it takes the key");
    let mut mute = Asked::new("");
    let nowhere = Word::open(PathBuf::from("/nonexistent/word"), boot_time()).expect("absent");
    mute.shared.failsafe.word = Arc::new(nowhere);
    assert_eq!(mute.post(None, asks("a2")).await.status().as_u16(), 500, "not on disk");
    let users = Asked::new(users);
    let answer = users.post(Some("Basic YW5uOnB3"), asks("a2")).await;
    assert_eq!(answer.status(), StatusCode::OK, "with the password");
}

#[tokio::test]
async fn a_promise_is_counted_then_written_then_answered() {
    let mut asked = Asked::new("");
    asked.lead().await;
    let (code, body) = asked.promise().await;
    assert_eq!((code, &body["site"]), (StatusCode::OK, &json!("a")), "{body}");
    assert_eq!(body["span_ms"], 15_000);
    let written = asked.written().await.expect("written");
    assert_eq!((written.tenure, written.epoch.get()), (name("t7"), 3));
    assert!(asked.stands());
}

#[tokio::test]
async fn what_was_not_written_is_not_answered_and_binds() {
    for fault in [Fault::NotDone, Fault::Refused, Fault::UnknownNotApplied, Fault::UnknownApplied] {
        let mut asked = Asked::new("");
        asked.lead().await;
        let bound = Arc::new(Mutex::new(Vec::new()));
        let (given, seen) = (asked.shared.failsafe.given.clone(), Arc::clone(&bound));
        let store = asked.store.process("agent");
        store.faults().otherwise(move |call| {
            let stands = given.lock().standing(boot_time()).is_some();
            seen.lock().expect("no panic").push((call, stands));
            Some(fault.clone())
        });
        asked.shared.site.store = Arc::new(store);
        let (code, body) = asked.promise().await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        assert!(asked.stands(), "it may have been written");
        assert_eq!(*bound.lock().expect("no panic"), [(Call::Txn, true)], "counted before");
    }
}

#[tokio::test]
async fn only_the_leader_of_this_moment_promises() {
    let mut asked = Asked::new("");
    asked.lead().await;
    let key = asked.shared.site.keys.key(SiteKey::Leader);
    let put = Txn::new().then(Change::put(key, "a2"));
    asked.store.txn(put, CALL).await.expect("well");
    let (code, body) = asked.promise().await;
    assert_eq!(
        (code, &body["refused"]),
        (StatusCode::CONFLICT, &json!(Refusal::NotLeader.to_string()))
    );
    assert!(asked.written().await.is_none());

    let mut late = Asked::new("");
    late.lead().await;
    late.shared.deadlines.page().set_site_deadline(Deadline::at(boot_time()));
    assert_eq!(late.promise().await.0, StatusCode::CONFLICT, "its deadline is past");
    assert!(!late.stands() && late.written().await.is_none());

    let mut taking = Asked::new("");
    taking.lead().await;
    let federation = taking.picture.view.federation.as_ref().expect("one");
    let primary = federation.primary.as_ref().expect("one").value.clone();
    let begun = taking.shared.failsafe.given.lock().begin_take(70, boot_time(), None, &primary);
    assert_eq!(begun, Ok(()));
    let (code, body) = taking.promise().await;
    let why = Refusal::UnresolvedTake.to_string();
    assert_eq!((code, &body["refused"]), (StatusCode::CONFLICT, &json!(why)));
    assert!(taking.written().await.is_none());
}

/// Spec 2.6: whoever may not ask for anything is told so first, and other verbs are nobody's.
#[tokio::test]
async fn what_people_ask_for_needs_the_right_to_ask() {
    let ask = async |asked: &Asked, method: Method, path: &str, header: Option<&str>| {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(header::AUTHORIZATION, header.parse().expect("a header"));
        }
        let (state, query) = (State(asked.shared.clone()), Query(Parameters::new()));
        let uri = path.parse().expect("a path");
        answer(state, method, uri, query, headers, Bytes::new()).await.status().as_u16()
    };
    let open = Asked::new("");
    let users = Asked::new(", authentication: {username: ann, password: pw}");
    let closed = Asked::new(", allowlist: ['10.0.0.1']");
    for (method, path) in
        [(Method::POST, "/restart"), (Method::DELETE, "/restart"), (Method::POST, "/reinitialize")]
    {
        let known = Some("Basic YW5uOnB3");
        assert_eq!(ask(&users, method.clone(), path, None).await, 401, "{method} {path}");
        assert_eq!(ask(&closed, method.clone(), path, known).await, 403, "{method} {path}");
        // Allowed, and then the loop of this test is not there.
        assert_eq!(ask(&users, method.clone(), path, known).await, 503, "{method} {path}");
        assert_eq!(ask(&open, method.clone(), path, None).await, 503, "{method} {path}");
    }
    assert_eq!(ask(&users, Method::POST, "/reload", None).await, 401);
    for (method, path) in [
        (Method::POST, "/config"),
        (Method::DELETE, "/config"),
        (Method::DELETE, "/reinitialize"),
        (Method::DELETE, "/reload"),
        (Method::POST, "/nothing"),
    ] {
        assert_eq!(ask(&open, method.clone(), path, None).await, 501, "{method} {path}");
    }
}

/// Regent's and Patroni's members understand it, and none of them waits for this one to lead.
#[tokio::test]
async fn who_would_not_lead_says_so_among_its_tags() {
    let mut asked = Asked::new("");
    for refuses in [false, true, false] {
        asked.see(|picture| picture.refuses = refuses);
        let told = [
            body::patroni(&asked.shared.config, &asked.picture),
            crate::act::publish::member(&asked.shared.config, &asked.picture),
        ];
        for told in told {
            assert_eq!(told["tags"]["nofailover"] == json!(true), refuses, "{told}");
        }
    }
}
