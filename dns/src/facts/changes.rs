//! What changed since the last zone, in terms of what names are made of: groups of containers, clusters, servers.

use std::collections::BTreeSet;
use std::sync::Arc;

/// A service, or the containers that say they are of it: project and service, lower-cased. Without a project, the
/// containers whose project follows from their service.
pub(crate) type Group = (Arc<str>, Arc<str>);

/// What the next zone has to look at.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// A table was replaced whole: nothing that was known of it need hold.
    pub(crate) everything: bool,
    pub(crate) groups: BTreeSet<Group>,
    /// Services of which there came to be one more project, or one less.
    pub(crate) services: BTreeSet<Arc<str>>,
    pub(crate) clusters: BTreeSet<Arc<str>>,
    /// Servers whose row changed, or what is heard of them.
    pub(crate) servers: BTreeSet<Arc<str>>,
    /// A fact of the cluster as a whole.
    pub(crate) metadata: bool,
    /// The faults of some row.
    pub(crate) faults: bool,
}

/// Most groups of which it is said that they are few.
const FEW: usize = 16;

impl Changes {
    /// Everything changed.
    pub(crate) fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether only some services and clusters have to be looked at: what a change of a few containers comes to.
    pub(crate) fn are_few(&self) -> bool {
        let wide = self.everything || self.metadata || !self.servers.is_empty() || !self.services.is_empty();
        !wide && self.groups.len() + self.clusters.len() <= FEW
    }
}
