//! Why a handshake failed for lack of trust, as both ends can know it: by the TLS alert (RFC 8446 §6.2).

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use kith_gossip_proto::NodeId;
use quinn::ConnectionError;

use super::{Close, Net};

/// For how long somebody's word that we were removed is shown: three dials, which are three seconds apart.
const EXPELLED_FOR: Duration = Duration::from_secs(10);

/// The lowest QUIC error code that carries a TLS alert (RFC 9001 §4.8).
const ALERT: u64 = 0x100;

/// Who ended a connection for lack of trust, and for want of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) by: By,
    pub(super) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Us,
    Peer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// An operator removed the node.
    Removed,
    /// The certificate's time is over, or has not come, by the clock of the one who refuses.
    NotInForce,
    /// Somebody else issued it.
    OtherAuthority,
    /// One authority, two clusters; or something else that speaks QUIC.
    OtherCluster,
    /// There was none.
    NoCertificate,
    /// Ours, but it names no node, or several.
    NoName,
    /// Another alert: its code.
    Alert(u8),
}

impl Refusal {
    /// Whether a connection failed because of trust, rather than of the network.
    pub(super) fn of(error: &ConnectionError) -> Option<Self> {
        let alert = |code: u64| code.checked_sub(ALERT).and_then(|alert| u8::try_from(alert).ok()).map(Why::of);
        match error {
            ConnectionError::TransportError(error) => Some(Self { by: By::Us, why: alert(error.code.into())? }),
            ConnectionError::ConnectionClosed(close) => {
                Some(Self { by: By::Peer, why: alert(close.error_code.into())? })
            }
            // What was established and then found removed is told in our own words.
            ConnectionError::ApplicationClosed(close) if close.error_code == Close::Removed.into() => {
                Some(Self { by: By::Peer, why: Why::Removed })
            }
            ConnectionError::ApplicationClosed(close) if close.error_code == Close::Name.into() => {
                Some(Self { by: By::Peer, why: Why::NoName })
            }
            ConnectionError::ApplicationClosed(close) if close.error_code == Close::NoCertificate.into() => {
                Some(Self { by: By::Peer, why: Why::NoCertificate })
            }
            _ => None,
        }
    }
}

impl By {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Peer => "the peer",
        }
    }
}

impl Why {
    /// In status.
    fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::NotInForce => "not_in_force",
            Self::OtherAuthority => "other_authority",
            Self::OtherCluster => "other_cluster",
            Self::NoCertificate => "no_certificate",
            Self::NoName => "no_name",
            Self::Alert(_) => "other",
        }
    }

    fn of(alert: u8) -> Self {
        match alert {
            44 => Self::Removed,
            45 => Self::NotInForce,
            // Two authorities of one name differ in the key alone, which shows as a signature that does not verify.
            48 | 51 => Self::OtherAuthority,
            116 => Self::NoCertificate,
            120 => Self::OtherCluster,
            other => Self::Alert(other),
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Removed => "removed from the cluster",
            Self::NotInForce => "the certificate is not in force: expired, or a clock is wrong",
            Self::OtherAuthority => "not of our cluster: another authority",
            Self::OtherCluster => "not of our cluster: another name",
            Self::NoCertificate => "no certificate",
            Self::NoName => "the certificate does not name one node",
            Self::Alert(code) => return write!(f, "TLS alert {code}"),
        })
    }
}

impl Net {
    /// Says that a peer was refused, or refused us, once per address and minute. Other failures are the dialler's affair.
    pub(super) fn complain(&self, address: SocketAddr, error: &ConnectionError) {
        if let Some(refusal) = Refusal::of(error) {
            self.refused(refusal, address, error);
        }
    }

    /// Counts a refusal, and says so if it is due.
    pub(super) fn refused(&self, Refusal { by, why }: Refusal, address: SocketAddr, reason: &dyn Display) {
        let counters = &self.shared.counters;
        counters.refusals.inc();
        let kind = match why {
            Why::Removed => Some(&counters.refusals_removed),
            Why::NotInForce => Some(&counters.refusals_not_in_force),
            Why::OtherAuthority | Why::OtherCluster | Why::NoCertificate | Why::NoName => {
                Some(&counters.refusals_stranger)
            }
            Why::Alert(_) => None,
        };
        if let Some(kind) = kind {
            kind.inc();
        }
        self.shared.refused.note(Refusal { by, why }, address);
        let ourselves = (by, why) == (By::Peer, Why::Removed);
        if ourselves {
            *self.shared.expelled.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, Instant::now()));
        }
        match (self.complaint_is_due(address), ourselves) {
            (false, _) => {}
            (true, true) => tracing::warn!(%address, "this node was removed from the cluster, says a peer"),
            (true, false) => tracing::warn!(%address, by = by.as_str(), %why, %reason, "connection refused"),
        }
    }

    /// Whether something is to be said about this address.
    pub(crate) fn complaint_is_due(&self, address: SocketAddr) -> bool {
        self.shared.complaints.due(address)
    }

    /// Whether something is to be said about what went wrong between a peer and this node's store.
    pub(crate) fn trouble_is_due(&self, peer: &NodeId) -> bool {
        self.shared.troubles.due(peer.clone())
    }

    /// Who was refused, or refused us, of late: where, by whom, and why.
    pub(crate) fn refusals(&self) -> Vec<(SocketAddr, &'static str, &'static str)> {
        let each = |(address, Refusal { by, why })| {
            let by = match by {
                By::Us => "us",
                By::Peer => "peer",
            };
            (address, by, why.as_str())
        };
        self.shared.refused.of_late().into_iter().map(each).collect()
    }

    /// Who says that this node was removed, if anybody said so of late: whoever says so does it again at every dial, every
    /// few seconds.
    pub(crate) fn expelled(&self) -> Option<SocketAddr> {
        let expelled = self.shared.expelled.lock().unwrap_or_else(PoisonError::into_inner);
        expelled.filter(|(_, at)| at.elapsed() < EXPELLED_FOR).map(|(address, _)| address)
    }
}
