//! Free ports for a lab.
//!
//! A port that is free now can be taken a moment later: by another lab that starts at the same
//! time, or, in the kernel's own range, as the source port of any outgoing connection while the
//! lab's process is down for a restart. So ports come from below that range, in blocks that a lab
//! claims by an abstract Unix socket, which goes with its owner whatever way that ends.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::exit::Failure;

use super::layout::PortWish;

const BLOCK: u16 = 64;
const FIRST: u16 = 10_240;
/// The kernel's range begins at 32768 unless somebody changed it.
const LAST: u16 = 32_000;

/// Ports of one lab.
#[derive(Debug)]
pub struct Ports {
    claims: Vec<UnixListener>,
    blocks: Vec<u16>,
    left: std::ops::Range<u16>,
    /// Where to begin to look, random, so that labs seldom meet.
    start: u16,
}

/// A claim on a block, for as long as the listener lives.
fn claim(block: u16) -> Option<UnixListener> {
    let address = SocketAddr::from_abstract_name(format!("regent-lab-ports-{block}")).ok()?;
    UnixListener::bind_addr(&address).ok()
}

/// Claims the blocks of a layout for the lab's owner.
pub fn claim_all(blocks: &[u16]) -> Result<Vec<UnixListener>, Failure> {
    blocks
        .iter()
        .map(|block| {
            claim(*block).ok_or_else(|| {
                Failure::error(format!(
                    "ports {block} to {}: another lab claimed them just now; try again",
                    block + BLOCK - 1
                ))
            })
        })
        .collect()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

impl Ports {
    /// No port yet; `random` decides where to look first.
    #[must_use]
    pub fn new(random: u16) -> Self {
        let blocks = (LAST - FIRST) / BLOCK;
        Self {
            claims: Vec::new(),
            blocks: Vec::new(),
            left: 0..0,
            start: FIRST + random % blocks * BLOCK,
        }
    }

    /// The port wished for, or any free one.
    pub fn take(&mut self, wish: &PortWish) -> Result<u16, Failure> {
        match wish.port {
            Some(port) if is_free(port) => Ok(port),
            Some(port) => Err(Failure::error(format!(
                "{}: port {port} on 127.0.0.1 is in use; name another port, or leave it out and \
                 a free one is chosen",
                wish.place
            ))
            .next(format!("ss -ltnp 'sport = :{port}'"))),
            None => self.any(),
        }
    }

    fn any(&mut self) -> Result<u16, Failure> {
        loop {
            for port in self.left.by_ref() {
                if is_free(port) {
                    return Ok(port);
                }
            }
            self.claim_another()?;
        }
    }

    fn claim_another(&mut self) -> Result<(), Failure> {
        let count = (LAST - FIRST) / BLOCK;
        for i in 0..count {
            let block = FIRST + ((self.start - FIRST) / BLOCK + i) % count * BLOCK;
            if self.blocks.contains(&block) {
                continue;
            }
            if let Some(listener) = claim(block) {
                self.claims.push(listener);
                self.blocks.push(block);
                self.left = block..block + BLOCK;
                return Ok(());
            }
        }
        Err(Failure::error(format!(
            "every block of ports between {FIRST} and {LAST} is claimed by a lab"
        ))
        .next("regentctl lab status"))
    }

    /// Ends the claims here; the lab's owner claims the same blocks.
    #[must_use]
    pub fn release(self) -> Vec<u16> {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_labs_never_share_a_block() {
        let any = PortWish { port: None, place: String::new() };
        let mut one = Ports::new(7);
        let mut other = Ports::new(7);
        let first = one.take(&any).expect("a port");
        let second = other.take(&any).expect("a port");
        assert_ne!(first / BLOCK, second / BLOCK);
        let blocks = one.release();
        assert!(claim_all(&blocks).is_ok());
        assert!(claim_all(&other.blocks).is_err(), "still claimed");
    }

    #[test]
    fn a_named_port_in_use_is_an_error_with_its_place() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let wish = PortWish { port: Some(port), place: "sites[0].nodes[1].rest_port of b".into() };
        let failure = Ports::new(0).take(&wish).expect_err("in use");
        assert!(failure.message.contains("sites[0].nodes[1].rest_port of b"), "{failure}");
        assert!(failure.message.contains(&port.to_string()), "{failure}");
    }
}
