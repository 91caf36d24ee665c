//! A member of etcd that answers from its past: what stands between an agent and a member that is
//! cut from the others, and makes every read of it a serializable one.
//!
//! The product asks for linearizable reads, which a cut member refuses; asked so it is only silent.
//! Here whatever is read is read without its consent: ranges are marked serializable, the demand for
//! a leader is taken from reads and watches, and the member's status goes on naming the leader of
//! before. Everything else passes unchanged: transactions (all of ours write) and lease renewals get
//! what a member without a leader gives them, and what it acknowledged is noted.
//!
//! An answer counts as stale when its revision is older than one that the other members had given
//! before it was asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::uri::PathAndQuery;
use axum::response::Response as HttpResponse;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;
use regent_dcs::Store as _;
use regent_dcs::etcd::{EtcdConfig, EtcdStore};
use regent_guardian::clock::boot_time;
use regent_proto::time::BootTime;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::tokio_stream::StreamExt as _;
use tonic::codegen::{BoxFuture, BoxStream};
use tonic::server::StreamingService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Like the relays: outside the overload.
const NICE: i32 = -10;
/// Between two looks at what the others have.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest wait for their answer.
const LOOK: Duration = Duration::from_millis(500);
/// "Refuse this unless you have a leader": a member without one then answers nothing.
const WANTS_LEADER: &str = "hasleader";

/// What passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Reads answered with what was no longer so.
    pub stale: usize,
    /// Those of them that showed a leader key.
    pub naming: usize,
    /// The last instant at which a lease can have been granted or renewed: what an agent's
    /// deadline may rest on.
    pub renewed: BootTime,
    /// The highest revision that the others gave.
    newest: i64,
    /// The leader that the member had, for when it has none.
    leader: u64,
}

/// The member as its agent sees it. Dropping it ends that.
#[derive(Debug)]
pub struct Stale {
    /// Where it takes clients.
    pub address: SocketAddr,
    told: Arc<Mutex<Told>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Clone)]
struct Front {
    member: Channel,
    told: Arc<Mutex<Told>>,
}

impl Stale {
    /// Stands before `member`, and asks `others` what is so by now.
    ///
    /// # Errors
    /// When there is no port, or no way to the others.
    pub fn before(member: SocketAddr, others: &[SocketAddr]) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let endpoint = Endpoint::from_shared(format!("http://{member}"))?.tcp_nodelay(true);
        let endpoints = others.iter().map(|other| format!("http://{other}")).collect();
        let others = EtcdStore::connect(EtcdConfig { endpoints, user: None, tls: None })?;
        let told = Told { stale: 0, naming: 0, renewed: boot_time(), newest: 0, leader: 0 };
        let told = Arc::new(Mutex::new(told));
        let kept = Arc::clone(&told);
        let (end, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("stale".to_owned()).spawn(move || {
            rustix::process::setpriority_process(None, NICE).ok();
            runtime.block_on(async move {
                let front = Front { member: endpoint.connect_lazy(), told: Arc::clone(&kept) };
                let listener = TcpListener::from_std(listener).expect("a listener of ours");
                tokio::spawn(serve(listener, front));
                tokio::spawn(look(others, kept));
                // The sender's end is the end.
                ended.await.ok();
            });
        })?;
        Ok(Self { address, told, end: Some(end), thread: Some(thread) })
    }

    /// The agent has been turned here: what its store acknowledged by another way came before this.
    pub fn begin(&self) {
        lock(&self.told).renewed = boot_time();
    }

    /// What passed so far.
    #[must_use]
    pub fn told(&self) -> Told {
        lock(&self.told).clone()
    }
}

impl Drop for Stale {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn lock(told: &Mutex<Told>) -> std::sync::MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps asking the others for their revision, linearizably: by then it is history.
async fn look(others: EtcdStore, told: Arc<Mutex<Told>>) {
    loop {
        // Around an election nobody knows, and the last answer goes on counting.
        if let Ok(seen) = others.range("/nothing/", LOOK).await {
            let revision = i64::try_from(seen.revision.0).unwrap_or(i64::MAX);
            let mut told = lock(&told);
            told.newest = told.newest.max(revision);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn serve(listener: TcpListener, front: Front) {
    let app = axum::Router::new().fallback(pass).with_state(front);
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_routes(app.into());
    server.serve_with_incoming(incoming).await.ok();
}

async fn pass(State(front): State<Front>, request: axum::extract::Request) -> HttpResponse {
    let path = request.uri().path();
    let kind = Kind::of(path);
    let way = PathAndQuery::try_from(path).expect("the path of a request is one");
    let call = Call { front, kind, way };
    // A single request is a stream of one: every call is carried alike.
    let mut server = tonic::server::Grpc::new(Raw).max_decoding_message_size(usize::MAX);
    server.streaming(call, request).await.map(Body::new)
}

/// What is done with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Range,
    Status,
    Watch,
    Grant,
    Renew,
    Other,
}

impl Kind {
    fn of(path: &str) -> Self {
        match path {
            "/etcdserverpb.KV/Range" => Self::Range,
            "/etcdserverpb.Maintenance/Status" => Self::Status,
            "/etcdserverpb.Watch/Watch" => Self::Watch,
            "/etcdserverpb.Lease/LeaseGrant" => Self::Grant,
            "/etcdserverpb.Lease/LeaseKeepAlive" => Self::Renew,
            _ => Self::Other,
        }
    }

    fn reads(self) -> bool {
        matches!(self, Self::Range | Self::Status | Self::Watch)
    }

    fn asked(self, message: Bytes) -> Bytes {
        match self {
            Self::Range => overridden(message, &Serializable { serializable: true }),
            Self::Status | Self::Watch | Self::Grant | Self::Renew | Self::Other => message,
        }
    }

    /// What its agent gets for an answer to what was asked when the others were at `newest`.
    fn answered(self, message: Bytes, newest: i64, told: &Mutex<Told>) -> Result<Bytes, Status> {
        let unread = |problem: prost::DecodeError| Status::internal(problem.to_string());
        match self {
            Self::Range => {
                let read = RangeAnswer::decode(message.clone()).map_err(unread)?;
                if read.header.unwrap_or_default().revision < newest {
                    let names = read.pairs.iter().any(|pair| pair.key.ends_with(b"/leader"));
                    let mut told = lock(told);
                    told.stale += 1;
                    told.naming += usize::from(names);
                }
            }
            Self::Status => {
                let status = StatusAnswer::decode(message.clone()).map_err(unread)?;
                let mut told = lock(told);
                if status.leader == 0 {
                    return Ok(overridden(message, &StatusAnswer { leader: told.leader }));
                }
                told.leader = status.leader;
            }
            Self::Grant | Self::Renew => {
                let lease = LeaseAnswer::decode(message.clone()).map_err(unread)?;
                if lease.ttl > 0 {
                    lock(told).renewed = boot_time();
                }
            }
            Self::Watch | Self::Other => {}
        }
        Ok(message)
    }
}

/// One call of the agent's.
struct Call {
    front: Front,
    kind: Kind,
    way: PathAndQuery,
}

impl StreamingService<Bytes> for Call {
    type Response = Bytes;
    type ResponseStream = BoxStream<Bytes>;
    type Future = BoxFuture<Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (Front { member, told }, kind, way) = (self.front.clone(), self.kind, self.way.clone());
        Box::pin(async move {
            let (mut metadata, _, messages) = request.into_parts();
            if kind.reads() {
                metadata.remove(WANTS_LEADER);
            }
            let newest = lock(&told).newest;
            let messages = messages.map_while(Result::ok).map(move |message| kind.asked(message));
            let mut member = tonic::client::Grpc::new(member).max_decoding_message_size(usize::MAX);
            // No member to be reached: what a client says of one itself.
            member.ready().await.map_err(|gone| Status::unavailable(gone.to_string()))?;
            let request = Request::from_parts(metadata, tonic::Extensions::default(), messages);
            let answer = member.streaming(request, way, Raw).await?;
            Ok(answer.map(|answers| -> BoxStream<Bytes> {
                Box::pin(answers.map(move |answer| kind.answered(answer?, newest, &told)))
            }))
        })
    }
}

/// Messages as they are.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

// What matters of etcd's messages; the rest is passed over, and passed on.

#[derive(Clone, PartialEq, Eq, Message)]
struct Serializable {
    #[prost(bool, tag = "7")]
    serializable: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct RangeAnswer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pairs: Vec<Pair>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Header {
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct StatusAnswer {
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct LeaseAnswer {
    #[prost(int64, tag = "3")]
    ttl: i64,
}

/// A message with other fields behind it: of one that is there twice the last counts.
fn overridden(message: Bytes, fields: &impl Message) -> Bytes {
    let mut bytes = BytesMut::from(message);
    bytes.extend(fields.encode_to_vec());
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_request_becomes_serializable_whatever_it_was() {
        for before in [true, false] {
            let asked = Serializable { serializable: before }.encode_to_vec().into();
            let made = overridden(asked, &Serializable { serializable: true });
            assert!(Serializable::decode(made).unwrap().serializable);
        }
    }

    #[test]
    fn a_status_names_the_leader_of_before() {
        let made = overridden(
            StatusAnswer { leader: 0 }.encode_to_vec().into(),
            &StatusAnswer { leader: 7 },
        );
        assert_eq!(StatusAnswer::decode(made).unwrap().leader, 7);
    }

    #[test]
    fn what_is_older_than_the_others_is_counted_and_so_is_what_was_acknowledged() {
        let start = BootTime::from_nanos(1);
        let told = Mutex::new(Told { stale: 0, naming: 0, renewed: start, newest: 0, leader: 0 });
        let leader = Pair { key: b"/service/a/leader".to_vec() };
        let read = RangeAnswer { header: Some(Header { revision: 7 }), pairs: vec![leader] };
        let read = Bytes::from(read.encode_to_vec());
        for (newest, stale) in [(7, 0), (8, 1)] {
            let given = Kind::Range.answered(read.clone(), newest, &told).unwrap();
            assert_eq!(given, read);
            let counted = lock(&told).clone();
            assert_eq!((counted.stale, counted.naming), (stale, stale));
        }
        let lost = LeaseAnswer { ttl: 0 }.encode_to_vec().into();
        Kind::Renew.answered(lost, 0, &told).unwrap();
        assert_eq!(lock(&told).renewed, start);
        let lives = LeaseAnswer { ttl: 5 }.encode_to_vec().into();
        Kind::Renew.answered(lives, 0, &told).unwrap();
        assert!(lock(&told).renewed > start);
    }
}
