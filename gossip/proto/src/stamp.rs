//! The stamp every cell carries: who wrote it, and after what.

use crate::{Hlc, SiteId};

/// The mark of one row's change in one version. All cells that a version writes in one row share it.
///
/// Ordered by `(hlc, site)`, which is unique per transaction: a marker that two writes could share would make the merge
/// depend on the order of arrival. `version` and `seq` follow from `(hlc, site)` and the row; they say where in the
/// site's history the change stands, and being compared last they never decide between sound stamps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    /// When, by the hybrid logical clock of the writer.
    pub hlc: Hlc,
    /// Who.
    pub site: SiteId,
    /// Which of the site's versions, from 1.
    pub version: u64,
    /// Which row's change within the version, from 0.
    pub seq: u32,
}

impl Stamp {
    /// Before every stamp of a site's.
    pub const ZERO: Self = Self { hlc: Hlc::ZERO, site: SiteId::new([0; 16]), version: 0, seq: 0 };
}
