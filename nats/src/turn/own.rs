//! The server that this runner runs.

use tokio::sync::watch;

use crate::discovery::News;
use crate::group::Group;
use crate::mend::look;
use crate::monitor::Monitor;
use crate::name::Label;

use super::{Access, Own};

/// Our nats-server, by its monitor and as a client of its system account.
pub struct OwnServer {
    /// Its monitor.
    pub(crate) monitor: Monitor,
    /// Its name.
    pub(crate) name: Label,
    /// By the system account.
    pub(crate) system: Access,
    /// What DNS says.
    pub(crate) news: watch::Receiver<News>,
}

impl Own for OwnServer {
    async fn process(&self) -> Option<String> {
        self.monitor.varz().await.ok().map(|varz| varz.start).filter(|start| !start.is_empty())
    }

    async fn well(&self) -> bool {
        self.monitor.ready().await.is_ok()
    }

    async fn lacks_regions(&self) -> bool {
        // One that does not say is not known to have heard of them.
        look(&self.monitor, &self.news).await.is_none_or(|seen| !seen.missing.is_empty())
    }

    async fn step_down(&self) {
        let stepped = match self.system.connect().await {
            Ok(system) => Group::step_down(&system, &self.name).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        // Whoever leads gives up when it ends as well; this only makes it shorter.
        if let Err(reason) = stepped {
            tracing::warn!(reason, "the leadership of JetStream is not given up before the end");
        }
    }
}
