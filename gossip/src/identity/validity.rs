//! From when and until when a certificate is in force, and what is due before its end.
//!
//! ```text
//! issued                                    30 days left      7 days     1 day      the end
//!   │ InForce                                  │ Due            │ Soon     │ Now      │ Over
//!   └── 90 days ───────────────────────────────┴ renewed here, and each hour from here on
//! ```
//! Renewal takes seconds where the authority can be reached, so an alarm is a renewal that has not worked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY: Duration = Duration::from_secs(86_400);

/// How long a node's certificate lasts: an authority that is away for two months stops nobody.
pub const NODE_LASTS: Duration = Duration::from_secs(90 * 86_400);

/// How long the authority's own lasts. Replacing it means founding the cluster anew, so: longer than the servers.
pub const AUTHORITY_LASTS: Duration = Duration::from_secs(3_650 * 86_400);

/// How far before its making a certificate begins to be in force, for hosts whose clocks are behind.
pub const BACKDATED: Duration = Duration::from_secs(300);

/// A certificate's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From here on.
    pub from: SystemTime,
    /// Until here.
    pub until: SystemTime,
}

/// What its end asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing.
    InForce,
    /// Less than 30 days are left: it is renewed.
    Due,
    /// Less than 7 days are left.
    Soon,
    /// Less than a day is left.
    Now,
    /// It is over. What is connected stays so; nobody connects anew.
    Over,
}

impl Validity {
    /// A certificate's. `None` if it cannot be parsed.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or(0));
        let validity = parsed.validity();
        Some(Self { from: at(validity.not_before.timestamp()), until: at(validity.not_after.timestamp()) })
    }

    /// How much is left; nothing after the end.
    pub fn left(&self, now: SystemTime) -> Duration {
        self.until.duration_since(now).unwrap_or_default()
    }

    /// Where it stands.
    pub fn stage(&self, now: SystemTime) -> Stage {
        match self.left(now) {
            Duration::ZERO => Stage::Over,
            left if left < DAY => Stage::Now,
            left if left < 7 * DAY => Stage::Soon,
            left if left < 30 * DAY => Stage::Due,
            _ => Stage::InForce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_begins_when_its_days_are_left() {
        let from = UNIX_EPOCH + 20_000 * DAY;
        let validity = Validity { from, until: from + NODE_LASTS };
        let second = Duration::from_secs(1);
        for (left, before, at) in [
            (30 * DAY, Stage::InForce, Stage::Due),
            (7 * DAY, Stage::Due, Stage::Soon),
            (DAY, Stage::Soon, Stage::Now),
            (Duration::ZERO, Stage::Now, Stage::Over),
        ] {
            let at_left = |left: Duration| validity.stage(validity.until - left);
            assert_eq!(at_left(left + second), before, "{left:?}");
            assert_eq!(at_left(left.saturating_sub(second)), at, "{left:?}");
        }
        assert_eq!(validity.stage(validity.until + NODE_LASTS), Stage::Over);
        assert_eq!(validity.left(from), NODE_LASTS);
    }
}
