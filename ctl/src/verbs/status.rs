//! `regentctl status [--watch] [--fence]`.

use std::time::Duration;

use regent_proto::wire::{Federation, GetFederationRequest};
use tokio::sync::mpsc;

use crate::cli::Global;
use crate::coordinators::{self, Client, Coordinators};
use crate::exit::{Ending, Exit, Failure};
use crate::render::{Live, Output};
use crate::screen::{self, Line, Tone};
use crate::{clock, fence, json, signals, status};

/// How long to wait before another coordinator is asked for a stream.
const RETRY: Duration = Duration::from_secs(1);
/// Coordinators send a picture every two seconds at least; one of this age says so.
const OLD: Duration = Duration::from_secs(5);
/// A coordinator that sends none for so long hangs, or the way to it is cut: another one is asked.
const SILENT: Duration = Duration::from_secs(15);
/// How often the age of a picture that is not replaced is drawn again.
const REDRAW: Duration = Duration::from_secs(1);

/// What is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// One picture.
    Once,
    /// One picture, and every node's fence.
    WithFences,
    /// Each new picture, until interrupted.
    Followed,
}

/// Shows the federation.
pub async fn run(shown: Shown, global: &Global, output: &Output) -> Ending {
    let coordinators = Coordinators::from_options(global)?;
    if shown == Shown::Followed {
        return tokio::select! {
            ending = follow(&coordinators, output) => ending,
            () = signals::interrupted() => Ok(Exit::Done),
            // Nobody is left to watch for: the end of a program that writes into a closed pipe.
            () = output.reader_gone() => Ok(Exit::Done),
        };
    }
    let federation = coordinators.federation().await?;
    output.json(&json::federation(&federation));
    let (rows, width) = output.size();
    output.lines(&status::screen(&federation, rows, width));
    if shown == Shown::WithFences {
        output.lines(&[Line::new()]);
        output.lines(&fence::section(&federation, width));
    }
    Ok(Exit::Done)
}

/// What the coordinators send, or why nothing comes at present.
type News = Result<Federation, Failure>;

async fn follow(coordinators: &Coordinators, output: &Output) -> Ending {
    // Of one place: who does not read slows the coordinator's stream, and nothing piles up here.
    let (send, news) = mpsc::channel(1);
    tokio::select! {
        ending = draw(news, output) => ending,
        () = receive(coordinators, send) => Ok(Exit::Done),
    }
}

/// Receives pictures from one coordinator after the other, for as long as somebody takes them.
async fn receive(coordinators: &Coordinators, send: mpsc::Sender<News>) {
    loop {
        let problem = match pictures(coordinators, &send).await {
            Ok(()) => Failure::error("the coordinator ended the stream"),
            Err(problem) => problem,
        };
        if send.send(Err(problem)).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Passes pictures on for as long as one coordinator sends them.
async fn pictures(coordinators: &Coordinators, send: &mpsc::Sender<News>) -> Result<(), Failure> {
    let request = GetFederationRequest { federation: coordinators.name() };
    let mut stream = coordinators
        .stream("watch the federation", |mut client: Client| {
            let request = request.clone();
            async move { client.watch_federation(request).await }
        })
        .await?;
    loop {
        let message = tokio::time::timeout(SILENT, stream.message()).await.map_err(|_| {
            Failure::new(Exit::Unknown, format!("the coordinator has been silent for {SILENT:?}"))
        })?;
        let picture =
            message.map_err(|status| coordinators::refused("watch the federation", &status))?;
        let Some(federation) = picture else { return Ok(()) };
        if send.send(Ok(federation)).await.is_err() {
            return Ok(());
        }
    }
}

/// Draws each picture; one that is not replaced stays, and says how old it is.
async fn draw(mut news: mpsc::Receiver<News>, output: &Output) -> Ending {
    let mut live = Live::new(output);
    let mut last = None;
    let mut problem = None;
    loop {
        match tokio::time::timeout(REDRAW, news.recv()).await {
            Ok(None) => return Ok(Exit::Done),
            Ok(Some(Ok(federation))) => {
                output.json(&json::federation(&federation));
                if !output.is_live() {
                    live.lines(&[lines(&federation, output, None), vec![Line::new()]].concat());
                }
                last = Some((federation, clock::now()));
                problem = None;
            }
            Ok(Some(Err(failure))) if last.is_none() => return Err(failure),
            Ok(Some(Err(failure))) => {
                if !output.is_live() {
                    output.progress(format!("OLD PICTURE: {}", failure.message));
                }
                problem = Some(failure.message);
            }
            Err(_) => {}
        }
        if let Some((federation, at)) = &last {
            let note = note(problem.as_deref(), clock::now().duration_since(*at));
            live.draw(lines(federation, output, note));
        }
    }
}

/// What stands above a picture that is old.
fn note(problem: Option<&str>, age: Duration) -> Option<String> {
    let ago = screen::age(clock::millis(age));
    match problem {
        Some(problem) => Some(format!("OLD PICTURE, of {ago} ago: {problem}")),
        None if age > OLD => Some(format!("OLD PICTURE, of {ago} ago")),
        None => None,
    }
}

fn lines(federation: &Federation, output: &Output, note: Option<String>) -> Vec<Line> {
    let (rows, width) = output.size();
    let note = note.map(|note| Line::toned(Tone::Bad, note));
    note.into_iter().chain(status::screen(federation, rows.saturating_sub(1), width)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_says_how_old_it_is_once_none_follows() {
        let seconds = Duration::from_secs;
        assert_eq!(note(None, seconds(2)), None);
        assert_eq!(note(None, seconds(6)).as_deref(), Some("OLD PICTURE, of 6 s ago"));
        assert_eq!(
            note(Some("no coordinator answers"), seconds(2)).as_deref(),
            Some("OLD PICTURE, of 2 s ago: no coordinator answers")
        );
    }
}
