//! `regentctl status [--watch] [--fence]`.

use std::time::Duration;

use regent_proto::wire::{Federation, GetFederationRequest};

use crate::cli::Global;
use crate::coordinators::{Client, Coordinators};
use crate::exit::{Ending, Exit, Failure};
use crate::fence;
use crate::json;
use crate::render::{Live, Output};
use crate::screen::{Line, Tone};
use crate::signals;
use crate::status::screen;

/// How long to wait before another coordinator is asked for a stream.
const RETRY: Duration = Duration::from_secs(1);

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
        };
    }
    let federation = coordinators.federation().await?;
    output.json(&json::federation(&federation));
    let (rows, width) = output.size();
    output.lines(&screen(&federation, rows, width));
    if shown == Shown::WithFences {
        output.lines(&[Line::new()]);
        output.lines(&fence::section(&federation, width));
    }
    Ok(Exit::Done)
}

async fn follow(coordinators: &Coordinators, output: &Output) -> Ending {
    let mut live = Live::new(output);
    let mut seen = None;
    loop {
        let problem = match pictures(coordinators, output, &mut live, &mut seen).await {
            Ok(()) => Failure::error("the coordinator ended the stream"),
            Err(problem) if seen.is_none() => return Err(problem),
            Err(problem) => problem,
        };
        lost(&problem, output, &mut live, seen.as_ref());
        tokio::time::sleep(RETRY).await;
    }
}

/// Shows pictures as long as one coordinator sends them.
async fn pictures(
    coordinators: &Coordinators,
    output: &Output,
    live: &mut Live,
    seen: &mut Option<Federation>,
) -> Result<(), Failure> {
    let request = GetFederationRequest { federation: coordinators.name() };
    let mut stream = coordinators
        .stream("watch the federation", |mut client: Client| {
            let request = request.clone();
            async move { client.watch_federation(request).await }
        })
        .await?;
    loop {
        let picture = stream
            .message()
            .await
            .map_err(|status| crate::coordinators::refused("watch the federation", &status))?;
        let Some(federation) = picture else { return Ok(()) };
        output.json(&json::federation(&federation));
        show(&federation, output, live, None);
        *seen = Some(federation);
    }
}

fn show(federation: &Federation, output: &Output, live: &mut Live, note: Option<&str>) {
    let (rows, width) = output.size();
    let mut lines = screen(federation, rows.saturating_sub(1), width);
    if let Some(note) = note {
        lines.insert(0, Line::toned(Tone::Bad, note));
    }
    if output.is_live() {
        live.draw(lines);
    } else {
        lines.push(Line::new());
        live.lines(&lines);
    }
}

/// The last picture stays, marked as old.
fn lost(problem: &Failure, output: &Output, live: &mut Live, seen: Option<&Federation>) {
    let note = format!("OLD PICTURE: {}", problem.message);
    match seen {
        Some(federation) if output.is_live() => show(federation, output, live, Some(&note)),
        Some(_) | None => output.progress(note),
    }
}
