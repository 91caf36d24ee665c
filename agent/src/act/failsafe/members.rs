//! Asking the members of the site: `POST /failsafe`, Patroni's wire.
//!
//! All at once, each for as long as the round lasts; the span of a round comes from the deadline,
//! not from a constant (hazards.md row 14).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use regent_proto::name::NodeName;
use serde_json::json;

use crate::config::{Config, User};
use crate::decide::failsafe::site::{Answer, Members};
use crate::fence::rounds::AskMembers;

/// How long the asked member keeps its word, in milliseconds. Ours, beside Patroni's `lsn`.
pub const SPAN_HEADER: &str = "regent-span-ms";

/// Asks with this client, in this node's name.
#[must_use]
pub fn asker(config: &Config, client: reqwest::Client) -> AskMembers {
    let (host, port) = config.postgres.connect_host_port();
    let body = json!({
        "name": config.name.as_str(),
        "conn_url": format!("postgres://{host}:{port}/postgres"),
        "api_url": super::record::own_url(config),
    });
    let how = How { client, user: config.rest.authentication.clone(), body: body.to_string() };
    Arc::new(move |members, bound| ask(how.clone(), members, bound).boxed())
}

/// What is sent, and as whom: the members share `restapi.authentication`, as in Patroni.
#[derive(Clone)]
struct How {
    client: reqwest::Client,
    user: Option<User>,
    body: String,
}

async fn ask(how: How, members: Members, bound: Duration) -> BTreeMap<NodeName, Answer> {
    let questions = members.into_iter().map(|(name, url)| {
        let how = how.clone();
        async move {
            let answer = match tokio::time::timeout(bound, one(how, &url)).await {
                Ok(answer) => answer,
                Err(_elapsed) => Answer::Silent(format!("nothing within {bound:?}")),
            };
            (name, answer)
        }
    });
    futures::future::join_all(questions).await.into_iter().collect()
}

async fn one(how: How, api_url: &str) -> Answer {
    let Ok(mut url) = reqwest::Url::parse(api_url) else {
        return Answer::Silent(format!("its address {api_url:?} is not a URL"));
    };
    url.set_path("/failsafe");
    let mut request =
        how.client.post(url).header("content-type", "application/json").body(how.body);
    if let Some(user) = how.user {
        request = request.basic_auth(user.username, Some(user.password.reveal()));
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Answer::Silent(error.to_string()),
    };
    let span = response.headers().get(SPAN_HEADER).cloned();
    let status = response.status();
    let text = match response.text().await {
        Ok(text) => text,
        Err(error) => return Answer::Silent(error.to_string()),
    };
    // Patroni's rule: nothing but this very word.
    if status != reqwest::StatusCode::OK || text.trim() != "Accepted" {
        let text: String = text.chars().take(80).collect();
        return Answer::Refused(format!("{status} {text:?}"));
    }
    match span.map(|span| span.to_str().ok().and_then(|text| text.parse().ok())) {
        None => Answer::Accepted { span: None },
        Some(Some(millis)) => Answer::Accepted { span: Some(Duration::from_millis(millis)) },
        Some(None) => Answer::Silent(format!("its {SPAN_HEADER} cannot be read")),
    }
}
