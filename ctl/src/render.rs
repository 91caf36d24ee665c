//! The only place that prints.
//!
//! Results go to standard output, progress and failures to standard error. Colour only on a
//! terminal without `NO_COLOR`. When the reader of a pipe has gone, printing stops silently and
//! the verb goes on: `regentctl switchover … | head` must not end an operation half-watched. A verb
//! that only shows asks for it with [`Output::reader_gone`], and ends.

use std::io::{BufRead, IsTerminal, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use serde_json::Value;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use crate::environment;
use crate::exit::Failure;
use crate::screen::{Line, Tone};

/// What standard output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Tables and sentences for people.
    #[default]
    Text,
    /// JSON for programs, one document per line where there are several.
    Json,
}

/// Where a verb's results go.
#[derive(Debug, Clone)]
pub struct Output {
    format: Format,
    colour: bool,
    terminal: bool,
    /// Told when a result could not be written.
    unread: Arc<Notify>,
}

impl Output {
    /// For this process's standard output.
    #[must_use]
    pub fn new(format: Format) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && !environment::no_colour();
        Self { format, colour, terminal, unread: Arc::default() }
    }

    /// The format asked for.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether a person sees this on a terminal that can be redrawn.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.terminal && self.format == Format::Text
    }

    /// As if there were no terminal (`--plain`).
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.terminal = false;
        self.colour = false;
        self
    }

    /// Rows and columns of the terminal; 24×80 without one.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        if !self.terminal {
            return (24, 80);
        }
        match rustix::termios::tcgetwinsize(std::io::stdout()) {
            Ok(size) if size.ws_row > 3 && size.ws_col > 20 => {
                (usize::from(size.ws_row), usize::from(size.ws_col))
            }
            Ok(_) | Err(_) => (24, 80),
        }
    }

    /// Returns once whoever read standard output has gone. Never where that is a file.
    pub async fn reader_gone(&self) {
        let closed = async {
            // Nothing is written by this copy, only an error is waited for: so the file stays a
            // blocking one, as others who hold it expect. What can't be waited for is no pipe.
            if let Ok(copy) = std::io::stdout().as_fd().try_clone_to_owned()
                && let Ok(pipe) = pipe::Sender::from_owned_fd_unchecked(copy)
                && pipe.ready(Interest::ERROR).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = closed => {}
            () = self.unread.notified() => {}
        }
    }

    /// Writes a result, and gives up silently when nobody reads.
    fn write(&self, text: &str) {
        if put(&mut std::io::stdout().lock(), text).is_err() {
            self.unread.notify_one();
        }
    }

    /// Prints lines for people; nothing in JSON.
    pub fn lines(&self, lines: &[Line]) {
        if self.format == Format::Json {
            return;
        }
        let mut text = String::new();
        for line in lines {
            text.push_str(&self.paint(line));
            text.push('\n');
        }
        self.write(&text);
    }

    /// Prints one line for people.
    pub fn line(&self, line: Line) {
        self.lines(&[line]);
    }

    /// Prints one sentence for people.
    pub fn say(&self, text: impl AsRef<str>) {
        self.lines(&[Line::plain(text)]);
    }

    /// Prints one JSON document; nothing in text.
    pub fn json(&self, value: &Value) {
        if self.format == Format::Json {
            self.write(&format!("{value}\n"));
        }
    }

    /// Prints text as it is, whatever the format: a file or script that was asked for.
    pub fn raw(&self, text: &str) {
        self.write(text);
    }

    /// A line about progress, on standard error.
    pub fn progress(&self, text: impl AsRef<str>) {
        aside(&format!("{}\n", Line::plain(text).text()));
    }

    /// Prints a failure; in JSON also as a document.
    pub fn failure(&self, failure: &Failure) {
        let next = failure.next.as_ref().map(|next| format!("\nnext: {next}")).unwrap_or_default();
        aside(&format!("regentctl: {}{next}\n", failure.message));
        self.json(&serde_json::json!({
            "error": failure.message, "next": failure.next, "exit": failure.exit.code(),
        }));
    }

    /// Asks a question on the terminal. `None` when there is no person to ask.
    #[must_use]
    pub fn ask(&self, question: &str) -> Option<bool> {
        if !self.is_live() || !std::io::stdin().is_terminal() {
            return None;
        }
        self.write(&format!("{question} [y/N] "));
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).ok()?;
        Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
    }

    fn paint(&self, line: &Line) -> String {
        if !self.colour {
            return line.text();
        }
        let mut text = String::new();
        for piece in line.pieces() {
            match code(piece.tone) {
                Some(code) => text.push_str(&format!("\x1b[{code}m{}\x1b[0m", piece.text)),
                None => text.push_str(&piece.text),
            }
        }
        text
    }
}

fn code(tone: Tone) -> Option<&'static str> {
    match tone {
        Tone::Plain => None,
        Tone::Strong => Some("1"),
        Tone::Dim => Some("2"),
        Tone::Good => Some("32"),
        Tone::Warn => Some("33"),
        Tone::Bad => Some("1;31"),
    }
}

fn put(to: &mut impl Write, text: &str) -> std::io::Result<()> {
    to.write_all(text.as_bytes()).and_then(|()| to.flush())
}

/// Writes to standard error.
fn aside(text: &str) {
    // What the verb does matters more than telling nobody.
    put(&mut std::io::stderr().lock(), text).ok();
}

/// A region at the bottom of the terminal that is drawn again and again, with ordinary lines
/// scrolling above it. Without a terminal the region is not shown at all.
#[derive(Debug)]
pub struct Live {
    output: Output,
    drawn: usize,
    region: Vec<Line>,
}

impl Live {
    /// An empty region.
    #[must_use]
    pub fn new(output: &Output) -> Self {
        Self { output: output.clone(), drawn: 0, region: Vec::new() }
    }

    /// Replaces the region.
    pub fn draw(&mut self, region: Vec<Line>) {
        if self.output.is_live() && region != self.region {
            self.region = region;
            self.paint(&[]);
        }
    }

    /// Prints lines above the region.
    pub fn lines(&mut self, lines: &[Line]) {
        if self.output.is_live() {
            self.paint(lines);
        } else {
            self.output.lines(lines);
        }
    }

    /// Removes the region.
    pub fn clear(&mut self) {
        self.region.clear();
        if self.drawn > 0 {
            self.paint(&[]);
        }
    }

    fn paint(&mut self, above: &[Line]) {
        let (rows, columns) = self.output.size();
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push_str("\r\x1b[J");
        for line in above {
            text.push_str(&self.output.paint(line));
            text.push('\n');
        }
        // One row less than there are, or the terminal scrolls and the cursor is lost.
        let shown = self.region.len().min(rows.saturating_sub(1));
        for line in self.region.iter().take(shown) {
            text.push_str(&self.output.paint(&line.clone().cut(columns)));
            text.push('\n');
        }
        self.drawn = shown;
        self.output.write(&text);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.clear();
    }
}
