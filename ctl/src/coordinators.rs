//! Talking to the coordinators: any of them will do, tried in order, every call with a time limit.
//!
//! Reads go on to the next coordinator when one does not answer. Writes go to the first one that
//! can be reached and are not repeated: after a lost answer the person must look first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use regent_proto::wire::{self, regent_client::RegentClient};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};

use crate::cli::Global;
use crate::exit::{Exit, Failure};
use crate::lab::{self, Layout};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// Longest wait for an answer. Above the coordinators' own limit for the quorum, so that theirs,
/// which says more, comes first.
const ANSWER: Duration = Duration::from_secs(10);

/// A connection to one coordinator.
pub type Client = RegentClient<Channel>;

/// The coordinators of one federation.
#[derive(Debug, Clone)]
pub struct Coordinators {
    endpoints: Vec<String>,
    federation: String,
}

impl Coordinators {
    /// These coordinators; an empty federation name means the only one they serve.
    #[must_use]
    pub fn new(endpoints: Vec<String>, federation: String) -> Self {
        Self { endpoints, federation }
    }

    /// Those that the options name, or those of the lab on this machine.
    pub fn from_options(global: &Global) -> Result<Self, Failure> {
        let federation = global.federation.clone().unwrap_or_default();
        if !global.endpoint.is_empty() {
            for endpoint in &global.endpoint {
                check_endpoint(endpoint)?;
            }
            return Ok(Self::new(global.endpoint.clone(), federation));
        }
        let dir = match &global.lab {
            Some(dir) => dir.clone(),
            None => only_lab(&lab::running())?,
        };
        let layout = Layout::read(&dir)?;
        let own = layout.federation.to_string();
        let federation = if federation.is_empty() { own } else { federation };
        Ok(Self::new(layout.endpoints(), federation))
    }

    /// The federation asked for; may be empty.
    #[must_use]
    pub fn name(&self) -> String {
        self.federation.clone()
    }

    /// The first coordinator that can be reached.
    pub async fn connect(&self) -> Result<Client, Failure> {
        let mut problems = Vec::new();
        for endpoint in &self.endpoints {
            match connect(endpoint).await {
                Ok(client) => return Ok(client),
                Err(problem) => problems.push(format!("{endpoint}: {problem}")),
            }
        }
        Err(unreachable(&problems))
    }

    /// A read: the next coordinator is asked when one does not answer.
    pub async fn read<T, F>(&self, what: &str, call: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut problems = Vec::new();
        let mut last = None;
        for endpoint in &self.endpoints {
            let client = match connect(endpoint).await {
                Ok(client) => client,
                Err(problem) => {
                    problems.push(format!("{endpoint}: {problem}"));
                    continue;
                }
            };
            match limited(call(client)).await {
                Ok(answer) => return Ok(answer),
                Err(status) if may_ask_another(status.code()) => {
                    problems.push(format!("{endpoint}: {}", status.message()));
                    last = Some(status);
                }
                Err(status) => return Err(refused(what, &status)),
            }
        }
        match last {
            Some(status) if problems.len() == 1 => Err(refused(what, &status)),
            Some(_) | None => Err(unreachable(&problems)),
        }
    }

    /// A write: sent once, to the first coordinator that can be reached.
    pub async fn write<T, F>(&self, what: &str, call: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let client = self.connect().await?;
        limited(call(client)).await.map_err(|status| refused(what, &status))
    }

    /// A stream that the first reachable coordinator gives.
    pub async fn stream<T, F>(
        &self,
        what: &str,
        call: impl Fn(Client) -> F,
    ) -> Result<Streaming<T>, Failure>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        self.read(what, call).await
    }

    /// One picture of the federation.
    pub async fn federation(&self) -> Result<wire::Federation, Failure> {
        let request = wire::GetFederationRequest { federation: self.name() };
        self.read("read the federation", |mut client: Client| {
            let request = request.clone();
            async move { client.get_federation(request).await }
        })
        .await
    }

    /// One operation.
    pub async fn operation(&self, id: &str) -> Result<wire::Operation, Failure> {
        let request = wire::GetOperationRequest { federation: self.name(), id: id.to_owned() };
        self.read("read the operation", |mut client: Client| {
            let request = request.clone();
            async move { client.get_operation(request).await }
        })
        .await
    }

    /// The last operations, newest first.
    pub async fn operations(&self, limit: u32) -> Result<Vec<wire::Operation>, Failure> {
        let request = wire::ListOperationsRequest { federation: self.name(), limit };
        let answer = self
            .read("list operations", |mut client: Client| {
                let request = request.clone();
                async move { client.list_operations(request).await }
            })
            .await?;
        Ok(answer.operations)
    }
}

async fn connect(endpoint: &str) -> Result<Client, String> {
    let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|e| e.to_string())?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true);
    match tokio::time::timeout(CONNECT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(RegentClient::new(channel)),
        Ok(Err(e)) => Err(innermost(&e)),
        Err(_) => Err(format!("no connection within {CONNECT:?}")),
    }
}

/// The cause at the bottom: tonic's own text says only "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

async fn limited<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {ANSWER:?}"))),
    }
}

fn may_ask_another(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

/// A failure for a coordinator's answer.
#[must_use]
pub fn refused(what: &str, status: &Status) -> Failure {
    let message = format!("{what}: {}", status.message());
    match status.code() {
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::AlreadyExists => {
            Failure::new(Exit::Refused, message)
        }
        Code::Aborted => {
            Failure::new(Exit::Refused, message).next("the same command again: it plans anew")
        }
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::DataLoss => Failure::new(Exit::Unknown, message).next("regentctl status"),
        Code::Ok
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unauthenticated => Failure::error(message),
    }
}

fn unreachable(problems: &[String]) -> Failure {
    Failure::new(Exit::Unknown, format!("no coordinator answers: {}", problems.join("; ")))
        .next("regentctl --endpoint HOST:PORT[,..] with the addresses of this federation")
}

fn check_endpoint(endpoint: &str) -> Result<(), Failure> {
    let valid = endpoint
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0));
    if valid {
        Ok(())
    } else {
        Err(Failure::usage(format!("endpoint {endpoint:?} is not valid: want host:port")))
    }
}

fn only_lab(running: &[PathBuf]) -> Result<PathBuf, Failure> {
    match running {
        [one] => Ok(one.clone()),
        [] => Err(Failure::usage(
            "which coordinators? No --endpoint, no REGENT_ENDPOINTS, and no lab on this machine",
        )
        .next("regentctl --endpoint HOST:PORT, or regentctl lab up TOPOLOGY.yaml")),
        several => {
            let list: Vec<String> = several.iter().map(|d| show(d)).collect();
            Err(Failure::usage(format!("which lab? There are {}", list.join(", ")))
                .next(format!("regentctl --lab {} …", show(&several[0]))))
        }
    }
}

fn show(dir: &Path) -> String {
    dir.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_its_exit_code() {
        let exit = |code| refused("do it", &Status::new(code, "why")).exit;
        assert_eq!(exit(Code::FailedPrecondition), Exit::Refused);
        assert_eq!(exit(Code::InvalidArgument), Exit::Refused);
        assert_eq!(exit(Code::NotFound), Exit::Refused);
        assert_eq!(exit(Code::Aborted), Exit::Refused);
        assert_eq!(exit(Code::Unavailable), Exit::Unknown);
        assert_eq!(exit(Code::Unknown), Exit::Unknown);
        assert_eq!(exit(Code::Internal), Exit::Failed);
    }

    #[test]
    fn an_endpoint_needs_host_and_port() {
        for bad in ["", "host", "host:", ":7000", "host:x", "host:0", "host:70000"] {
            assert!(check_endpoint(bad).is_err(), "{bad}");
        }
        assert!(check_endpoint("127.0.0.1:7000").is_ok());
    }

    #[test]
    fn without_an_endpoint_the_only_lab_is_asked() {
        let dirs = [PathBuf::from("/tmp/a"), PathBuf::from("/tmp/b")];
        assert_eq!(only_lab(&dirs[..1]), Ok(dirs[0].clone()));
        assert_eq!(only_lab(&[]).expect_err("none").exit, Exit::Usage);
        assert!(only_lab(&dirs).expect_err("two").message.contains("/tmp/a, /tmp/b"));
    }
}
