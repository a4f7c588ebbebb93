//! What is wanted, what runs, and the file between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::fs::{rename, try_exists};
use tokio::sync::watch;
use tokio::time::Instant;

use super::check::Check;
use super::{Ask, News, Ready};
use crate::change::{Due, reloadable};
use crate::follow::{FollowError, Prepared};
use crate::peers::replace;
use crate::render::Document;
use crate::shape::Unknown;
use crate::status::Named;

/// After how long a refused configuration is tried again as it is: a certificate that was missing can have come.
const AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Desk<C> {
    file: PathBuf,
    check: C,
    says: watch::Sender<News>,
    /// The last one that was accepted.
    wanted: Option<Document>,
    running: Running,
    /// What the file has beyond what runs, until a reload has brought it or was refused.
    sent: Option<Document>,
    /// What was to be wanted.
    refused: Option<Refused>,
    /// What was to be reloaded.
    declined: Option<Refused>,
}

/// What the process has.
enum Running {
    /// There is none.
    Nothing,
    /// It started with this, and took reloads.
    This(Document),
    /// It started with the file of an earlier life, because what was wanted was refused.
    Earlier,
}

/// A configuration that nats-server does not take. None: the files it is made of could not be read.
struct Refused {
    document: Option<Document>,
    reason: Arc<str>,
    when: Instant,
}

impl<C: Check> Desk<C> {
    pub(super) fn new(file: PathBuf, check: C, says: watch::Sender<News>) -> Self {
        Self { file, check, says, wanted: None, running: Running::Nothing, sent: None, refused: None, declined: None }
    }

    /// Says what DNS was good for.
    pub(super) fn heard(&self, trouble: Option<&str>) {
        self.says.send_if_modified(|news| {
            if news.dns.as_deref() == trouble {
                return false;
            }
            match trouble {
                Some(trouble) => {
                    tracing::warn!(trouble, "DNS says less than all; what it does not say stays as it was");
                }
                None => tracing::info!("DNS says all peers again"),
            }
            news.dns = trouble.map(Arc::from);
            true
        });
    }

    /// Peers are not known yet. Those that were known once stay.
    pub(super) fn wait(&self, unknown: Unknown) {
        self.says.send_if_modified(|news| {
            let waits = Ready::Waiting(unknown);
            if news.ready == waits || news.ready == Ready::Ready {
                return false;
            }
            tracing::info!(reason = %unknown, "nats-server waits for its peers");
            news.ready = waits;
            true
        });
    }

    /// Makes `document` what is wanted, if nats-server would start with it, and has the process reload what it can.
    pub(super) async fn want(&mut self, document: Document, named: Named, clients: Vec<SocketAddr>) {
        if self.wanted.as_ref() == Some(&document) {
            self.refused = None;
        } else if !refused_lately(self.refused.as_ref(), &document) {
            let aside = self.beside("next");
            match self.try_as(&document, &aside).await {
                Ok(()) => {
                    (self.wanted, self.refused) = (Some(document), None);
                    self.says.send_modify(|news| {
                        (news.ready, news.peers, news.named) = (Ready::Ready, clients.len(), named);
                        news.clients = clients.into();
                    });
                }
                Err(reason) => self.refused = Some(refuse(self.refused.take(), Some(document), &reason)),
            }
        }
        self.bring().await;
        self.say();
    }

    /// There is nothing to make a document of.
    pub(super) fn unreadable(&mut self, reason: &str) {
        self.refused = Some(refuse(self.refused.take(), None, reason));
        self.say();
    }

    pub(super) async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Start(answer) => {
                // Who asked may be gone: then it asks again before it starts a process.
                drop(answer.send(self.start().await));
            }
            Ask::Reloaded(number, outcome) => self.reloaded(number, outcome).await,
        }
        self.say();
    }

    async fn bring(&mut self) {
        let (Running::This(running), Some(wanted)) = (&self.running, &self.wanted) else { return };
        let mix = reloadable(running, wanted);
        let there = self.sent.as_ref().unwrap_or(running);
        if mix == *there {
            self.declined = None;
            return;
        }
        if refused_lately(self.declined.as_ref(), &mix) {
            return;
        }
        let aside = self.beside("new");
        let tried = match self.try_as(&mix, &aside).await {
            Ok(()) => rename(&aside, &self.file).await.map_err(|error| self.disk(&error)),
            refused => refused,
        };
        match tried {
            Ok(()) => {
                self.sent = Some(mix);
                self.says.send_modify(|news| news.reload += 1);
            }
            Err(reason) => self.declined = Some(refuse(self.declined.take(), Some(mix), &reason)),
        }
    }

    /// The file for a process that starts. What is wanted goes before what an earlier life left; that is used only when
    /// something was refused, so that a mistake in a file does not keep a server down.
    async fn start(&mut self) -> Result<Prepared, FollowError> {
        let running = match (&self.wanted, &self.refused) {
            (Some(wanted), _) => {
                let written = replace(&self.file, wanted.text().into_bytes()).await;
                written.map_err(|source| FollowError::Write { path: self.file.clone(), source })?;
                Running::This(wanted.clone())
            }
            (None, Some(_)) if try_exists(&self.file).await.unwrap_or(false) => Running::Earlier,
            (None, Some(refused)) => return Err(FollowError::Refused(refused.reason.to_string())),
            (None, None) => {
                return Ok(Prepared::Waiting(match self.says.borrow().ready {
                    Ready::Waiting(unknown) => unknown.to_string(),
                    Ready::Asking | Ready::Ready => "DNS has not answered yet".to_owned(),
                }));
            }
        };
        (self.running, self.sent, self.declined) = (running, None, None);
        Ok(Prepared::File(self.file.clone()))
    }

    async fn reloaded(&mut self, number: u64, outcome: Result<(), String>) {
        // An older one is of no interest: what the file has since is under way.
        if number != self.says.borrow().reload {
            return;
        }
        let Some(sent) = self.sent.take() else { return };
        match outcome {
            Ok(()) => (self.running, self.declined) = (Running::This(sent), None),
            Err(reason) => {
                if let Running::This(running) = &self.running
                    && let Err(error) = replace(&self.file, running.text().into_bytes()).await
                {
                    tracing::warn!(reason = self.disk(&error), "the configuration cannot be put back");
                }
                self.declined = Some(refuse(self.declined.take(), Some(sent), &reason));
            }
        }
    }

    async fn try_as(&self, document: &Document, path: &Path) -> Result<(), String> {
        replace(path, document.text().into_bytes()).await.map_err(|error| self.disk(&error))?;
        self.check.check(path).await
    }

    /// Tells what is due and what was refused, if it is something else than before.
    fn say(&self) {
        let due = match (&self.running, &self.wanted) {
            (Running::Nothing, _) | (_, None) => Due::none(),
            (Running::This(running), Some(wanted)) => Due::between(running, wanted),
            (Running::Earlier, Some(wanted)) => Due::between(&Document::empty(), wanted),
        };
        let refused = self.refused.as_ref().or(self.declined.as_ref()).map(|refused| Arc::clone(&refused.reason));
        self.says.send_if_modified(|news| {
            if (&news.due, &news.refused) == (&due, &refused) {
                return false;
            }
            if news.due != due && !due.sections.is_empty() {
                tracing::info!(%due, "the configuration is another than the one that runs");
            }
            if news.refused.is_some() && refused.is_none() {
                tracing::info!("the configuration is accepted again");
            }
            (news.due, news.refused) = (due, refused);
            true
        });
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.file.as_os_str().to_owned();
        path.push(".");
        path.push(suffix);
        path.into()
    }

    fn disk(&self, error: &std::io::Error) -> String {
        format!("{}: {error}", self.file.display())
    }
}

/// Says it, unless it was said of the same.
fn refuse(before: Option<Refused>, document: Option<Document>, reason: &str) -> Refused {
    if before.is_none_or(|before| before.document != document || *before.reason != *reason) {
        tracing::warn!(reason, "a configuration is refused; the one before stays");
    }
    Refused { document, reason: Arc::from(reason), when: Instant::now() }
}

fn refused_lately(refused: Option<&Refused>, document: &Document) -> bool {
    refused.is_some_and(|refused| refused.document.as_ref() == Some(document) && refused.when.elapsed() < AGAIN)
}
