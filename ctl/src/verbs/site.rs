//! `regentctl status --agent HOST:PORT [--fence]`: asks one agent for its site, and then each for
//! its fence.

use std::time::Duration;

use regent_proto::record::ReportedFence;
use reqwest::{Client, Url};
use serde::de::DeserializeOwned;

use crate::exit::{Ending, Exit, Failure};
use crate::render::Output;
use crate::site::{Cluster, Told};

/// The longest wait for one agent; they answer from memory.
const BOUND: Duration = Duration::from_secs(2);
/// The longest answer: a site has few nodes.
const LONGEST: usize = 1 << 20;

/// Shows the site.
pub async fn run(agent: &str, fences: bool, output: &Output) -> Ending {
    let place = address(agent)?;
    let client = client()?;
    let cluster: Cluster = get(&client, &place, "/cluster").await.map_err(|problem| {
        Failure::error(problem).next("regentctl status --agent with another node's restapi address")
    })?;
    let each = cluster.members.iter().map(|member| async {
        let place = Url::parse(&member.api_url)
            .map_err(|error| format!("api_url {:?}: {error}", member.api_url))?;
        fence(get(&client, &place, "/regent/fence").await?)
    });
    let told = futures::future::join_all(each).await;
    let told = Told::new(cluster, told);
    output.json(&told.json());
    let (_, width) = output.size();
    output.lines(&told.screen(fences, width));
    Ok(Exit::Done)
}

/// For agents' REST API.
pub(crate) fn client() -> Result<Client, Failure> {
    // It wants one, though agents serve no TLS; the first one of the process stays.
    drop(rustls::crypto::ring::default_provider().install_default());
    let asked = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
    asked.map_err(|error| Failure::error(format!("an HTTP client: {error}")))
}

/// Patroni answers every path it does not know with its state, and so did older agents.
fn fence(answer: serde_json::Value) -> Result<ReportedFence, String> {
    if answer.get("deadline_left_ms").is_none() {
        return Err("Patroni, or an older regent-agent: it says nothing of a fence".to_owned());
    }
    serde_json::from_value(answer).map_err(|error| format!("what it says of its fence: {error}"))
}

/// `HOST:PORT`, with or without `http://`.
fn address(agent: &str) -> Result<Url, Failure> {
    let text = if agent.contains("://") { agent.to_owned() } else { format!("http://{agent}") };
    let wrong = |problem: String| {
        Failure::usage(format!(
            "--agent {agent:?}: {problem}; want an agent's restapi address, such as 10.0.0.1:8008"
        ))
    };
    let url = Url::parse(&text).map_err(|error| wrong(error.to_string()))?;
    match (url.scheme(), url.host_str(), url.port()) {
        ("http", Some(_), Some(_)) => Ok(url),
        ("http", Some(_), None) => Err(wrong("it names no port".to_owned())),
        (scheme, _, _) => Err(wrong(format!("agents serve http, not {scheme}"))),
    }
}

/// What an agent answers, or why it did not, with its address.
async fn get<T: DeserializeOwned>(client: &Client, place: &Url, path: &str) -> Result<T, String> {
    let mut url = place.clone();
    url.set_path(path);
    let said = |problem: String| format!("GET {url}: {problem}");
    let asked = async {
        let mut response = client.get(url.clone()).send().await.map_err(|e| reason(&e))?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("answered {status}; want 200 OK of a regent-agent"));
        }
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|e| reason(&e))? {
            body.extend_from_slice(&part);
            if body.len() > LONGEST {
                return Err(format!("answered more than {LONGEST} bytes"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer: {error}"))
    };
    match tokio::time::timeout(BOUND, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(problem)) => Err(said(problem)),
        Err(_) => Err(said(format!("no answer within {BOUND:?}"))),
    }
}

/// The innermost cause: the outer ones repeat the address.
pub(crate) fn reason(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patroni_is_not_taken_for_a_fence() {
        let patroni = serde_json::json!({"state": "running", "role": "primary"});
        assert!(fence(patroni).expect_err("no fence").contains("Patroni"));
        let ours = serde_json::to_value(ReportedFence::default()).expect("JSON");
        assert_eq!(fence(ours), Ok(ReportedFence::default()));
    }

    #[test]
    fn an_address_is_that_of_an_agent() {
        for good in ["10.0.0.1:8008", "http://h1:8008", "http://[::1]:8008/patroni"] {
            address(good).unwrap_or_else(|failure| panic!("{good}: {failure}"));
        }
        for (bad, problem) in [
            ("h1", "no port"),
            ("https://h1:8008", "not https"),
            ("", "empty host"),
            ("h1:eight", "invalid port"),
        ] {
            let failure = address(bad).expect_err(bad);
            assert!(failure.message.contains(problem), "{failure}");
        }
    }
}
