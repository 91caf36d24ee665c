//! Life of a coordinator: configuration → build (opens the stores, binds the listener) → run.
//!
//! Tasks, and what their end means: the server and each federation's loop end only when told to;
//! should one end before, the coordinator stops with an error. A session's task ends last, so
//! that `leader` and the member key are released when nobody writes any more.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use regent_dcs::Store;
use regent_dcs::clock::BootClock;
use regent_dcs::etcd::EtcdStore;
use regent_dcs::sqlite::SqliteStore;
use regent_proto::wire::DESCRIPTORS;
use regent_proto::wire::regent_server::RegentServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::act::session;
use crate::api::{Api, health};
use crate::config::{Config, QuorumConfig, Tls};
use crate::decide::Policy;
use crate::federation::{self, Loop};

/// The longest wait for tasks that were told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The largest request: a topology file.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// A coordinator that is ready to run.
pub struct Coordinator {
    listener: TcpListener,
    tls: Option<ServerTlsConfig>,
    api: Api,
    loops: Vec<Loop>,
    sessions: Vec<Session>,
    stop: CancellationToken,
    clock: BootClock,
}

struct Session {
    store: Arc<dyn Store>,
    out: watch::Sender<Option<crate::decide::view::Session>>,
}

impl Coordinator {
    /// Opens the stores and binds the listener.
    pub async fn build(config: &Config) -> anyhow::Result<Self> {
        let clock = BootClock::kernel().context("read the boot id")?;
        let listener = TcpListener::bind(config.listen).await.with_context(|| {
            format!("listen on {} (`listen:`); is another process using that port?", config.listen)
        })?;
        let address = listener.local_addr().context("read the listener's address")?;
        let tls = config.tls.as_ref().map(tls).transpose().context("use the `tls:` section")?;
        let policy = policy(config, address.to_string());
        let stop = CancellationToken::new();
        let (mut loops, mut handles, mut sessions) = (Vec::new(), Vec::new(), Vec::new());
        for federation in &config.federations {
            let store = open(&federation.quorum)
                .with_context(|| format!("open the global quorum of {}", federation.name))?;
            let (out, session) = watch::channel(None);
            let (state, handle) = federation::build(
                policy.clone(),
                federation.name.clone(),
                store.clone(),
                clock.clone(),
                session,
            );
            loops.push(state);
            handles.push(handle);
            sessions.push(Session { store, out });
        }
        let api = Api::new(policy, clock.clone(), handles, stop.clone());
        Ok(Self { listener, tls, api, loops, sessions, stop, clock })
    }

    /// Where the API listens.
    pub fn address(&self) -> std::io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Cancelled, it stops the coordinator.
    #[must_use]
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Runs until the stopper is cancelled, or a task fails.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut tasks: JoinSet<anyhow::Result<&'static str>> = JoinSet::new();
        for state in self.loops {
            let stop = self.stop.clone();
            tasks.spawn(async move {
                state.run(stop).await;
                Ok("the loop of a federation")
            });
        }
        // Sessions outlive the loops: a released `leader` means that nobody writes any more.
        let sessions_stop = CancellationToken::new();
        let mut sessions: JoinSet<()> = JoinSet::new();
        for Session { store, out } in self.sessions {
            sessions.spawn(session::keep(
                store,
                self.clock.clone(),
                out,
                sessions_stop.clone(),
                session::random_tenure,
            ));
        }
        let server = serve(self.listener, self.tls, self.api, self.stop.clone())?;
        tasks.spawn(async move { server.await.map(|()| "the server") });

        let ended = tokio::select! {
            // First, because every task ends when it is told to stop.
            biased;
            () = self.stop.cancelled() => None,
            ended = tasks.join_next() => ended,
        };
        self.stop.cancel();
        let all = async { while tasks.join_next().await.is_some() {} };
        drop(tokio::time::timeout(STOP_WITHIN, all).await);
        sessions_stop.cancel();
        let all = async { while sessions.join_next().await.is_some() {} };
        drop(tokio::time::timeout(STOP_WITHIN, all).await);
        match ended {
            None => Ok(()),
            Some(Ok(Ok(task))) => Err(anyhow::anyhow!("{task} ended by itself")),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(error).context("a task failed"),
        }
    }
}

fn policy(config: &Config, listening: String) -> Policy {
    // A port chosen by the system is known only now.
    let advertised = config.advertise == config.listen.to_string();
    Policy {
        me: config.name.clone(),
        site: config.site.clone(),
        address: if advertised { listening } else { config.advertise.clone() },
        insecure: config.insecure && !config.listen.ip().is_loopback(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        report_age_max: Policy::REPORT_AGE_MAX,
        settle: Policy::SETTLE,
    }
}

fn open(quorum: &QuorumConfig) -> anyhow::Result<Arc<dyn Store>> {
    Ok(match quorum {
        QuorumConfig::Sqlite(path) => Arc::new(SqliteStore::open(path)?),
        QuorumConfig::Etcd(etcd) => Arc::new(EtcdStore::connect(etcd.clone())?),
    })
}

fn tls(tls: &Tls) -> anyhow::Result<ServerTlsConfig> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
    let config = ServerTlsConfig::new().identity(identity);
    Ok(match &tls.client_ca {
        None => config,
        Some(ca) => config.client_ca_root(Certificate::from_pem(read(ca)?)),
    })
}

/// The server as a future: the service, health and reflection.
fn serve(
    listener: TcpListener,
    tls: Option<ServerTlsConfig>,
    api: Api,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send> {
    let mut server = Server::builder();
    if let Some(tls) = tls {
        server = server.tls_config(tls).context("use the certificate in `tls:`")?;
    }
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("describe the service for reflection")?;
    let published = api.published();
    let service = RegentServer::new(api).max_decoding_message_size(REQUEST_BYTES_MAX);
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let router = server.add_service(service).add_service(health_service).add_service(reflection);
    Ok(async move {
        let incoming = TcpListenerStream::new(listener);
        let served = router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let (served, ()) = tokio::join!(served, async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = health::report(reporter, published) => {}
            }
        });
        served.context("serve the API")
    })
}
