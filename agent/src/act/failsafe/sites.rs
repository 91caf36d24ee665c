//! Asking the other sites: `POST /regent/promise`, by mutual TLS with the sites' names in the
//! certificates where it is configured.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use regent_proto::name::SiteName;
use serde::{Deserialize, Serialize};

use crate::config::promise::PromiseConfig;
use crate::fence::rounds::AskSites;
use regent_proto::promise::PromiseRequest;

/// The path.
pub const PATH: &str = "/regent/promise";

/// Between two questions to a site that did not promise.
const AGAIN: Duration = Duration::from_millis(500);

/// A promise, as answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// Who promises.
    pub site: SiteName,
    /// For how long, from before the answer was sent.
    pub span_ms: u64,
}

/// Asks as this configuration says.
pub fn asker(config: &PromiseConfig) -> anyhow::Result<AskSites> {
    let how = match &config.tls {
        Some(tls) => How::Tls(Arc::new(crate::api::tls::client_config(tls)?)),
        None => {
            let none = reqwest::redirect::Policy::none();
            How::Plain(reqwest::Client::builder().no_proxy().redirect(none).build()?)
        }
    };
    Ok(Arc::new(move |request, urls, bound| ask(how.clone(), request, urls, bound).boxed()))
}

#[derive(Clone)]
enum How {
    Plain(reqwest::Client),
    Tls(Arc<rustls::ClientConfig>),
}

async fn ask(
    how: How,
    request: PromiseRequest,
    urls: BTreeMap<SiteName, BTreeSet<String>>,
    bound: Duration,
) -> BTreeMap<SiteName, Option<Duration>> {
    let questions = urls.into_iter().map(|(site, urls)| {
        let (how, request) = (how.clone(), request.clone());
        async move {
            let promised = until_promised(&how, &site, &urls, &request);
            let span = tokio::time::timeout(bound, promised).await.ok();
            (site, span)
        }
    });
    futures::future::join_all(questions).await.into_iter().collect()
}

/// A site whose leader has just failed promises once it has the next one: it is asked again while
/// there is time, so that a failover there does not cost the primary site its lease here.
async fn until_promised(
    how: &How,
    site: &SiteName,
    urls: &BTreeSet<String>,
    request: &PromiseRequest,
) -> Duration {
    loop {
        // Only the leader of a site promises for it; its other nodes say no.
        let asked = urls.iter().map(|url| one(how, site, url, request));
        match first_yes(asked.collect()).await {
            Some(span) => return span,
            None => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// The first promise among these; `None` when all have ended without one.
async fn first_yes<F: Future<Output = Option<Duration>>>(
    mut asked: futures::stream::FuturesUnordered<F>,
) -> Option<Duration> {
    use futures::StreamExt as _;
    while let Some(answer) = asked.next().await {
        if answer.is_some() {
            return answer;
        }
    }
    None
}

async fn one(how: &How, site: &SiteName, url: &str, request: &PromiseRequest) -> Option<Duration> {
    match promise(how, site, url, request).await {
        Ok(span) => Some(span),
        Err(problem) => {
            tracing::debug!(%site, url, problem, "no promise");
            None
        }
    }
}

async fn promise(
    how: &How,
    site: &SiteName,
    url: &str,
    request: &PromiseRequest,
) -> Result<Duration, String> {
    let place = reqwest::Url::parse(url).map_err(|e| e.to_string())?;
    let host = place.host_str().ok_or("the address has no host")?.to_owned();
    let port = place.port_or_known_default().ok_or("the address has no port")?;
    let (client, url) = match (place.scheme(), how) {
        ("https", How::Tls(tls)) => {
            // The certificate carries the site's name, so that is the name asked for; where it is
            // reached comes from its report.
            let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
            let found: Vec<_> = found.map_err(|e| e.to_string())?.collect();
            let client = reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .tls_backend_preconfigured(rustls::ClientConfig::clone(tls))
                .resolve_to_addrs(site.as_str(), &found)
                .build()
                .map_err(|e| e.to_string())?;
            (client, format!("https://{site}:{port}{PATH}"))
        }
        ("http", How::Plain(client)) => (client.clone(), format!("http://{host}:{port}{PATH}")),
        ("https", How::Plain(_)) => {
            return Err("it wants TLS, which is not configured here".to_owned());
        }
        (_, How::Tls(_)) => return Err("it has no TLS, which is wanted here".to_owned()),
        (scheme, How::Plain(_)) => return Err(format!("scheme {scheme}")),
    };
    let response = client.post(url).json(request).send().await.map_err(|e| format!("{e:?}"))?;
    let status = response.status();
    let body = response.bytes().await.map_err(|e| e.to_string())?;
    if status != reqwest::StatusCode::OK {
        let text: String = String::from_utf8_lossy(&body).chars().take(160).collect();
        return Err(format!("{status} {text}"));
    }
    let promised: Promised = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    if promised.site != *site {
        return Err(format!("site {} answered", promised.site));
    }
    Ok(Duration::from_millis(promised.span_ms))
}
