//! What runs beside the questions: fetching ahead, and waiting for all that flies when the part is stopped.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Forwarder;
use super::cache::Key;
use super::table::Ahead;
use crate::query;

/// What drives what is fetched ahead, and waits for all that flies.
#[derive(Debug)]
pub(crate) struct Engine {
    forwarder: Forwarder,
    ahead: mpsc::Receiver<Ahead>,
}

impl Engine {
    pub(super) fn new(forwarder: Forwarder, ahead: mpsc::Receiver<Ahead>) -> Self {
        Self { forwarder, ahead }
    }

    /// Fetches ahead what workers see expiring, until told to stop; then nothing flies any more.
    pub(crate) async fn run(mut self, token: CancellationToken) {
        let shared = Arc::clone(&self.forwarder.0);
        loop {
            let ahead = tokio::select! {
                // Cancel-safe: a question is taken only where its arm runs.
                () = token.cancelled() => break,
                Some(ahead) = self.ahead.recv() => ahead,
                else => break,
            };
            self.fetch(&ahead);
        }
        shared.stop.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
    }

    /// Asks one question again, whose worker gets the answer by asking here once more when its own has expired.
    fn fetch(&self, ahead: &Ahead) {
        let Ok(query) = query::parse(&ahead.packet) else { return };
        if let Ok(Some(course)) = self.forwarder.0.course(&query) {
            self.forwarder.ahead(&Key::of(&query), &query, course);
        }
    }
}
