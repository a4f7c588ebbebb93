//! The store as reconcilers use it: rows in, rows out, by its HTTP API.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use kith_gossip_client::client::{Health, Readiness};
use kith_gossip_client::members::Member;
use kith_gossip_client::{Client, Statement, Value};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::retry::Retry;
use crate::wake::Wake;

/// A client of this node's store. Clones share their connections.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
}

/// The servers that have a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Those that belong.
    pub(crate) belonging: BTreeSet<String>,
    /// Those that an operator removed.
    pub(crate) removed: BTreeSet<String>,
}

/// Whether the store has heard what others know. A store that was begun anew is empty until then, and an empty table says
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaughtUp {
    /// It has, or there is nobody to hear.
    Yes,
    /// Not yet.
    NotYet,
}

impl Store {
    pub(crate) fn new(client: Client) -> Store {
        Store { client }
    }

    /// The rows of one SELECT.
    pub(crate) async fn rows(&self, select: Statement) -> Result<Vec<Vec<Value>>, Error> {
        Ok(self.client.query(select).await?.collect().await?)
    }

    /// Runs statements in one transaction. They are written so that doing it twice does no harm.
    pub(crate) async fn write(&self, statements: &[Statement]) -> Result<(), Error> {
        self.client.execute(statements).await?;
        Ok(())
    }

    /// The members, as this node hears them.
    pub(crate) async fn members(&self) -> Result<Vec<Member>, Error> {
        Ok(self.client.members().await?)
    }

    /// The servers, as their rows have them.
    pub(crate) async fn servers(&self) -> Result<Servers, Error> {
        let rows = self.rows(Statement::new("SELECT id, removed_at IS NOT NULL FROM servers")).await?;
        let mut servers = Servers::default();
        for cells in rows {
            match &cells[..] {
                [Value::Text(id), Value::Integer(0)] => servers.belonging.insert(id.clone()),
                [Value::Text(id), _] => servers.removed.insert(id.clone()),
                _ => false,
            };
        }
        Ok(servers)
    }

    /// Wakes somebody whenever a member changes, until the token is cancelled.
    pub(crate) async fn follow_members(self, wake: Wake, token: CancellationToken) {
        let go_on = async {
            let mut retry = Retry::new();
            loop {
                let mut events = self.client.watch_members();
                while let Some(Ok(_)) = events.next().await {
                    retry.succeeded();
                    wake.poke();
                }
                sleep(retry.delay()).await;
            }
        };
        token.run_until_cancelled(go_on).await;
    }

    /// Wakes somebody whenever a row of this SELECT changes, until the token is cancelled.
    pub(crate) async fn follow(self, select: Statement, wake: Wake, token: CancellationToken) {
        let go_on = async {
            let mut retry = Retry::new();
            loop {
                let mut events = self.client.follow(select.clone());
                while let Some(Ok(_)) = events.next().await {
                    retry.succeeded();
                    wake.poke();
                }
                sleep(retry.delay()).await;
            }
        };
        token.run_until_cancelled(go_on).await;
    }

    /// How the store says that it is.
    pub(crate) async fn health(&self) -> Result<Health, Error> {
        Ok(self.client.health().await?)
    }

    /// Whether an absent row is known to be absent.
    pub(crate) async fn caught_up(&self) -> Result<CaughtUp, Error> {
        Ok(match self.client.ready().await? {
            Readiness::Ready => CaughtUp::Yes,
            Readiness::Waiting(_) => CaughtUp::NotYet,
        })
    }
}
