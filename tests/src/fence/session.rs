//! One connection to one server, spoken by hand, so that every message's arrival can be stamped
//! as it comes off the socket: no runtime, no queue and no other task lies between.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::IsNull;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use regent_proto::time::BootTime;

use regent_guardian::clock::boot_time;

/// How long one read of the socket may block: bounds how late a client sees that it shall end.
pub const READ_SLICE: Duration = Duration::from_millis(50);
/// Longest wait for a connection and for a short answer.
const PATIENCE: Duration = Duration::from_millis(1500);
/// PostgreSQL's `int8` (pg_type.dat).
const INT8: u32 = 20;

/// What a server said, as far as a writer cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// ReadyForQuery: everything up to the last Sync is done.
    Ready,
    /// A notice's text.
    Notice(String),
    /// An error: SQLSTATE and text.
    Error(String, String),
    /// The first column of a row.
    Value(Option<String>),
}

/// A session.
#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    received: BytesMut,
    unsent: BytesMut,
}

fn broken(problem: impl Into<String>) -> io::Error {
    io::Error::other(problem.into())
}

/// SQLSTATE and text of an error or notice.
fn read_fields(mut fields: ErrorFields<'_>) -> io::Result<(String, String)> {
    let (mut code, mut text) = (String::new(), String::new());
    while let Some(field) = fields.next()? {
        match field.type_() {
            b'C' => code = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            b'M' => text = String::from_utf8_lossy(field.value_bytes()).into_owned(),
            _ => {}
        }
    }
    Ok((code, text))
}

impl Session {
    /// Connects as role `app`.
    ///
    /// # Errors
    /// When the server does not let us in, in bounded time.
    pub fn open(port: u16, password: &str) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_SLICE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut session = Self { stream, received: BytesMut::new(), unsent: BytesMut::new() };
        session.log_in(password)?;
        Ok(session)
    }

    fn log_in(&mut self, password: &str) -> io::Result<()> {
        let parameters = [
            ("user", "app"),
            ("database", "postgres"),
            ("application_name", "fence"),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut self.unsent)?;
        self.send()?;
        let mut scram = None;
        let begun = boot_time();
        loop {
            let Some(message) = self.message(begun)? else { continue };
            match message {
                Message::AuthenticationSasl(_) => {
                    let scram = scram.insert(ScramSha256::new(
                        password.as_bytes(),
                        ChannelBinding::unsupported(),
                    ));
                    let first = scram.message().to_vec();
                    frontend::sasl_initial_response(SCRAM_SHA_256, &first, &mut self.unsent)?;
                    self.send()?;
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(|| broken("SASL out of order"))?;
                    scram.update(body.data())?;
                    let next = scram.message().to_vec();
                    frontend::sasl_response(&next, &mut self.unsent)?;
                    self.send()?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let scram = scram.as_mut().ok_or_else(|| broken("SASL out of order"))?;
                    scram.finish(body.data())?;
                }
                Message::ErrorResponse(body) => {
                    let (code, text) = read_fields(body.fields())?;
                    return Err(broken(format!("{code}: {text}")));
                }
                Message::ReadyForQuery(_) => return Ok(()),
                // Parameters, the cancel key, "authentication ok".
                _ => {}
            }
        }
    }

    /// The next message of a dialogue that began at `begun`; `None` when nothing came for a slice.
    fn message(&mut self, begun: BootTime) -> io::Result<Option<Message>> {
        if let Some(message) = Message::parse(&mut self.received)? {
            return Ok(Some(message));
        }
        if boot_time().since(begun) > PATIENCE {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.fill()?;
        Message::parse(&mut self.received)
    }

    /// Reads what is there, waiting for at most a slice. Gives the instant right after the read.
    fn fill(&mut self) -> io::Result<BootTime> {
        let mut bytes = [0_u8; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let at = boot_time();
                self.received.extend_from_slice(&bytes[..count]);
                Ok(at)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Ok(boot_time())
            }
            Err(e) => Err(e),
        }
    }

    /// Everything that arrives within a slice, with the instant of its arrival.
    ///
    /// # Errors
    /// When the session is over. What arrived before its end was given by earlier calls.
    pub fn arrived(&mut self) -> io::Result<(BootTime, Vec<Said>)> {
        let at = self.fill()?;
        let mut said = Vec::new();
        while let Some(message) = Message::parse(&mut self.received)? {
            match message {
                Message::ReadyForQuery(_) => said.push(Said::Ready),
                Message::NoticeResponse(body) => {
                    said.push(Said::Notice(read_fields(body.fields())?.1));
                }
                Message::ErrorResponse(body) => {
                    let (code, text) = read_fields(body.fields())?;
                    said.push(Said::Error(code, text));
                }
                Message::DataRow(body) => {
                    let range = body.ranges().next()?.flatten();
                    let text = range.and_then(|range| body.buffer().get(range));
                    said.push(Said::Value(text.map(|t| String::from_utf8_lossy(t).into_owned())));
                }
                _ => {}
            }
        }
        Ok((at, said))
    }

    /// Sends what was put in.
    ///
    /// # Errors
    /// When the server takes nothing any more.
    pub fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.unsent)?;
        self.unsent.clear();
        Ok(())
    }

    /// Puts in a simple query.
    ///
    /// # Errors
    /// When it can't be encoded.
    pub fn query(&mut self, text: &str) -> io::Result<()> {
        frontend::query(text, &mut self.unsent)
    }

    /// The first value that a query gives.
    ///
    /// # Errors
    /// The server's error, or no answer in bounded time.
    pub fn ask(&mut self, text: &str) -> io::Result<String> {
        self.query(text)?;
        self.send()?;
        let begun = boot_time();
        let mut value = None;
        loop {
            for said in self.arrived()?.1 {
                match said {
                    Said::Value(found) => value = value.or(found),
                    Said::Error(code, text) => return Err(broken(format!("{code}: {text}"))),
                    Said::Ready => return value.ok_or_else(|| broken("no value")),
                    Said::Notice(_) => {}
                }
            }
            if boot_time().since(begun) > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Prepares the insert of rows of one client.
    ///
    /// # Errors
    /// When the server does not take it.
    pub fn prepare_insert(&mut self, client: u32) -> io::Result<()> {
        let text = format!("INSERT INTO fence.rows (client, n) VALUES ({client}, $1)");
        frontend::parse("put", &text, [INT8], &mut self.unsent)?;
        frontend::sync(&mut self.unsent);
        self.send()?;
        let begun = boot_time();
        loop {
            for said in self.arrived()?.1 {
                match said {
                    Said::Ready => return Ok(()),
                    Said::Error(code, text) => return Err(broken(format!("{code}: {text}"))),
                    Said::Notice(_) | Said::Value(_) => {}
                }
            }
            if boot_time().since(begun) > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Puts in one insert, a transaction of its own.
    ///
    /// # Errors
    /// When it can't be encoded.
    pub fn insert(&mut self, number: u64) -> io::Result<()> {
        let number = i64::try_from(number).map_err(io::Error::other)?;
        let bound = frontend::bind(
            "",
            "put",
            [1],
            [number],
            |value, buffer| {
                buffer.extend_from_slice(&value.to_be_bytes());
                Ok(IsNull::No)
            },
            [1],
            &mut self.unsent,
        );
        bound.map_err(|_| broken("the number can't be bound"))?;
        frontend::execute("", 0, &mut self.unsent)?;
        frontend::sync(&mut self.unsent);
        Ok(())
    }
}
