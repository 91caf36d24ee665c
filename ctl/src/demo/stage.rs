//! What the audience sees: lines that scroll by, and below them, on a terminal, the federation as
//! a live tree and the client's pulse.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use regent_proto::wire::{Federation, GetFederationRequest};
use tokio::task::AbortHandle;

use crate::clock::millis;
use crate::coordinators::{Client, Coordinators};
use crate::load::History;
use crate::render::{Live, Output};
use crate::screen::{Line, Tone, span};
use crate::status::tree;

/// How often the live region is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(200);
/// Writes that stand still for longer are worth a colour.
const STILL: Duration = Duration::from_millis(200);
/// Pause before another coordinator is asked for pictures.
const RETRY: Duration = Duration::from_millis(300);

/// The stage. Cheap to share.
#[derive(Debug, Clone)]
pub struct Stage {
    live: Arc<Mutex<Live>>,
    picture: Arc<Mutex<Option<Federation>>>,
    width: usize,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub struct Scene(AbortHandle);

impl Drop for Scene {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The client's pulse, as the region shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pulse {
    /// Rows acknowledged.
    pub acknowledged: usize,
    /// Rows in the last second.
    pub rate: usize,
    /// Time since the last one.
    pub still: Duration,
}

impl Pulse {
    /// From a history, at a time on its clock.
    #[must_use]
    pub fn of(history: &History, now: Duration) -> Self {
        let second = now.saturating_sub(Duration::from_secs(1));
        let older = history.acks.partition_point(|ack| ack.at < second);
        let last = history.acks.last().map_or(Duration::ZERO, |ack| ack.at);
        Self {
            acknowledged: history.acks.len(),
            rate: history.acks.len() - older,
            still: now.saturating_sub(last),
        }
    }

    fn line(self) -> Line {
        let line = Line::toned(Tone::Strong, "client")
            .pad_to(13)
            .put(Tone::Plain, format!("{} rows acknowledged, {}/s", self.acknowledged, self.rate));
        if self.still > STILL {
            line.put(Tone::Bad, format!(", writes stand still since {}", span(millis(self.still))))
        } else {
            line
        }
    }
}

impl Stage {
    /// An empty stage.
    #[must_use]
    pub fn new(output: &Output) -> Self {
        Self {
            live: Arc::new(Mutex::new(Live::new(output))),
            picture: Arc::new(Mutex::new(None)),
            width: output.size().1,
        }
    }

    /// Columns to write in.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Lines that scroll by.
    pub fn lines(&self, lines: &[Line]) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).lines(lines);
    }

    /// One sentence.
    pub fn say(&self, tone: Tone, text: impl AsRef<str>) {
        self.lines(&[Line::toned(tone, text)]);
    }

    /// The heading of the next act.
    pub fn act(&self, title: &str) {
        self.lines(&[Line::new(), Line::toned(Tone::Strong, format!("== {title}"))]);
    }

    /// The tree as it is now, where no live one is shown.
    pub fn still_picture(&self, output: &Output) {
        if output.is_live() {
            return;
        }
        let picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(federation) = picture {
            self.lines(&tree(&federation, true));
        }
    }

    /// Removes the live region.
    pub fn clear(&self) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps the picture of the federation fresh.
    #[must_use]
    pub fn watch(&self, coordinators: Coordinators) -> Scene {
        let picture = Arc::clone(&self.picture);
        let task = tokio::spawn(async move {
            loop {
                watch_once(coordinators.clone(), Arc::clone(&picture)).await;
                tokio::time::sleep(RETRY).await;
            }
        });
        Scene(task.abort_handle())
    }

    /// Draws the live region: the tree, and the client's pulse once there is one.
    #[must_use]
    pub fn draw(&self, pulse: impl Fn() -> Option<Pulse> + Send + 'static) -> Scene {
        let stage = self.clone();
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(DRAW_EVERY);
            loop {
                tick.tick().await;
                let picture = stage.picture.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let mut region = vec![Line::toned(Tone::Dim, "─".repeat(stage.width.min(80)))];
                if let Some(federation) = picture {
                    region.extend(tree(&federation, true));
                }
                region.extend(pulse().map(Pulse::line));
                stage.live.lock().unwrap_or_else(PoisonError::into_inner).draw(region);
            }
        });
        Scene(task.abort_handle())
    }
}

/// Takes pictures for as long as one coordinator sends them.
async fn watch_once(coordinators: Coordinators, picture: Arc<Mutex<Option<Federation>>>) {
    let request = GetFederationRequest { federation: coordinators.name() };
    let stream = coordinators
        .stream("watch the federation", |mut client: Client| {
            let request = request.clone();
            async move { client.watch_federation(request).await }
        })
        .await;
    // The story reports what fails; the picture only stays as it was.
    let Ok(mut stream) = stream else { return };
    while let Ok(Some(federation)) = stream.message().await {
        *picture.lock().unwrap_or_else(PoisonError::into_inner) = Some(federation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Ack;

    #[test]
    fn the_pulse_shows_rate_and_standstill() {
        let ack = |number, ms| Ack { number, at: Duration::from_millis(ms), attempts: 1 };
        let history =
            History { acks: vec![ack(0, 100), ack(1, 1500), ack(2, 1600)], ..History::default() };
        let pulse = Pulse::of(&history, Duration::from_millis(2_000));
        assert_eq!((pulse.acknowledged, pulse.rate), (3, 2));
        let text = pulse.line().text();
        assert_eq!(text, "client       3 rows acknowledged, 2/s, writes stand still since 400 ms");
    }
}
