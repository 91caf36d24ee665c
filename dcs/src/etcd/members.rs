//! The members: which one is asked, for how long, and when the next one is.

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, Identity, KvClient, TlsOptions, WatchClient,
};
use regent_proto::time::BootTime;
use tokio::sync::OnceCell;

use super::classify::{Verdict, explain, verdict};
use super::{EtcdConfig, EtcdTls};
use crate::StoreError;
use crate::clock::BootClock;

/// A member that answered this recently is sent a call without asking first whether it is there.
/// Asking costs one exchange with one member; not asking costs, when it has frozen meanwhile, half
/// the timeout of a read and an unknown outcome of a transaction.
const FRESH: Duration = Duration::from_millis(500);
/// How long a member may take to say that it is there, when there are others. Twice as long in
/// every further round, for the case that all are slow.
const PROBE: Duration = Duration::from_millis(500);
/// Between two rounds through all members, when all fail at once (an election, say).
const PAUSE: Duration = Duration::from_millis(50);
/// The shortest time worth giving a member when others are left to be asked.
const SLICE_MIN: Duration = Duration::from_millis(50);
/// HTTP/2 pings only clear away dead connections; etcd closes those that ping more often than
/// every 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// gRPC's own limit of 4 MiB is four values of the largest size.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Whether a call changes anything: what its failure may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Some,
}

pub(super) struct Members {
    name: String,
    clock: BootClock,
    options: ConnectOptions,
    members: Vec<Member>,
    /// The one that is asked first.
    current: AtomicUsize,
}

struct Member {
    endpoint: String,
    client: OnceCell<Client>,
    /// When it last answered, on the boot clock.
    answered: AtomicU64,
}

/// How an attempt on one member failed.
struct Failure {
    verdict: Verdict,
    problem: String,
}

impl Members {
    pub(super) fn new(config: EtcdConfig) -> Result<Self, StoreError> {
        let name = format!("etcd {}", config.endpoints.join(","));
        let refused = |problem: String| StoreError::Refused {
            store: name.clone(),
            action: "use the configuration".to_owned(),
            problem,
        };
        if config.endpoints.is_empty() {
            return Err(refused("no endpoints".to_owned()));
        }
        for endpoint in &config.endpoints {
            if endpoint.starts_with("https://") && config.tls.is_none() {
                return Err(refused(format!("{endpoint} needs a CA, and none is configured")));
            }
            if !endpoint.starts_with("https://") && config.tls.is_some() {
                return Err(refused(format!("TLS is configured, but {endpoint} is not https://")));
            }
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                return Err(refused(format!("{endpoint} does not begin with http:// or https://")));
            }
        }
        let mut options = ConnectOptions::new()
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            // Pings on a connection without calls are what etcd closes it for.
            .with_keep_alive_while_idle(false)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(user) = config.user {
            options = options.with_user(user.name, user.password);
        }
        if let Some(tls) = &config.tls {
            options = options.with_tls(read_tls(tls).map_err(refused)?);
        }
        let members = config.endpoints.into_iter().map(|endpoint| Member {
            endpoint,
            client: OnceCell::new(),
            answered: AtomicU64::new(0),
        });
        let members = members.collect();
        let clock = BootClock::kernel().map_err(|error| refused(error.to_string()))?;
        Ok(Self { name, clock, options, members, current: AtomicUsize::new(0) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn refused(&self, action: &str, problem: String) -> StoreError {
        StoreError::Refused { store: self.name.clone(), action: action.to_owned(), problem }
    }

    /// The instant `timeout` from now.
    pub(super) fn deadline(&self, timeout: Duration) -> BootTime {
        self.clock.now().plus(timeout)
    }

    /// What is left until then.
    pub(super) fn left(&self, deadline: BootTime) -> Duration {
        deadline.since(self.clock.now())
    }

    /// Makes a call that does no harm when it is made twice, on one member after the other until
    /// one answers or the time is up.
    pub(super) async fn repeatable<T, F, C>(
        &self,
        action: &str,
        timeout: Duration,
        effect: Effect,
        call: F,
    ) -> Result<T, StoreError>
    where
        F: Fn(Client) -> C,
        C: Future<Output = Result<T, Error>>,
    {
        let deadline = self.deadline(timeout);
        let mut last = Failure::untried();
        let mut unknown = false;
        for attempt in 0.. {
            let Some(slice) = self.slice(attempt, deadline).await else { break };
            let index = self.current.load(Ordering::Relaxed);
            let outcome = match self.make_sure(index, attempt, slice).await {
                Ok(()) => self.attempt(index, slice, &call).await,
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.verdict == Verdict::Refused => {
                    return Err(self.refused(action, failure.problem));
                }
                Err(failure) => {
                    unknown |= failure.verdict == Verdict::Unknown;
                    last = failure;
                    self.leave(index);
                }
            }
        }
        if effect == Effect::None || !unknown {
            last.verdict = Verdict::NotDone;
        } else {
            last.verdict = Verdict::Unknown;
        }
        Err(self.error(action, timeout, last))
    }

    /// Makes a call that must not be made twice: only what certainly had no effect is tried on the
    /// next member.
    pub(super) async fn once<T, F, C>(
        &self,
        action: &str,
        timeout: Duration,
        call: F,
    ) -> Result<T, StoreError>
    where
        F: Fn(Client) -> C,
        C: Future<Output = Result<T, Error>>,
    {
        let deadline = self.deadline(timeout);
        let mut last = Failure::untried();
        for attempt in 0.. {
            let Some(slice) = self.slice(attempt, deadline).await else { break };
            let index = self.current.load(Ordering::Relaxed);
            if let Err(failure) = self.make_sure(index, attempt, slice).await {
                if failure.verdict == Verdict::Refused {
                    return Err(self.refused(action, failure.problem));
                }
                last = failure;
                self.leave(index);
                continue;
            }
            let left = self.left(deadline);
            match self.attempt(index, left, &call).await {
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.verdict == Verdict::NotDone => {
                    last = failure;
                    self.leave(index);
                }
                Err(failure) => {
                    self.leave(index);
                    return Err(self.error(action, timeout, failure));
                }
            }
        }
        Err(self.error(action, timeout, last))
    }

    /// Asks a member that didn't answer lately whether it is there.
    async fn make_sure(
        &self,
        index: usize,
        attempt: usize,
        slice: Duration,
    ) -> Result<(), Failure> {
        if self.is_fresh(index) {
            return Ok(());
        }
        let members = self.members.len();
        let round = u32::try_from(attempt / members).unwrap_or(u32::MAX).min(8);
        let limit = if members == 1 { slice } else { slice.min(PROBE * 2_u32.pow(round)) };
        let asked = self.attempt(index, limit, probe).await;
        asked.map_err(|failure| match failure.verdict {
            // Asking whether it is there has no effect.
            Verdict::Unknown => Failure { verdict: Verdict::NotDone, ..failure },
            Verdict::Refused | Verdict::NotDone => failure,
        })
    }

    /// One call to one member, for at most `limit`.
    async fn attempt<T, F, C>(&self, index: usize, limit: Duration, call: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> C,
        C: Future<Output = Result<T, Error>>,
    {
        let member = &self.members[index];
        let mut sent = false;
        let work = async {
            let client = member.client(&self.options).await?.clone();
            sent = true;
            call(client).await
        };
        let outcome = tokio::time::timeout(limit, work).await;
        let failure = |verdict, problem: String| Failure {
            verdict: if sent || verdict == Verdict::Refused { verdict } else { Verdict::NotDone },
            problem: format!("{}: {problem}", member.endpoint),
        };
        match outcome {
            Ok(Ok(answer)) => {
                member.answered.store(self.clock.now().nanos(), Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) => Err(failure(verdict(&error), explain(&error))),
            Err(_) => Err(failure(Verdict::Unknown, format!("no answer within {limit:?}"))),
        }
    }

    /// How long the next attempt may take: half of what is left, so that there is something left
    /// for the other members, and all of it when there is no other. Pauses after each round.
    async fn slice(&self, attempt: usize, deadline: BootTime) -> Option<Duration> {
        let members = self.members.len();
        if attempt > 0 && attempt.is_multiple_of(members) {
            tokio::time::sleep(PAUSE.min(self.left(deadline))).await;
        }
        let left = self.left(deadline);
        if left.is_zero() {
            return None;
        }
        let others = (members - 1).saturating_sub(attempt % members);
        Some(if others == 0 { left } else { (left / 2).max(SLICE_MIN).min(left) })
    }

    /// Goes on to the next member, unless another call has done so already.
    fn leave(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        let moved =
            self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        if moved.is_ok() && next != index {
            tracing::debug!(
                from = self.members[index].endpoint,
                to = self.members[next].endpoint,
                "going on to the next member of etcd",
            );
        }
        self.members[index].answered.store(0, Ordering::Relaxed);
    }

    fn is_fresh(&self, index: usize) -> bool {
        let answered = BootTime::from_nanos(self.members[index].answered.load(Ordering::Relaxed));
        self.clock.now().since(answered) < FRESH
    }

    fn error(&self, action: &str, waited: Duration, failure: Failure) -> StoreError {
        let (store, action) = (self.name.clone(), action.to_owned());
        let problem = failure.problem;
        match failure.verdict {
            Verdict::Refused => StoreError::Refused { store, action, problem },
            Verdict::NotDone => StoreError::NotDone { store, action, problem },
            Verdict::Unknown => StoreError::Unknown { store, action, waited, problem },
        }
    }
}

impl Member {
    async fn client(&self, options: &ConnectOptions) -> Result<&Client, Error> {
        self.client
            .get_or_try_init(|| Client::connect([&self.endpoint], Some(options.clone())))
            .await
    }
}

impl Failure {
    fn untried() -> Self {
        Self { verdict: Verdict::NotDone, problem: "no time to ask any member".to_owned() }
    }
}

/// Asks a member whether it is there and knows a leader.
pub(super) async fn probe(mut client: Client) -> Result<(), Error> {
    let status = client.status().await?;
    if status.leader() == 0 {
        // Not a quorum: whatever it is asked now, it can't do.
        return Err(Error::GRpcStatus(tonic::Status::unavailable("etcdserver: no leader")));
    }
    Ok(())
}

fn read_tls(tls: &EtcdTls) -> Result<TlsOptions, String> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| format!("read {}: {error}", path.display()))
    };
    let options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            Ok(options.identity(Identity::from_pem(read(certificate)?, read(key)?)))
        }
        (None, None) => Ok(options),
        _ => Err("a client certificate needs its key, and a key its certificate".to_owned()),
    }
}

/// The client's part for keys, taking large answers.
pub(super) fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// The client's part for watches, taking large answers.
pub(super) fn watches(client: &Client) -> WatchClient {
    client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX)
}
