//! What the daemon leaves on a host when it is gone: its rules in the firewall, Docker's network, and the interface of the tunnels.

use std::path::Path;

use crate::bridge::NAME;
use crate::docker::Docker;
use crate::error::Error;
use crate::firewall::{self, Rules};
use crate::wireguard::{Interface, SecretFile};

/// What there is of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The rules, or why they cannot be read.
    pub rules: Result<Vec<String>, String>,
    /// The containers in the network, if there is one; or why Docker cannot be asked.
    pub network: Result<Option<Vec<String>>, String>,
    /// The interface of the tunnels, or why it cannot be looked at.
    pub tunnel: Result<Tunnel, String>,
}

/// The interface of the tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// There is none of its name.
    Nothing,
    /// It has this server's key.
    Ours,
    /// It has another, or is something else.
    Foreign,
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

/// Looks, on a server whose folder is `dir`.
pub async fn look(docker: Option<&Path>, interface: &str, dir: &Path) -> Left {
    let rules = Rules::read().await.map(|rules| rules.ours.iter().map(ToString::to_string).collect());
    let network = match docker {
        Some(socket) => containers(&mut Docker::at(socket)).await,
        None => Ok(None),
    };
    Left {
        rules: rules.map_err(|error| Error::from(error).chain()),
        network: network.map_err(|error| error.chain()),
        tunnel: tunnel(interface, dir).await.map_err(|error| error.0.to_string()),
    }
}

/// Whose the interface is: by its key, which is made once and is on this server alone.
async fn tunnel(interface: &str, dir: &Path) -> Result<Tunnel, LeftError> {
    let seen = named(interface)?.look(&[]).await?;
    if seen.link.is_none() {
        return Ok(Tunnel::Nothing);
    }
    let own = SecretFile::within(dir).find()?.map(|key| key.public());
    let key = seen.device.and_then(|device| device.key);
    Ok(if own.is_some() && key == own { Tunnel::Ours } else { Tunnel::Foreign })
}

fn named(interface: &str) -> Result<Interface, LeftError> {
    Interface::new(interface).map_err(|error| LeftError(error.into()))
}

/// Takes the interface away, if it is ours.
pub async fn remove_tunnel(interface: &str, dir: &Path) -> Result<(), LeftError> {
    match tunnel(interface, dir).await? {
        Tunnel::Ours => Ok(named(interface)?.delete().await?),
        Tunnel::Nothing | Tunnel::Foreign => Ok(()),
    }
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
