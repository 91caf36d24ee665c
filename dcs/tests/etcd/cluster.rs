//! A real etcd cluster of this machine, for one test, with everything that may befall it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use etcd_client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regent_dcs::Store;
use regent_dcs::clock::BootClock;
use regent_dcs::etcd::{EtcdConfig, EtcdStore, EtcdTls};

/// For everything that has to come about by itself: a start, an election.
const PATIENCE: Duration = Duration::from_secs(30);

/// Some members, each a process. Dropping it kills them and removes their data.
pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    program: PathBuf,
    members: Vec<Member>,
    /// Where `ca.pem`, `node.pem` and `node.key` are, when clients must use TLS.
    certificates: Option<PathBuf>,
}

struct Member {
    client_port: u16,
    peer_port: u16,
    child: Mutex<Option<Child>>,
}

/// An etcd to test with; without one, `None`, said aloud, and a failure where skips are failures.
#[expect(clippy::disallowed_methods, reason = "the environment of the tests, read here only")]
pub(crate) fn program(test: &str) -> Option<PathBuf> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var("REGENT_ETCD").ok().map(PathBuf::from);
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).map(|dir| dir.join("etcd")).collect();
    places.push(repository.join(".tools/bin/etcd"));
    places.push("/opt/regent-tools/bin/etcd".into());
    let found = named.or_else(|| places.into_iter().find(|place| place.is_file()));
    if found.is_none() {
        skip(test, "no etcd here; `scripts/install --etcd` installs one");
    }
    found
}

/// A CA and a certificate for 127.0.0.1 in this directory; whether openssl could make them.
#[expect(clippy::disallowed_methods, reason = "the one place of these tests that runs openssl")]
pub(crate) fn make_certificates(directory: &Path) -> bool {
    let script = "
        set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
            -subj /CN=ca -keyout ca.key -out ca.pem
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
            -subj /CN=node -keyout node.key -out node.csr
        printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n' > node.ext
        openssl x509 -req -days 2 -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
            -extfile node.ext -out node.pem";
    let run = Command::new("sh")
        .args(["-c", script])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.unwrap().success()
}

/// Says that a test is skipped, and fails it where skips are failures.
#[expect(clippy::disallowed_methods, reason = "the environment of the tests")]
pub(crate) fn skip(test: &str, why: &str) {
    println!("SKIPPED: {test}: {why}");
    let skips_fail = std::env::var("REGENT_SKIPS_ARE_FAILURES").is_ok_and(|value| value == "1");
    assert!(!skips_fail, "{test} was skipped, and skips are failures here");
}

impl Cluster {
    /// Starts `size` members and waits until they serve.
    pub(crate) async fn start(program: PathBuf, size: usize) -> Self {
        Self::start_with(program, size, None).await
    }

    /// As [`Self::start`]; clients must show a certificate when there are certificates.
    pub(crate) async fn start_with(
        program: PathBuf,
        size: usize,
        certificates: Option<PathBuf>,
    ) -> Self {
        // All ports are held until all are chosen, so that they differ.
        let hold = || TcpListener::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = (0..size).map(|_| (hold(), hold())).collect();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let members = held.iter().map(|(client, peer)| Member {
            client_port: port(client),
            peer_port: port(peer),
            child: Mutex::new(None),
        });
        let members = members.collect();
        drop(held);
        let cluster =
            Self { directory: tempfile::tempdir().unwrap(), program, members, certificates };
        for index in 0..size {
            cluster.launch(index);
        }
        for index in 0..size {
            cluster.wait_until_serving(index).await;
        }
        cluster
    }

    /// Runs a member. `setpriv`, where there is one, has it die with us even if we are killed.
    #[expect(clippy::disallowed_methods, reason = "the one place of these tests that runs etcd")]
    fn launch(&self, index: usize) {
        let member = &self.members[index];
        let all = self.members.iter().enumerate();
        let all: Vec<_> =
            all.map(|(i, m)| format!("m{i}=http://127.0.0.1:{}", m.peer_port)).collect();
        let client = self.endpoint(index);
        let peer = format!("http://127.0.0.1:{}", member.peer_port);
        let with_parent = Path::new("/usr/bin/setpriv");
        let mut command = if with_parent.is_file() {
            let mut command = Command::new(with_parent);
            command.args(["--pdeathsig", "KILL"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        if let Some(certificates) = &self.certificates {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(certificates.join("ca.pem"));
            command.arg("--cert-file").arg(certificates.join("node.pem"));
            command.arg("--key-file").arg(certificates.join("node.key"));
        }
        let log = self.directory.path().join(format!("m{index}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .arg("--name")
            .arg(format!("m{index}"))
            .arg("--data-dir")
            .arg(self.directory.path().join(format!("m{index}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            // Elections within about a second, and a smallest TTL of 1 s.
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(["--logger", "zap"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *member.child.lock().unwrap() = Some(child);
    }

    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn endpoint(&self, index: usize) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.members[index].client_port)
    }

    /// A store whose nearest member is this one.
    pub(crate) fn store(&self, nearest: usize) -> EtcdStore {
        let size = self.members.len();
        self.store_at((0..size).map(|i| self.endpoint((nearest + i) % size)).collect())
    }

    /// A store that knows only this member.
    pub(crate) fn store_of(&self, index: usize) -> EtcdStore {
        self.store_at(vec![self.endpoint(index)])
    }

    fn store_at(&self, endpoints: Vec<String>) -> EtcdStore {
        let tls = self.certificates.as_ref().map(|certificates| EtcdTls {
            ca: certificates.join("ca.pem"),
            certificate: Some(certificates.join("node.pem")),
            key: Some(certificates.join("node.key")),
        });
        EtcdStore::connect(EtcdConfig { endpoints, user: None, tls }).unwrap()
    }

    /// etcd's own client, for what no store does.
    pub(crate) async fn client(&self, index: usize) -> Client {
        Box::pin(Client::connect([self.endpoint(index)], None)).await.unwrap()
    }

    pub(crate) async fn wait_until_serving(&self, index: usize) {
        let store = self.store_of(index);
        self.wait_for("a member to serve", async || {
            store.get("/any", Duration::from_secs(1)).await.is_ok()
        })
        .await;
    }

    async fn wait_for(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let clock = BootClock::kernel().unwrap();
        let give_up = clock.now().plus(PATIENCE);
        while !holds().await {
            assert!(clock.now() < give_up, "waited in vain for {what}: {}", self.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last lines of every member's log.
    fn logs(&self) -> String {
        let log = |index| {
            let path = self.directory.path().join(format!("m{index}.log"));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<_> = text.lines().rev().take(5).collect();
            format!("\nm{index}: {lines:#?}")
        };
        (0..self.members.len()).map(log).collect()
    }

    /// The member that leads.
    pub(crate) async fn leader(&self) -> usize {
        let clock = BootClock::kernel().unwrap();
        let give_up = clock.now().plus(PATIENCE);
        loop {
            for index in 0..self.members.len() {
                let ask = async {
                    let status = self.client(index).await.status().await.ok()?;
                    (status.leader() == status.header()?.member_id()).then_some(index)
                };
                let answer = tokio::time::timeout(Duration::from_secs(1), ask).await;
                if let Ok(Some(leader)) = answer {
                    return leader;
                }
            }
            assert!(clock.now() < give_up, "no leader: {}", self.logs());
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        let child = self.members[index].child.lock().unwrap();
        let id = child.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    pub(crate) fn freeze(&self, index: usize) {
        self.signal(index, Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self, index: usize) {
        self.signal(index, Signal::SIGCONT);
    }

    pub(crate) fn kill(&self, index: usize) {
        let child = self.members[index].child.lock().unwrap().take();
        end(child);
    }

    pub(crate) async fn restart(&self, index: usize) {
        self.launch(index);
        self.wait_until_serving(index).await;
    }

    /// As [`Self::restart`], without waiting.
    pub(crate) fn restart_unasked(&self, index: usize) {
        self.launch(index);
    }

    /// Hands the leadership to the next member.
    pub(crate) async fn move_leader(&self) {
        let leader = self.leader().await;
        let next = (leader + 1) % self.members.len();
        let mut client = Box::new(self.client(next).await);
        let heir = client.status().await.unwrap().header().unwrap().member_id();
        let mut client = Box::new(self.client(leader).await);
        client.move_leader(heir).await.unwrap();
    }

    /// Forgets all history, through any member that can do it.
    pub(crate) async fn compact(&self) {
        let clock = BootClock::kernel().unwrap();
        let give_up = clock.now().plus(PATIENCE);
        for index in (0..self.members.len()).cycle() {
            let limit = Duration::from_secs(2);
            match tokio::time::timeout(limit, Box::pin(self.compact_by(index))).await {
                Ok(Ok(())) => return,
                // Another case was faster.
                Ok(Err(error)) if error.to_string().contains("has been compacted") => return,
                Ok(Err(_)) | Err(_) => {}
            }
            assert!(clock.now() < give_up, "no member could compact: {}", self.logs());
        }
    }

    async fn compact_by(&self, index: usize) -> Result<(), etcd_client::Error> {
        let mut client = self.client(index).await;
        let now = client.get("/any", None).await?;
        let revision = now.header().map_or(0, |header| header.revision());
        client.compact(revision, None).await.map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &self.members {
            end(member.child.lock().unwrap().take());
        }
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
