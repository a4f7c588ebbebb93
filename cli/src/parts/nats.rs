//! The runner of nats-server as a part. It shares nothing with the others: it finds its peers by DNS.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kith_nats::config::{Ending, Url};
use kith_nats::discovery::BadSource;
use kith_nats::external::External;
use kith_nats::lock::NotOurs;
use kith_nats::standing::BadStanding;
use kith_nats::{BuildError, Config, Nats};

use super::{Built, Part};
use crate::exit::{Exit, Failure};

/// How long it may take to stop: the runner itself gives nats-server 45 s before it kills it.
const STOP: Duration = Duration::from_secs(50);

/// The runner, buildable again and again.
pub(crate) struct NatsPart {
    config: Config,
}

impl NatsPart {
    /// A runner with this configuration.
    pub(crate) fn new(config: Config) -> NatsPart {
        NatsPart { config }
    }
}

impl NatsPart {
    /// The part where somebody else runs the server.
    async fn external(&mut self, url: Url) -> Result<Built, Failure> {
        let external = External::build(self.config.clone(), url).await.map_err(failure)?;
        let addr = external.addr();
        if let Some(addr) = addr {
            self.config.health.set_port(addr.port());
        }
        let listens = addr.into_iter().map(|addr| ("nats", addr.to_string())).collect();
        Ok(Built { listens, run: Box::new(|token| async move { Ok(external.run(token).await?) }.boxed()) })
    }
}

impl Part for NatsPart {
    fn name(&self) -> &'static str {
        "nats"
    }

    fn stops_within(&self) -> Option<Duration> {
        (self.config.ending == Ending::Drain).then_some(STOP)
    }

    fn build(&mut self) -> BoxFuture<'_, Result<Built, Failure>> {
        async {
            if let Some(url) = self.config.url.clone() {
                return self.external(url).await;
            }
            let nats = Nats::build(self.config.clone()).await.map_err(failure)?;
            if let Some(addr) = nats.addrs().first() {
                self.config.health.set_port(addr.port());
            }
            tracing::info!(binary = %nats.binary().display(), version = nats.status().get().version, "nats-server found");
            let listens = nats.addrs().iter().map(|addr| ("nats", addr.to_string())).collect();
            Ok(Built { listens, run: Box::new(|token| async move { Ok(nats.run(token).await?) }.boxed()) })
        }
        .boxed()
    }
}

fn failure(error: BuildError) -> Failure {
    match &error {
        BuildError::Binary(none) => {
            let hint = none.hint();
            Failure::new(Exit::Unavailable, error).hint(hint)
        }
        BuildError::Standing(BadStanding::Moved { .. }) => {
            let hint = "`kith nats grow` takes the streams of a lone server into a cluster; else set nats.role and nats.servers back";
            Failure::new(Exit::Config, error).hint(hint)
        }
        BuildError::Standing(BadStanding::Growing(_)) => Failure::new(Exit::Config, error)
            .hint("say nats.servers = \"3\" and run `kith nats grow`; or put the folder back as jetstream, and delete kith/alone"),
        BuildError::Name(_) | BuildError::Standing(BadStanding::Disk { .. }) => Failure::new(Exit::Io, error),
        BuildError::Store(NotOurs::Taken { .. }) => {
            let hint = "stop that one, or have this one use a folder of its own: nats.store_dir";
            Failure::new(Exit::Unavailable, error).hint(hint)
        }
        BuildError::Store(NotOurs::Folder { .. }) | BuildError::Identity(_) | BuildError::Control { .. } => {
            Failure::new(Exit::Io, error).hint("nats.store_dir names a folder that this process may write")
        }
        BuildError::Source(BadSource::Resolver(_)) => Failure::new(Exit::Unavailable, error)
            .hint("nats.resolvers names the servers to ask, as [\"127.0.0.1:53\"]"),
        BuildError::Source(BadSource::Name { .. } | BadSource::Nowhere) => Failure::new(Exit::Config, error),
        BuildError::Listen { .. } => {
            Failure::new(Exit::Unavailable, error).hint("is another runner here? Stop it, or set nats.health")
        }
    }
}
