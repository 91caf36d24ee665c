//! Mutual TLS between sites: a listener that takes nobody without a certificate of the common
//! authority, and the name a certificate speaks for.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use regent_proto::name::SiteName;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::promise::PromiseTls;

/// The longest a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that may wait to be served, and handshakes that may run.
const WAITING: usize = 32;

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .with_context(|| format!("cannot read {}", file.display()))?
        .collect();
    let found = found.with_context(|| format!("{}: not PEM", file.display()))?;
    anyhow::ensure!(!found.is_empty(), "{}: has no certificate; want PEM", file.display());
    Ok(found)
}

fn key(file: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file)
        .with_context(|| format!("{}: no private key in PEM", file.display()))
}

fn authority(file: &Path) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).with_context(|| format!("{}: not usable", file.display()))?;
    }
    Ok(Arc::new(roots))
}

/// How this site asks.
pub fn client_config(tls: &PromiseTls) -> anyhow::Result<rustls::ClientConfig> {
    let roots = authority(&tls.cafile).context("federation.promise.cafile")?;
    let chain = certificates(&tls.certfile).context("federation.promise.certfile")?;
    let key = key(&tls.keyfile).context("federation.promise.keyfile")?;
    rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .context("federation.promise: certificate and key do not fit")
}

/// How this site answers: to nobody without a certificate. Refuses a certificate that does not
/// speak for this site.
pub fn server_config(tls: &PromiseTls, own: &SiteName) -> anyhow::Result<rustls::ServerConfig> {
    let roots = authority(&tls.cafile).context("federation.promise.cafile")?;
    let chain = certificates(&tls.certfile).context("federation.promise.certfile")?;
    let key = key(&tls.keyfile).context("federation.promise.keyfile")?;
    anyhow::ensure!(
        chain.first().is_some_and(|leaf| speaks_for(leaf, own)),
        "federation.promise.certfile: {} does not carry the DNS name {own}; want a certificate \
         whose subjectAltName has this site's name",
        tls.certfile.display()
    );
    let clients = WebPkiClientVerifier::builder(roots)
        .build()
        .context("federation.promise.cafile: not usable to verify clients")?;
    rustls::ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .context("federation.promise: certificate and key do not fit")
}

fn speaks_for(certificate: &CertificateDer<'_>, site: &SiteName) -> bool {
    let Ok(name) = ServerName::try_from(site.as_str()) else { return false };
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.verify_is_valid_for_subject_name(&name).is_ok())
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub enum Peer {
    /// Nobody proved anything: plain HTTP.
    Unproven,
    /// The certificate that was verified.
    Proven(CertificateDer<'static>),
}

impl Peer {
    /// Whether it may speak for this site.
    #[must_use]
    pub fn speaks_for(&self, site: &SiteName) -> bool {
        match self {
            Self::Unproven => true,
            Self::Proven(certificate) => speaks_for(certificate, site),
        }
    }
}

/// A listener whose handshakes run beside each other, so that a slow one holds up nobody.
pub struct TlsListener {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TlsListener {
    /// Takes over a bound listener.
    pub fn new(listener: TcpListener, config: rustls::ServerConfig) -> std::io::Result<Self> {
        let local = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (send, accepted) = mpsc::channel(WAITING);
        let running = Arc::new(tokio::sync::Semaphore::new(WAITING));
        let task = tokio::spawn(async move {
            loop {
                let Ok(permit) = Arc::clone(&running).acquire_owned().await else { return };
                let (stream, address) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::debug!(%error, "accepting a connection for promises");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (acceptor, send) = (acceptor.clone(), send.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => drop(send.send((stream, address)).await),
                        Ok(Err(error)) => tracing::debug!(%error, %address, "TLS for promises"),
                        Err(_elapsed) => tracing::debug!(%address, "TLS for promises: too slow"),
                    }
                    drop(permit);
                });
            }
        });
        Ok(Self { accepted, local, task })
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The accepting task ends with this listener only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Ok(self.local)
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let (_, session) = stream.io().get_ref();
        match session.peer_certificates().and_then(<[_]>::first) {
            Some(certificate) => Self::Proven(certificate.clone().into_owned()),
            // The verifier lets nobody in without one; an empty one speaks for no site.
            None => Self::Proven(CertificateDer::from(Vec::new())),
        }
    }
}

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(_: IncomingStream<'_, TcpListener>) -> Self {
        Self::Unproven
    }
}
