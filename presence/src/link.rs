//! The link: what nodes say to each other and keep for each other, over NATS.
//!
//! ```text
//!   own log           stream presence-log-<node> of the local nats-server: batches of facts ([`log`])
//!   freshness         core subjects presence.d.<node> (changes, beats) and presence.sync.<node> (questions, answers)
//!   kept by the center bucket `presence`: each fact under its key, newest value, with its time to live ([`forward`])
//! ```
//! A subject for each node, not for each shard of users: the changes of one node are applied in one order, every node holds
//! all users and would follow every shard, and NATS can allow each node to speak on its own subject alone.
//!
//! Who misses a message on a core subject finds out by the next beat and asks; nothing here is relied on for order but what
//! the core checks itself. Peers are whoever is heard: where the nats-server finds them is its own affair, and DNS's.

mod bucket;
mod end;
mod forward;
mod key;
mod log;
mod retry;
mod service;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, ConnectOptions};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use kith_gossip_proto::NodeId;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{App, Center, Others};
use crate::config::{Role, Server};
use crate::core::board::To;
use crate::core::{Says, SessionName, UserId};
use crate::desk::Desk;
use crate::journal::{Facts, Journal};
use crate::shown::Shown;

use forward::Forwarder;
use log::Log;
use retry::Retry;

/// What a reply of a nats-server may take.
const REQUEST: Duration = Duration::from_secs(2);
/// How long others are listened to before reads are answered: every node beats within a second, and is asked and answers
/// within another. Also where the center said what there is: it may be an empty one that is being filled.
const LISTEN: Duration = Duration::from_millis(2_500);

/// The link of this node.
pub(crate) struct Link {
    server: Server,
    node: NodeId,
    log: Arc<Log>,
    forwarder: Arc<Forwarder>,
}

/// What was known before this start.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// What this node said.
    pub(crate) own: Facts,
    /// The last epoch in which it said anything.
    pub(crate) epoch: u64,
    /// What others said, as far as the center keeps it.
    pub(crate) others: BTreeMap<NodeId, Facts>,
    /// How long to listen before reads are answered.
    pub(crate) listen: Duration,
}

/// Why the link cannot be used.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The credentials or the URL.
    #[error("cannot use {what}: {reason}")]
    Config {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The nats-server is not there, or not yet.
    #[error("the nats-server is away: {0}")]
    Away(String),
    /// It is there, and does not do it.
    #[error("the nats-server refuses: {0}")]
    Refused(String),
}

impl Link {
    pub(crate) fn new(server: Server, node: NodeId, shown: Arc<Shown>, desk: Desk) -> Self {
        let log = Arc::new(Log::new(&node));
        let forwarder = Arc::new(Forwarder::new(node.clone(), shown, desk));
        Self { server, node, log, forwarder }
    }

    /// The log of this node.
    pub(crate) fn journal(&self) -> Arc<dyn Journal> {
        Arc::clone(&self.log) as Arc<dyn Journal>
    }

    /// What is asked of the center, and of other nodes.
    pub(crate) fn others(&self) -> Arc<dyn Others> {
        Arc::new(Asker { forwarder: Arc::clone(&self.forwarder), log: Arc::clone(&self.log) })
    }

    /// Connects, and reads what is known. Goes on trying until it has.
    pub(crate) async fn open(&self) -> Opened {
        let (mut retry, mut said) = (Retry::new(), String::new());
        loop {
            match self.try_open().await.map_err(|error| error.to_string()) {
                Ok(opened) => return opened,
                // Said once: a nats-server that is started beside us takes some tries.
                Err(error) if error == said => tracing::debug!(error, "presence is not linked yet"),
                Err(error) => {
                    tracing::warn!(url = %key::shown(&self.server.url), error, "presence is not linked yet");
                    said = error;
                }
            }
            tokio::time::sleep(retry.delay()).await;
        }
    }

    async fn try_open(&self) -> Result<Opened, LinkError> {
        let client = match self.log.client() {
            Some(client) => client,
            None => self.connect().await?,
        };
        let own = self.log.open(client.clone()).await?;
        let epoch = own.iter().filter_map(|(_, fact)| fact.version()).map(|version| version.epoch).max().unwrap_or(0);
        let others = bucket::read(&self.center_context(client), &self.node).await.unwrap_or_else(|error| {
            tracing::info!(%error, "the center does not say what there is; the other nodes will");
            BTreeMap::new()
        });
        tracing::info!(own = own.len(), nodes = others.len(), "presence is linked");
        Ok(Opened { own, epoch, others, listen: LISTEN })
    }

    async fn connect(&self) -> Result<Client, LinkError> {
        let mut options = ConnectOptions::new()
            .name(format!("kith-presence-{}", self.node))
            .no_echo()
            .ping_interval(Duration::from_secs(5))
            .connection_timeout(REQUEST)
            .request_timeout(Some(REQUEST))
            // Half a second at most: writes are refused for as long as nobody keeps them.
            .reconnect_delay_callback(|attempts| Duration::from_millis((50_u64 << attempts.min(4)).min(500)));
        if let Some(ca) = &self.server.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let Some(credentials) = &self.server.credentials {
            let read = options.credentials_file(credentials).await;
            options = read.map_err(|e| LinkError::Config { what: "the credentials", reason: e.to_string() })?;
        }
        options.connect(&self.server.url).await.map_err(|e| LinkError::Away(e.to_string()))
    }

    /// JetStream where the center is.
    fn center_context(&self, client: Client) -> jetstream::Context {
        match self.server.domain.as_str() {
            "" => jetstream::new(client),
            domain => jetstream::with_domain(client, domain),
        }
    }

    /// Says and hears until it is told that all is said.
    pub(crate) async fn run(
        self,
        app: Arc<App>,
        said: mpsc::Receiver<(To, Says)>,
        hear: mpsc::Sender<Says>,
        done: CancellationToken,
    ) -> Result<(), LinkError> {
        let client = self.log.client().ok_or_else(|| LinkError::Away("not opened".to_owned()))?;
        let mut tasks: JoinSet<Result<(), LinkError>> = JoinSet::new();
        let _ends_with_us = done.clone().drop_guard();
        for subject in [key::ALL.to_owned(), key::to(&self.node)] {
            let subscriber = client.subscribe(subject).await.map_err(|e| LinkError::Refused(e.to_string()))?;
            tasks.spawn(listen(subscriber, key::from(&self.node), hear.clone(), done.clone()));
        }
        let center = self.center_context(client.clone());
        let prefix = key::bucket_prefix(&self.server.domain);
        let role = self.server.role;
        let forwarder = Arc::clone(&self.forwarder);
        let forwarding = done.clone();
        tasks.spawn(async move {
            forwarder.run(forward::Place { center, prefix, role }, forwarding).await;
            Ok(())
        });
        tasks.spawn(service::serve(client.clone(), self.node.clone(), app, done.clone()));
        tasks.spawn(speak(client, self.node, said, self.forwarder, done.clone()));
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.map_err(|e| LinkError::Refused(e.to_string())).and_then(|ended| ended);
            if ended.is_err() {
                done.cancel();
            }
            result = result.and(ended);
        }
        result
    }
}

/// What is asked of the center, and of other nodes.
struct Asker {
    forwarder: Arc<Forwarder>,
    log: Arc<Log>,
}

impl Others for Asker {
    fn unforwarded(&self) -> usize {
        self.forwarder.unforwarded()
    }

    fn confirm(&self, user: &UserId) -> BoxFuture<'static, Center> {
        Arc::clone(&self.forwarder).confirm(user.clone()).boxed()
    }

    fn end(
        &self,
        node: &NodeId,
        user: &UserId,
        session: Option<&SessionName>,
        authorization: &str,
    ) -> BoxFuture<'static, bool> {
        match self.log.client() {
            Some(client) => end::ask(client, node, user, session, authorization.to_owned()).boxed(),
            None => std::future::ready(false).boxed(),
        }
    }
}

/// Hears what others say. What cannot be read is of a later release, or nonsense: it is passed over.
async fn listen(
    mut subscriber: async_nats::Subscriber,
    own: String,
    hear: mpsc::Sender<Says>,
    done: CancellationToken,
) -> Result<(), LinkError> {
    loop {
        // A message that is dropped here is found missing by the next beat.
        let message = tokio::select! {
            message = subscriber.next() => message,
            () = done.cancelled() => return Ok(()),
        };
        let Some(message) = message else { return Err(LinkError::Away("the subscription ended".to_owned())) };
        if message.subject.as_str() == own {
            continue;
        }
        match serde_json::from_slice::<Says>(&message.payload) {
            // In the name of another node nobody says anything to all.
            Ok(says)
                if message.subject.starts_with(key::PREFIX) && message.subject.as_str() != key::from(says.node()) =>
            {
                tracing::warn!(subject = %message.subject, node = %says.node(), "said in another node's name, not heard");
            }
            Ok(says) => drop(hear.send(says).await),
            Err(error) => tracing::debug!(%error, subject = %message.subject, "what a node says is not understood"),
        }
    }
}

/// Says to others what is to be said, and hands our own changes to the forwarder.
async fn speak(
    client: Client,
    node: NodeId,
    mut said: mpsc::Receiver<(To, Says)>,
    forwarder: Arc<Forwarder>,
    done: CancellationToken,
) -> Result<(), LinkError> {
    loop {
        // What was received is said before the next wait.
        let next = tokio::select! {
            biased;
            next = said.recv() => next,
            () = done.cancelled() => break,
        };
        let Some((to, says)) = next else { break };
        if let Says::Changes { prev, head, facts, .. } = &says {
            forwarder.take_change(*prev, *head, facts);
        }
        // Nothing is kept for when the link is back: the next beat says what was missed.
        if client.connection_state() == async_nats::connection::State::Connected {
            let payload = serde_json::to_vec(&says).expect("what is said is JSON");
            let subject = match &to {
                To::All => key::from(&node),
                To::Node(node) => key::to(node),
            };
            if let Err(error) = client.publish(subject, payload.into()).await {
                tracing::debug!(%error, "not said");
            }
        }
    }
    drop(tokio::time::timeout(Duration::from_millis(500), client.flush()).await);
    Ok(())
}

/// What the center is, as far as this node makes it.
fn replicas(role: Role) -> Option<usize> {
    match role {
        Role::Center { replicas } => Some(replicas),
        Role::Leaf => None,
    }
}
