//! The way from one agent to its DCS: a relay that can be slowed, or turned to another member or
//! to a server that answers every request with an error. Where packets are to be lost, the kernel's
//! filter drops them on its port, so that neither side is told anything.
//!
//! The relays run on a thread of their own, outside the overload: they stand for a network.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use axum::response::IntoResponse as _;
use regent_test_sys::tools;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

/// More right to the processor than any overload.
const NICE: i32 = -10;

/// Pieces on their way in one direction, at most.
const PIECES: usize = 1024;

/// How a relay treats what passes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    /// To whom; a change ends every connection.
    to: SocketAddr,
    /// How long every piece is held up.
    delay: Duration,
}

/// A relay.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub port: u16,
    way: watch::Sender<Way>,
}

impl Proxy {
    /// Turns it to another server. Connections end.
    pub fn turn(&self, to: SocketAddr) {
        self.way.send_modify(|way| way.to = to);
    }

    /// Holds up every piece in either direction.
    pub fn delay(&self, delay: Duration) {
        self.way.send_modify(|way| way.delay = delay);
    }
}

/// Every relay of a cluster and the server that answers errors. Dropping it ends them.
#[derive(Debug)]
pub struct Proxies {
    /// One a node.
    pub of_node: Vec<Proxy>,
    /// Answers every request with the error of an etcd without leader.
    pub errors: SocketAddr,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Proxies {
    /// Starts a relay to each of these servers.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(to: &[SocketAddr]) -> anyhow::Result<Self> {
        let listen = || -> anyhow::Result<std::net::TcpListener> {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let mut listeners = Vec::new();
        let mut of_node = Vec::new();
        for to in to {
            let listener = listen()?;
            let (way, seen) = watch::channel(Way { to: *to, delay: Duration::ZERO });
            of_node.push(Proxy { port: listener.local_addr()?.port(), way });
            listeners.push((listener, seen));
        }
        let faulty = listen()?;
        let errors = faulty.local_addr()?;
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("relays".to_owned()).spawn(move || {
            rustix::process::setpriority_process(None, NICE).ok();
            runtime.block_on(async move {
                for (listener, way) in listeners {
                    let listener = TcpListener::from_std(listener).expect("a listener of ours");
                    tokio::spawn(relay(listener, way));
                }
                let faulty = TcpListener::from_std(faulty).expect("a listener of ours");
                tokio::spawn(answer_errors(faulty));
                // The sender's end is the end.
                ended.await.ok();
            });
        })?;
        Ok(Self { of_node, errors, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn relay(listener: TcpListener, way: watch::Receiver<Way>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(carry(client, way.clone()));
    }
}

async fn carry(client: TcpStream, mut way: watch::Receiver<Way>) {
    let to = way.borrow().to;
    // A server that is not there is one that refuses: the client sees its connection end.
    let Ok(server) = TcpStream::connect(to).await else { return };
    client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).ok();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (way.clone(), way.clone());
    tokio::select! {
        () = pieces(from_client, to_server, up) => {}
        () = pieces(from_server, to_client, down) => {}
        _ = way.wait_for(|way| way.to != to) => {}
    }
}

async fn pieces(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    way: watch::Receiver<Way>,
) {
    let (send, mut delayed) = mpsc::channel(PIECES);
    let read = async move {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut piece).await {
            // Counts from here: a way that takes long carries the next piece all the same.
            let due = Box::pin(tokio::time::sleep(way.borrow().delay));
            if send.send((due, piece[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, piece)) = delayed.recv().await {
            due.await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    // Each ends the other's channel; what is on its way still arrives.
    tokio::join!(read, write);
}

/// gRPC over HTTP/2: whatever is asked, `UNAVAILABLE: etcdserver: no leader`, as a member says it.
async fn answer_errors(listener: TcpListener) {
    let app = axum::Router::new().fallback(async || {
        [
            ("content-type", "application/grpc"),
            ("grpc-status", "14"),
            ("grpc-message", "etcdserver: no leader"),
        ]
        .into_response()
    });
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_routes(app.into());
    server.serve_with_incoming(incoming).await.ok();
}

/// Drops every packet that a user sends, but those from its port for clients: cuts one member of
/// the DCS from the others. Dropping it removes the rule.
#[derive(Debug)]
pub struct Cut {
    table: String,
}

impl Cut {
    /// Cuts a user off.
    ///
    /// # Errors
    /// When the kernel does not take the rule.
    pub fn user(user: u32, but: u16) -> anyhow::Result<Self> {
        let cut = Self { table: format!("regent_fence_{}_{user}", std::process::id()) };
        let chain = "type filter hook output priority -300; policy accept;";
        let rule = format!("meta skuid {user} meta l4proto tcp tcp sport != {but} drop");
        // nft wants the lines apart.
        let table = &cut.table;
        let rules = format!("table inet {table} {{\nchain out {{\n{chain}\n{rule}\n}}\n}}\n");
        tools::run("nft", &[&rules]).context("cut a member of the DCS off")?;
        Ok(cut)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        tools::run("nft", &[&format!("delete table inet {}", self.table)]).ok();
    }
}
