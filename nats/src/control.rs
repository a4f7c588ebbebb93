//! What an operator has the runner do, at a socket that only its owner reaches: a restart, and the removal of a member
//! of JetStream's group. HTTP, so that curl will do.
//!
//! | request | answer |
//! |---|---|
//! | `POST /restart` | 202: when it is this server's turn |
//! | `POST /restart?lease=no` | 202: at once |
//! | `POST /peers/NAME/remove` | 200: it is removed; 409, with why it stays |

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::{Path as Named, Query, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::group::Group;
use crate::identity;
use crate::turn::{Access, Order, Reason};

/// The socket, in the runner's own folder.
const SOCKET: &str = "control.sock";

/// Where the runner of this store listens.
#[must_use]
pub fn socket(store: &Path) -> PathBuf {
    identity::folder(store).join(SOCKET)
}

/// What answers.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) system: Access,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Leased {
    #[default]
    Yes,
    No,
}

#[derive(Debug, Deserialize)]
struct Restart {
    #[serde(default)]
    lease: Leased,
}

/// Binds it. What an earlier runner left there is taken away: of two runners of one store the second is refused before, by its lock.
pub(crate) fn bind(store: &Path) -> io::Result<UnixListener> {
    let path = socket(store);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers until the token is cancelled.
pub(crate) async fn serve(listener: UnixListener, control: Control, token: CancellationToken) {
    let routes =
        Router::new().route("/restart", post(restart)).route("/peers/{name}/remove", post(remove)).with_state(control);
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(token.cancelled_owned()).await {
        tracing::error!(%error, "orders of an operator are heard no more");
    }
}

async fn restart(State(control): State<Control>, Query(asked): Query<Restart>) -> (StatusCode, String) {
    let (order, says) = match asked.lease {
        Leased::Yes => (Order::Restart(Reason::Operator), "it restarts when it is its turn"),
        Leased::No => (Order::RestartWithoutLease, "it restarts at once"),
    };
    match control.orders.try_send(order) {
        Ok(()) => (StatusCode::ACCEPTED, says.to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("the runner is busy: {error}")),
    }
}

async fn remove(State(control): State<Control>, Named(name): Named<String>) -> (StatusCode, String) {
    let removed = match control.system.connect().await {
        Ok(system) => Group::remove(&system, &name).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match removed {
        Ok(()) => {
            tracing::warn!(name, "removed from JetStream's group by an operator");
            (StatusCode::OK, format!("{name} is removed from JetStream's group"))
        }
        Err(reason) => (StatusCode::CONFLICT, reason),
    }
}
