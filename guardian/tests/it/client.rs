//! A client that speaks PostgreSQL's protocol (version 3, "Message Flow") by hand: one that sends
//! statements without waiting for any answer is not to be had otherwise.

use std::io::{BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use regent_proto::time::BootTime;
use regent_test_sys::boot::now;

pub(crate) struct Client(UnixStream);

/// Acknowledgements as they come in.
#[derive(Clone, Default)]
pub(crate) struct Acknowledged(Arc<(AtomicU64, AtomicU64)>);

impl Acknowledged {
    pub(crate) fn count(&self) -> u64 {
        self.0.0.load(Ordering::SeqCst)
    }
    pub(crate) fn last(&self) -> BootTime {
        BootTime::from_nanos(self.0.1.load(Ordering::SeqCst))
    }
}

/// One message: its letter and what it says.
fn message(from: &mut impl Read) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let mut body = vec![0; usize::try_from(length).expect("small").saturating_sub(4)];
    from.read_exact(&mut body)?;
    Ok((head[0], body))
}

fn query(sql: &str) -> Vec<u8> {
    let length = u32::try_from(sql.len() + 5).expect("small");
    [b"Q".as_slice(), &length.to_be_bytes(), sql.as_bytes(), b"\0"].concat()
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Option<Self> {
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let words = b"user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(words.len() + 8).expect("small");
        let startup = [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), words].concat();
        stream.write_all(&startup).ok()?;
        let client = Self(stream);
        client.ready().then_some(client)
    }

    /// Reads until the server is ready for more; false when it is not going to be.
    fn ready(&self) -> bool {
        let mut stream = &self.0;
        loop {
            match message(&mut stream) {
                Ok((b'Z', _)) => return true,
                Ok((b'E', _)) | Err(_) => return false,
                Ok(_) => {}
            }
        }
    }

    pub(crate) fn run(&mut self, sql: &str) -> bool {
        self.0.write_all(&query(sql)).is_ok() && self.ready()
    }

    /// Sends one statement and waits for nothing.
    pub(crate) fn send(&mut self, sql: &str) {
        self.0.write_all(&query(sql)).expect("sent");
    }

    /// Pipelines one statement for ever, until the server goes away; acknowledgements are stamped.
    pub(crate) fn pipeline(self, sql: &'static str) -> Acknowledged {
        let acknowledged = Acknowledged::default();
        let seen = acknowledged.clone();
        let mut writer = self.0.try_clone().expect("dup");
        std::thread::spawn(move || {
            let many = query(sql).repeat(200);
            while writer.write_all(&many).is_ok() {}
        });
        std::thread::spawn(move || {
            let mut reader = BufReader::new(self.0);
            while let Ok((letter, _)) = message(&mut reader) {
                if letter == b'C' {
                    seen.0.1.store(now().nanos(), Ordering::SeqCst);
                    seen.0.0.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        acknowledged
    }
}
