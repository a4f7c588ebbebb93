//! Docker, by its API on a Unix socket: what a reconciler asks it, in our own words. Podman's socket answers the same.
//!
//! The version is the newest that both know. A call that takes longer than 5 s has failed: a daemon that hangs must not
//! hold up what goes on without it.

mod events;
mod inspect;
mod networks;

pub(crate) use events::{Changes, Follow, Noted, follow};
pub(crate) use networks::{ApiVersion, Network, Reach};

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::health::Run;

/// How long Docker may take to answer.
const CALL: Duration = Duration::from_secs(5);
/// Containers that are inspected at the same time: Docker takes a lock for each.
const AT_ONCE: usize = 8;

/// Docker's id of a container.
pub(crate) type ContainerId = String;

/// A container as Docker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    /// Its id.
    pub(crate) id: ContainerId,
    /// Its name, without the slash.
    pub(crate) name: String,
    /// The image's name.
    pub(crate) image: String,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it runs.
    pub(crate) run: Run,
    /// Whether Docker checks it.
    pub(crate) checked: bool,
    /// Its addresses by network. A container that does not run has none.
    pub(crate) networks: BTreeMap<String, Addresses>,
    /// Whether it shares the host's own network.
    pub(crate) on_host: bool,
}

/// Where a container is in one network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Its IPv4 address.
    pub(crate) ip: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub(crate) ip6: Option<Ipv6Addr>,
}

/// Why Docker cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DockerError {
    /// It said so, or did not understand.
    #[error("docker at {}", .0.display())]
    Call(PathBuf, #[source] bollard::errors::Error),
    /// It did not answer.
    #[error("docker at {} did not answer within {} s", .0.display(), CALL.as_secs())]
    Silent(PathBuf),
}

impl DockerError {
    /// Whether it says that what it was asked about is not there.
    fn is_not_found(&self) -> bool {
        let Self::Call(_, error) = self else { return false };
        matches!(error, bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })
    }
}

/// A client of Docker, which connects when it is first asked, and again after a failure.
#[derive(Debug)]
pub(crate) struct Docker {
    socket: PathBuf,
    client: Option<bollard::Docker>,
}

impl Docker {
    pub(crate) fn at(socket: &Path) -> Docker {
        Docker { socket: socket.to_owned(), client: None }
    }

    /// Every container there is, running or not.
    pub(crate) async fn list(&mut self) -> Result<Vec<(ContainerId, Option<Container>)>, DockerError> {
        let client = self.client().await?;
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let listed = self.call(client.list_containers(Some(options))).await?;
        let ids = listed.into_iter().filter_map(|container| container.id).collect();
        self.inspect(ids).await
    }

    /// These containers; `None` for one that Docker does not have.
    pub(crate) async fn inspect(
        &mut self,
        ids: Vec<ContainerId>,
    ) -> Result<Vec<(ContainerId, Option<Container>)>, DockerError> {
        let client = self.client().await?;
        let this = &*self;
        let client = &client;
        let one = |id: ContainerId| async move {
            let asked = this.call(client.inspect_container(&id, None)).await;
            match asked {
                Ok(container) => Ok((id, inspect::container(container))),
                Err(error) if error.is_not_found() => Ok((id, None)),
                Err(error) => Err(error),
            }
        };
        let answers: Vec<_> = stream::iter(ids).map(one).buffer_unordered(AT_ONCE).collect().await;
        answers.into_iter().collect()
    }

    /// The containers that run, with the path of the `resolv.conf` of each that has one of its own.
    pub(crate) async fn running(&mut self) -> Result<Vec<(String, Option<PathBuf>)>, DockerError> {
        let client = self.client().await?;
        let options = ListContainersOptionsBuilder::default().build();
        let listed = self.call(client.list_containers(Some(options))).await?;
        let mut running = Vec::new();
        for id in listed.into_iter().filter_map(|container| container.id) {
            match self.call(client.inspect_container(&id, None)).await {
                Ok(answer) => running.push(inspect::resolver(answer)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        running.sort();
        Ok(running)
    }

    /// Forgets the connection: the next call makes another, and negotiates anew.
    pub(crate) fn failed(&mut self) {
        self.client = None;
    }

    async fn client(&mut self) -> Result<bollard::Docker, DockerError> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let client = connect(&self.socket).await?;
        self.client = Some(client.clone());
        Ok(client)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, bollard::errors::Error>>) -> Result<T, DockerError> {
        within(&self.socket, call).await
    }
}

/// Connects, and agrees on a version.
async fn connect(socket: &Path) -> Result<bollard::Docker, DockerError> {
    let path = socket.to_string_lossy();
    // The library's own bound of a call; ours is shorter.
    let client = bollard::Docker::connect_with_unix(&path, CALL.as_secs() * 2, API_DEFAULT_VERSION)
        .map_err(|error| DockerError::Call(socket.to_owned(), error))?;
    within(socket, client.negotiate_version()).await
}

async fn within<T>(
    socket: &Path,
    call: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, DockerError> {
    match timeout(CALL, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(DockerError::Call(socket.to_owned(), error)),
        Err(_) => Err(DockerError::Silent(socket.to_owned())),
    }
}
