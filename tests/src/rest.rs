//! The agents' REST API as a load balancer or `patronictl` asks it: one request a connection, and
//! every answer stamped with the boot clock before its sending.

use std::time::Duration;

use anyhow::Context as _;
use regent_agent::observe::clock::boot_time;
use regent_proto::time::BootTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest wait for one answer.
const ANSWERS: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The clock before the request was sent.
    pub asked: BootTime,
    /// The status code.
    pub code: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON; null where it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// One request to a port of this machine.
///
/// # Errors
/// When nobody answers in time.
pub async fn ask(port: u16, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
    ask_within(ANSWERS, port, method, path, body).await
}

/// The same, for what takes its time.
///
/// # Errors
/// When nobody answers in time.
pub async fn ask_within(
    limit: Duration,
    port: u16,
    method: &str,
    path: &str,
    body: &str,
) -> anyhow::Result<Answer> {
    let asked = boot_time();
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    let text = tokio::time::timeout(limit, exchange)
        .await
        .with_context(|| format!("{method} {path} on port {port}: no answer in {limit:?}"))??;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.with_context(|| format!("{method} {path}: {head:?} is no HTTP answer"))?;
    Ok(Answer { asked, code, body: body.to_owned() })
}

/// `GET`, the code only; 0 where nobody answers.
pub async fn code(port: u16, path: &str) -> u16 {
    ask(port, "GET", path, "").await.map_or(0, |answer| answer.code)
}
