//! How this node stands with the others: the time its certificate has left, and whether it was removed.

use std::net::SocketAddr;

use tokio::sync::watch;

use super::{Identity, Stage};
use crate::api::{Alarm, Certificate};
use crate::membership::{Belongs, Servers};
use crate::net::Net;

/// Read whenever somebody looks.
#[derive(Clone)]
pub(crate) struct Standing {
    identity: Identity,
    /// The stage of the certificate that is worth an alarm.
    stage: watch::Receiver<Stage>,
    net: Net,
    rows: watch::Receiver<Servers>,
}

impl Standing {
    pub(crate) fn new(
        identity: Identity,
        stage: watch::Receiver<Stage>,
        net: Net,
        rows: watch::Receiver<Servers>,
    ) -> Self {
        Self { identity, stage, net, rows }
    }

    /// The certificate's end.
    pub(crate) fn certificate(&self) -> Certificate {
        let validity = self.identity.validity();
        Certificate { ends: validity.until, left: validity.left(self.identity.clock().now()) }
    }

    /// What somebody has to see to; the manual has a paragraph for each name.
    pub(crate) fn alarms(&self) -> Vec<Alarm> {
        let certificate = self.certificate_alarm().map(|text| Alarm { name: "certificate", text });
        let removed = self.removed_alarm().map(|text| Alarm { name: "removed", text });
        certificate.into_iter().chain(removed).collect()
    }

    /// Connections that were refused of late: the peer's address, by whom, and why.
    pub(crate) fn refusals(&self) -> Vec<(SocketAddr, &'static str, &'static str)> {
        self.net.refusals()
    }

    fn certificate_alarm(&self) -> Option<String> {
        let days = self.certificate().left.as_secs() / 86_400;
        match *self.stage.borrow() {
            Stage::InForce => None,
            Stage::Due => Some(format!("the certificate ends in {days} days and could not be renewed")),
            Stage::Soon => {
                Some(format!("the certificate ends in {days} days: see that the authority's node is reached"))
            }
            Stage::Now => Some("the certificate ends in less than a day".to_owned()),
            Stage::Over => Some(format!(
                "the certificate is over: this node connects to nobody anew. On the authority's server: kith invite {}. Here: \
                 kith join --again TOKEN, then restart Kith",
                self.identity.node()
            )),
        }
    }

    /// A removed node hears of it by word: the row that says so may never reach it.
    fn removed_alarm(&self) -> Option<String> {
        if let Some(address) = self.net.expelled() {
            return Some(format!("{address} says that this node was removed from the cluster"));
        }
        let rows = self.rows.borrow();
        let removed = rows.get(self.identity.node()).is_some_and(|row| row.belongs == Belongs::Removed);
        removed.then(|| "this node was removed from the cluster".to_owned())
    }
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standing").field("identity", &self.identity).finish_non_exhaustive()
    }
}
