//! Networks that lose packets: a black-holed port, and network namespaces.
//!
//! A black hole answers nothing: no reset, no "unreachable". Open connections stay open and new
//! ones hang in SYN-SENT, as behind a firewall that drops. Done with nftables, on loopback too.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use crate::tools;

fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Interface names have at most 15 characters.
    format!("rt{what}{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A rule that drops packets; dropping it lets them through again.
#[derive(Debug)]
pub struct BlackHole {
    table: String,
    namespace: Option<String>,
}

impl BlackHole {
    /// Drops whatever goes to or comes from these ports, in the network of this process.
    ///
    /// # Errors
    /// Without root or nftables.
    pub fn ports(ports: &[u16]) -> anyhow::Result<Self> {
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        let either = format!("tcp dport {{ {ports} }} drop\ntcp sport {{ {ports} }} drop");
        Self::dropping(None, &either, &either)
    }

    /// Both hooks, so that also a peer outside this network gets nothing; in one transaction, so
    /// that there is never half a hole.
    fn dropping(namespace: Option<String>, input: &str, output: &str) -> anyhow::Result<Self> {
        let hole = Self { table: unique("hole"), namespace };
        let chain = |hook: &str, rules: &str| {
            let kind = format!("type filter hook {hook} priority -300; policy accept;");
            format!("chain {hook} {{\n{kind}\n{rules}\n}}\n")
        };
        let chains = [chain("input", input), chain("output", output)].concat();
        hole.nft(&format!("table inet {} {{\n{chains}}}\n", hole.table)).context("drop packets")?;
        Ok(hole)
    }

    fn nft(&self, rules: &str) -> anyhow::Result<String> {
        match &self.namespace {
            None => tools::run("nft", &[rules]),
            Some(name) => {
                let nft = tools::program("nft")?;
                let nft = nft.to_str().context("the path of nft is no text")?;
                tools::run("ip", &["netns", "exec", name, nft, rules])
            }
        }
    }
}

impl Drop for BlackHole {
    fn drop(&mut self) {
        self.nft(&format!("delete table inet {}", self.table)).ok();
    }
}

/// A network namespace with loopback up, joined to this one by a veth pair.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    link: String,
    /// The address inside.
    pub address: String,
}

impl Namespace {
    /// A namespace whose address is `10.SUBNET.2`, this end's is `10.SUBNET.1`, e.g. for `77.5`.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn new(subnet: &str) -> anyhow::Result<Self> {
        let ip = |arguments: &str| {
            tools::run("ip", &arguments.split_whitespace().collect::<Vec<_>>()).map(|_| ())
        };
        let (name, link) = (unique("ns"), unique("v"));
        let space = Self { address: format!("10.{subnet}.2"), name, link };
        let (name, link) = (&space.name, &space.link);
        ip(&format!("netns add {name}"))?;
        ip(&format!("link add {link} type veth peer name eth0 netns {name}"))?;
        ip(&format!("addr add 10.{subnet}.1/24 dev {link}"))?;
        ip(&format!("link set {link} up"))?;
        ip(&format!("-n {name} addr add {}/24 dev eth0", space.address))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        ip(&format!("-n {name} link set lo up"))?;
        Ok(space)
    }

    /// A command line that runs in it; the number of the process stays that of its first program.
    #[must_use]
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name].map(str::to_owned).to_vec()
    }

    /// Cuts it off, but for its own loopback, until what is returned is dropped. The link itself
    /// stays up: without it the kernel would answer for the peer.
    ///
    /// # Errors
    /// Without nftables.
    pub fn cut(&self) -> anyhow::Result<BlackHole> {
        let name = Some(self.name.clone());
        BlackHole::dropping(name, "iifname != \"lo\" drop", "oifname != \"lo\" drop")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        tools::run("ip", &["link", "del", &self.link]).ok();
        tools::run("ip", &["netns", "del", &self.name]).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn a_black_hole_gives_neither_answer_nor_reset_and_heals() {
        let needs = [crate::Need::Root, crate::Need::Program("nft")];
        if crate::lacks(&needs) {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        let mut open = TcpStream::connect_timeout(&address, SHORT).expect("it connects");
        let (mut peer, _) = listener.accept().expect("the other end");
        peer.set_read_timeout(Some(SHORT)).expect("a limit");
        let hole = BlackHole::ports(&[address.port()]).expect("a hole");
        let refused = TcpStream::connect_timeout(&address, SHORT).expect_err("nobody answers");
        assert_eq!(refused.kind(), std::io::ErrorKind::TimedOut);
        open.write_all(b"x").expect("the connection stands");
        let mut byte = [0];
        let silence = peer.read(&mut byte).expect_err("nothing arrives").kind();
        assert_eq!(silence, std::io::ErrorKind::WouldBlock);
        drop(hole);
        TcpStream::connect_timeout(&address, Duration::from_secs(5)).expect("it is healed");
        peer.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        assert_eq!(peer.read(&mut byte).expect("sent again"), 1);
    }

    #[test]
    fn a_namespace_is_reached_until_it_is_cut() {
        if crate::lacks(&[
            crate::Need::Root,
            crate::Need::Program("ip"),
            crate::Need::Program("nft"),
        ]) {
            return;
        }
        let space = Namespace::new("213.7").expect("a namespace");
        let address = format!("{}:1", space.address).parse().expect("an address");
        let answer =
            || TcpStream::connect_timeout(&address, SHORT).expect_err("no listener").kind();
        assert_eq!(answer(), std::io::ErrorKind::ConnectionRefused);
        let cut = space.cut().expect("it is cut");
        assert_eq!(answer(), std::io::ErrorKind::TimedOut);
        drop(cut);
        let again = || (answer() == std::io::ErrorKind::ConnectionRefused).then_some(());
        crate::boot::until(Duration::from_secs(5), again).expect("it is joined again");
    }
}
