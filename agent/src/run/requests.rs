//! What people asked for over REST, from its arrival to its answer. The loop hears of each once, and
//! whoever asked waits on a channel of their own.

use tokio::sync::mpsc;

use super::Agent;
use crate::api::requests::Asked;
use crate::decide::view::{Answer, Memory, PostgresView, Request, RequestsView};
use crate::observe::postgres::Extra;

/// The requests that were not answered yet.
pub(super) struct Requests {
    arriving: mpsc::Receiver<Asked>,
    open: Vec<(u64, Asked)>,
    last: u64,
}

impl Requests {
    /// Those that come in here.
    pub(super) fn new(arriving: mpsc::Receiver<Asked>) -> Self {
        Self { arriving, open: Vec::new(), last: 0 }
    }

    /// Waits for one. Nothing is lost where something else wakes the loop first.
    pub(super) async fn arrive(&mut self) {
        match self.arriving.recv().await {
            Some(asked) => self.enter(asked),
            None => std::future::pending().await,
        }
    }

    fn enter(&mut self, asked: Asked) {
        self.last += 1;
        tracing::info!(number = self.last, ask = ?asked.ask, "a request");
        self.open.push((self.last, asked));
    }

    fn unanswered(&mut self) -> Vec<Request> {
        while let Ok(asked) = self.arriving.try_recv() {
            self.enter(asked);
        }
        let open = self.open.iter();
        open.map(|(number, asked)| Request { number: *number, ask: asked.ask.clone() }).collect()
    }

    /// Answers one; whoever asked may have gone.
    pub(super) fn answer(&mut self, number: u64, answer: Answer) {
        tracing::info!(number, ?answer, "a request is answered");
        for (_, asked) in self.open.extract_if(.., |(open, _)| *open == number) {
            asked.answer.send(answer).ok();
        }
    }
}

impl Agent {
    /// Nobody waits for the end of a new copy, nor of a restart that was scheduled.
    pub(super) fn say_what_is_over(&self, next: &Memory) {
        if let (Some(was), None) = (&self.memory.request, &next.request) {
            tracing::info!(task = ?was.task, stage = ?was.stage, "a request is over");
        }
        if let (Some(was), None) = (&self.memory.scheduled_restart, &next.scheduled_restart) {
            let begins = next.request.is_some();
            tracing::info!(schedule = %was.schedule, begins, "a restart is scheduled no more");
        }
    }

    /// What the decision hears.
    pub(super) fn requests_view(&mut self, postgres: &PostgresView, extra: &Extra) -> RequestsView {
        let under_way = self.memory.request.as_ref();
        RequestsView {
            restarting: under_way.is_some_and(crate::decide::view::UnderWay::restarts),
            asked: self.requests.unanswered(),
            started: extra.started.clone(),
            pending_restart: !postgres.configuration.pending_restart.is_empty(),
        }
    }
}
