//! Mutual TLS between sites: who is answered, who is believed, and who is not asked further.
//!
//! The certificates in `tls/` are for these tests alone; the authorities' keys were thrown away.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use regent_agent::act::failsafe::sites::{PATH, Promised, asker};
use regent_agent::api::tls::{Peer, TlsListener, server_config};
use regent_agent::config::promise::{PromiseConfig, PromiseTls};
use regent_proto::epoch::Epoch;
use regent_proto::name::SiteName;
use regent_proto::promise::PromiseRequest;

const SPAN: Duration = Duration::from_secs(15);
/// How long is asked; enough for a site that does not promise to be asked several times.
const BOUND: Duration = Duration::from_millis(2_500);

fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("names in tests are well formed")
}

fn tls(certificate: &str, authority: &str) -> PromiseTls {
    let dir = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls"));
    PromiseTls {
        certfile: dir.join(format!("{certificate}.pem")),
        keyfile: dir.join(format!("{certificate}.key")),
        cafile: dir.join(format!("{authority}.pem")),
    }
}

async fn answer(ConnectInfo(peer): ConnectInfo<Peer>, body: axum::body::Bytes) -> Response {
    let request: PromiseRequest = serde_json::from_slice(&body).expect("a request");
    if !peer.speaks_for(&request.site) {
        return StatusCode::FORBIDDEN.into_response();
    }
    axum::Json(Promised { site: name("us"), span_ms: request.span_ms }).into_response()
}

/// Site `us` answers; the port.
async fn us() -> u16 {
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = server_config(&tls("us", "ca"), &name("us")).expect("its certificate");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let listener = TlsListener::new(listener, config).expect("bound");
    let app = axum::Router::new().route(PATH, axum::routing::post(answer));
    let app = app.into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

/// What `site` answers at `url` to who asks in the name of `from`.
async fn ask(how: Option<PromiseTls>, from: &str, site: &str, url: String) -> Option<Duration> {
    let listen = "127.0.0.1:1".parse().expect("an address");
    let connect_address = "127.0.0.1:1".to_owned();
    let asker =
        asker(&PromiseConfig { listen, connect_address, tls: how }).expect("readable files");
    let request = PromiseRequest {
        site: name(from),
        node: name("eu-1"),
        tenure: name("t1"),
        epoch: Epoch::new(3),
        span_ms: 15_000,
    };
    let site: SiteName = name(site);
    let urls = BTreeMap::from([(site.clone(), BTreeSet::from([url]))]);
    asker(request, urls, BOUND).await.get(&site).copied().flatten()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_site_that_proves_its_name_is_answered_and_believed() {
    let port = us().await;
    let https = || format!("https://127.0.0.1:{port}{PATH}");
    assert_eq!(ask(Some(tls("eu", "ca")), "eu", "us", https()).await, Some(SPAN));
    let cases = [
        ("another's certificate", Some(tls("us", "ca")), "eu", "us", https()),
        ("a foreign authority's client", Some(tls("stranger", "ca")), "eu", "us", https()),
        ("a server of a foreign authority", Some(tls("eu", "foreign-ca")), "eu", "us", https()),
        ("a server with another site's name", Some(tls("eu", "ca")), "eu", "ap", https()),
        (
            "no TLS where it is wanted",
            Some(tls("eu", "ca")),
            "eu",
            "us",
            https().replace("https", "http"),
        ),
        ("TLS where none is configured", None, "eu", "us", https()),
    ];
    for (what, how, from, site, url) in cases {
        assert_eq!(ask(how, from, site, url).await, None, "{what}");
    }
}

/// A site in the middle of a failover has nobody who may promise, and then has.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_without_a_leader_is_asked_until_it_has_one() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let answer = move |body: axum::body::Bytes| {
        let nth = count.fetch_add(1, Ordering::SeqCst);
        async move {
            let request: PromiseRequest = serde_json::from_slice(&body).expect("a request");
            if nth < 2 {
                return StatusCode::SERVICE_UNAVAILABLE.into_response();
            }
            axum::Json(Promised { site: name("us"), span_ms: request.span_ms }).into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let app = axum::Router::new().route(PATH, axum::routing::post(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let url = format!("http://127.0.0.1:{port}{PATH}");
    assert_eq!(ask(None, "eu", "us", url).await, Some(SPAN));
    assert_eq!(asked.load(Ordering::SeqCst), 3, "twice in vain, and not again after the promise");
}

#[test]
fn a_certificate_without_the_sites_own_name_is_refused_at_start() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let error = server_config(&tls("us", "ca"), &name("eu")).expect_err("us is not eu");
    assert!(error.to_string().contains("DNS name eu"), "{error}");
}
