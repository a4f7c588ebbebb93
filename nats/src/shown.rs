//! What is known of the configuration, written onto the board.

use std::sync::Arc;

use tokio::sync::watch;

use crate::board::Board;
use crate::discovery::News;
use crate::status::Following;

/// Writes what changes, until nobody says anything any more.
pub(crate) async fn show(board: Board, mut news: watch::Receiver<News>, mut waits: watch::Receiver<Option<Arc<str>>>) {
    loop {
        let said = news.borrow_and_update().clone();
        let turn = waits.borrow_and_update().clone();
        let text = |text: Option<Arc<str>>| text.map(|text| text.to_string());
        board.write(|status| {
            status.following = Following {
                peers: said.peers,
                named: said.named,
                dns: text(said.dns),
                due: (!said.due.sections.is_empty()).then(|| said.due.to_string()),
                refused: text(said.refused),
                turn: text(turn),
            };
        });
        // Each holds its last value: what changes between two looks is seen at the next.
        let goes_on = tokio::select! {
            changed = news.changed() => changed.is_ok(),
            changed = waits.changed() => changed.is_ok(),
        };
        if !goes_on {
            return;
        }
    }
}
