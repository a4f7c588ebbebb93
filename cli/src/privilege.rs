//! What a process may do beyond the rights of its user, given up before it hears from the network.
//!
//! Capabilities are a thread's own, and a new thread has those of who made it: this comes before the first one.

use anyhow::Context as _;
use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;

use crate::exit::{Exit, Failure};

/// Keeps no more than what binds ports below 1024, which an address that comes later takes as well; what is not had is not
/// asked for. From here on root reads and writes what root owns, and nothing that is run has more.
pub(crate) fn keep_low_ports() -> Result<(), Failure> {
    keep(&CapsHashSet::from([Capability::CAP_NET_BIND_SERVICE])).map_err(|error| Failure::new(Exit::Software, error))
}

fn keep(wanted: &CapsHashSet) -> anyhow::Result<()> {
    let kept = caps::read(None, CapSet::Permitted).context("cannot read this process's capabilities")?;
    let kept: CapsHashSet = kept.intersection(wanted).copied().collect();
    // In this order: nothing may be in effect, or handed on, that is not permitted.
    for (set, kept) in
        [(CapSet::Effective, &kept), (CapSet::Permitted, &kept), (CapSet::Inheritable, &CapsHashSet::new())]
    {
        caps::set(None, set, kept).with_context(|| format!("cannot give up capabilities ({set:?})"))?;
    }
    prctl::set_no_new_privs().context("cannot give up what programs may gain")
}
