//! The store as reconcilers use it: rows in, rows out, by its HTTP API.

use kith_gossip_client::client::{Health, Readiness};
use kith_gossip_client::members::Member;
use kith_gossip_client::{Client, Statement, Value};

use crate::error::Error;

/// A client of this node's store. Clones share their connections.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    client: Client,
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
