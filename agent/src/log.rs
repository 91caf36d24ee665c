//! The log never holds anybody up: lines go to a thread of their own through a bounded queue.
//!
//! Whoever reads the log may stop reading, and a full pipe blocks its writer. The renewal thread logs
//! too, so a blocked log would cost the lease. Lines that find no room are dropped and counted, and
//! the count is the first thing written once there is room again.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// How many lines wait at most.
const LINES: usize = 4096;

enum Order {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Where log lines go.
#[derive(Debug, Clone)]
pub struct Log {
    orders: SyncSender<Order>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    /// Starts the thread that writes to `out`.
    pub fn start(out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (orders, receiver) = sync_channel(LINES);
        let log = Self { orders, dropped: Arc::default() };
        let dropped = Arc::clone(&log.dropped);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_all(&receiver, &dropped, out))?;
        Ok(log)
    }

    /// Waits until what was logged so far is written, at most this long.
    pub fn flush(&self, bound: Duration) {
        let (done, wait) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            // Too late is as good as not at all: the log does not hold the end up.
            wait.recv_timeout(bound).ok();
        }
    }
}

fn write_all(orders: &Receiver<Order>, dropped: &AtomicU64, mut out: impl Write) {
    while let Ok(order) = orders.recv() {
        let lost = dropped.swap(0, Ordering::SeqCst);
        // Nobody is left to tell that the log cannot be written.
        if lost > 0 {
            writeln!(out, "({lost} log lines were dropped: nobody read the log)").ok();
        }
        match order {
            Order::Line(line) => out.write_all(&line).and_then(|()| out.flush()).ok(),
            Order::Flush(done) => done.try_send(()).ok(),
        };
    }
}

/// One line in the making: the subscriber writes it whole.
#[derive(Debug)]
pub struct Line<'a>(&'a Log);

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        if self.0.orders.try_send(Order::Line(text.to_vec())).is_err() {
            self.0.dropped.fetch_add(1, Ordering::SeqCst);
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_log_that_nobody_reads_holds_nobody_up() {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let log = Log::start(writer).expect("a thread");
        let line = vec![b'x'; 1024];
        // Far more than pipe and queue take together.
        for _ in 0..3 * LINES {
            log.make_writer().write_all(&line).expect("never an error");
        }
        assert!(log.dropped.load(Ordering::SeqCst) > 0);
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        // There is room again once some lines were read.
        while log.orders.try_send(Order::Line(b"the end".to_vec())).is_err() {
            std::thread::yield_now();
        }
        log.flush(Duration::from_secs(10));
        drop(log);
        let text = read.join().expect("the reader").expect("text");
        assert!(text.contains("log lines were dropped") && text.ends_with("the end"));
    }
}
