//! What the daemon leaves on a host when it is gone: its rules in the firewall, and Docker's network.

use std::path::Path;

use crate::bridge::NAME;
use crate::docker::Docker;
use crate::error::Error;
use crate::firewall::{self, Rules};

/// What there is of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The rules, or why they cannot be read.
    pub rules: Result<Vec<String>, String>,
    /// The containers in the network, if there is one; or why Docker cannot be asked.
    pub network: Result<Option<Vec<String>>, String>,
}

/// Why something cannot be taken away.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LeftError(Box<dyn std::error::Error + Send + Sync>);

impl From<Error> for LeftError {
    fn from(error: Error) -> LeftError {
        LeftError(error.into())
    }
}

/// Looks.
pub async fn look(docker: Option<&Path>) -> Left {
    let rules = Rules::read().await.map(|rules| rules.ours.iter().map(ToString::to_string).collect());
    let network = match docker {
        Some(socket) => containers(&mut Docker::at(socket)).await,
        None => Ok(None),
    };
    Left { rules: rules.map_err(|error| Error::from(error).chain()), network: network.map_err(|error| error.chain()) }
}

async fn containers(docker: &mut Docker) -> Result<Option<Vec<String>>, Error> {
    let Some((id, _)) = docker.network(NAME).await? else { return Ok(None) };
    Ok(Some(docker.attached(&id).await?))
}

/// Takes our rules away.
pub async fn remove_rules() -> Result<(), LeftError> {
    for rule in Rules::read().await.map_err(Error::from)?.ours {
        firewall::delete(&rule).await.map_err(Error::from)?;
    }
    Ok(())
}

/// Takes the network away, if nothing is in it.
pub async fn remove_network(docker: &Path) -> Result<(), LeftError> {
    let mut docker = Docker::at(docker);
    let Some((id, _)) = docker.network(NAME).await.map_err(Error::from)? else { return Ok(()) };
    if docker.attached(&id).await.map_err(Error::from)?.is_empty() {
        docker.remove_network(&id).await.map_err(Error::from)?;
    }
    Ok(())
}
