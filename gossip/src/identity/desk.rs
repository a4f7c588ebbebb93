//! The authority's desk: answers wishes for certificates, of newcomers with a token and of nodes whose own nears its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kith_gossip_proto::{NodeId, Value};
use quinn::{Connection, RecvStream, SendStream};
use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::CertificateDer;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::attempts::Attempts;
use super::enrolment::{Answer, Grant, WISH_MAX, Wish};
use super::subnets::{NUMBER_MAX, Subnets};
use super::token::Secret;
use super::validity::BACKDATED;
use super::{Authority, Identity, Invites, files};
use crate::chain::Chain;
use crate::membership::{Belongs, Members, servers};
use crate::net::{Ask, Asker, Close, Net};
use crate::store::{Statement, Store};

/// How long a newcomer may take to say what it wants, and again to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Other nodes that a new one is told of, beside this one.
const SEEDS_MAX: usize = 8;

/// What a node needs to sign for others: it is there on the authority's node only.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// Who signs.
    pub authority: Arc<Authority>,
    /// Who may join.
    pub invites: Invites,
    /// The cluster's name.
    pub cluster: String,
    /// The ranges of the servers.
    pub subnets: Subnets,
}

/// The desk at work.
#[derive(Clone)]
pub(crate) struct Desk {
    enrolment: Enrolment,
    identity: Identity,
    net: Net,
    store: Store,
    members: Members,
    attempts: Arc<Mutex<Attempts>>,
}

impl Desk {
    pub(crate) fn new(enrolment: Enrolment, identity: Identity, net: Net, store: Store, members: Members) -> Self {
        Self { enrolment, identity, net, store, members, attempts: Arc::default() }
    }

    /// Serves one wish to its end.
    pub(crate) async fn serve(self, ask: Ask) {
        let Ask { who, mut send, recv, connection } = ask;
        match who {
            Asker::Newcomer => {
                let answer = match self.admit(recv, &connection).await {
                    Ok(grant) => Answer::Granted(grant),
                    Err(reason) => {
                        self.net.counters().joins_refused.inc();
                        let address = connection.remote_address();
                        if self.net.complaint_is_due(address) {
                            tracing::warn!(%address, reason, "a wish to join is refused");
                        }
                        Answer::Refused(reason)
                    }
                };
                let text = serde_json::to_vec(&answer).expect("texts and numbers are JSON");
                give(&mut send, &text, &connection).await;
            }
            Asker::Node(certificate) => match self.enrolment.authority.renew(&certificate, self.identity.clock().now())
            {
                Ok(renewed) => {
                    self.net.counters().renewals_given.inc();
                    // Both fail only when the node is gone, which asks again.
                    drop(send.write_all(files::pem(&renewed).as_bytes()).await);
                    drop(send.finish());
                }
                Err(error) => {
                    let address = connection.remote_address();
                    tracing::warn!(%address, error = %Chain(&error), "a certificate cannot be renewed");
                }
            },
        }
    }

    /// The authority's own certificate needs nobody else.
    pub(crate) fn renew_own(&self) -> Result<CertificateDer<'static>, super::AuthorityError> {
        self.enrolment.authority.renew(&self.identity.certificate(), self.identity.clock().now())
    }

    /// Gives this node its own row and number, if it has none: the founder has nobody to invite it.
    pub(crate) async fn enter_ourselves(&self) {
        // What cannot be read is in the log, and is tried again at the next start.
        let Some(servers) = servers::observe(&self.store).await else { return };
        if servers.get(self.identity.node()).is_some_and(|row| row.number.is_some()) {
            return;
        }
        let taken = |number: &u8| servers.values().any(|row| row.number == Some(*number));
        let number = (1..=NUMBER_MAX).find(|number| !taken(number));
        let Some(number) = number else { return };
        if let Err(error) = self.enter(self.identity.node(), number, "").await {
            tracing::warn!(error, "this server's own row cannot be written");
        }
    }

    async fn admit(&self, mut recv: RecvStream, connection: &Connection) -> Result<Grant, String> {
        let address = connection.remote_address();
        let may = self.attempts.lock().unwrap_or_else(PoisonError::into_inner).may(address.ip(), Instant::now());
        if !may {
            return Err("too many attempts from this address: try again in a minute".to_owned());
        }
        let wish = timeout(PATIENCE, recv.read_to_end(WISH_MAX)).await;
        let wish = wish.ok().and_then(Result::ok).ok_or("the wish did not come whole")?;
        let wish: Wish = serde_json::from_slice(&wish).map_err(|_| "the wish is none of this release")?;
        let node: NodeId = wish.node.parse().map_err(|_| "the name is none of a server")?;
        let secret = Secret::read(&wish.secret).map_err(|_| "the secret is none")?;
        let now = self.identity.clock().now();
        let number = self.check(&node, &secret).await?;
        // The token is good, so what is wrong with the clock may be told, and can be put right before it is used up.
        compare_clocks(wish.wall_ms, self.identity.clock().unix())?;
        // From the store itself: what follows its commits is behind them, and a certificate is not taken back.
        let servers = servers::observe(&self.store).await.ok_or("the servers' rows cannot be read here")?;
        if servers.get(&node).is_some_and(|row| row.belongs == Belongs::Removed) {
            return Err(format!("{node} was removed from the cluster: first `kith server remove {node} --undo`"));
        }
        let request = CertificateSigningRequestParams::from_pem(&wish.request)
            .ok()
            .filter(|request| PublicKeyData::algorithm(&request.public_key) == &PKCS_ECDSA_P256_SHA256)
            .ok_or("the key is none that is used here (ECDSA P-256), or is not the asker's")?;
        let certificate = self.enrolment.authority.certify(&node, &request.public_key, now);
        let certificate = certificate.map_err(|error| Chain(&error).to_string())?;
        self.enter(&node, number, &wish.hostname).await?;
        self.use_up(&node, &secret).await?;
        self.net.counters().joins.inc();
        tracing::info!(%node, number, %address, "a new node has its certificate");
        Ok(Grant {
            certificate: files::pem(&certificate),
            authority: self.enrolment.authority.certificate_pem(),
            cluster: self.enrolment.cluster.clone(),
            cidr: self.enrolment.subnets.to_string(),
            number,
            seeds: self.seeds(&node),
        })
    }

    async fn check(&self, node: &NodeId, secret: &Secret) -> Result<u8, String> {
        let (invites, node, secret, now) = self.invitation(node, secret);
        let checked = spawn_blocking(move || invites.check(&node, &secret, now)).await;
        checked.map_err(|error| error.to_string())?.map_err(|error| Chain(&error).to_string())
    }

    async fn use_up(&self, node: &NodeId, secret: &Secret) -> Result<u8, String> {
        let (invites, node, secret, now) = self.invitation(node, secret);
        let used = spawn_blocking(move || invites.use_up(&node, &secret, now)).await;
        used.map_err(|error| error.to_string())?.map_err(|error| Chain(&error).to_string())
    }

    fn invitation(&self, node: &NodeId, secret: &Secret) -> (Invites, NodeId, Secret, std::time::SystemTime) {
        (self.enrolment.invites.clone(), node.clone(), secret.clone(), self.identity.clock().now())
    }

    /// The server's row, so that its number is nobody else's from here on. What it knows of itself it writes itself.
    async fn enter(&self, node: &NodeId, number: u8, hostname: &str) -> Result<(), String> {
        let sql = "INSERT INTO servers (id, hostname, subnet) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET \
                   subnet = CASE subnet WHEN '' THEN excluded.subnet ELSE subnet END";
        let hostname: String = hostname.chars().take(255).filter(|c| !c.is_control()).collect();
        let text = |text: &str| Value::Text(text.as_bytes().into());
        let values = [text(node.as_str()), text(&hostname), text(&self.enrolment.subnets.of(number))];
        let done = self.store.execute(vec![Statement::with(sql, values)], Some(PATIENCE)).await;
        done.map(drop).map_err(|error| format!("the server's row cannot be written: {}", Chain(&error)))
    }

    /// This node first: it is the one that the newcomer has reached.
    fn seeds(&self, newcomer: &NodeId) -> Vec<String> {
        let members = self.members.list.borrow();
        let us = |own: bool| members.iter().filter(move |member| (member.server == *self.identity.node()) == own);
        let all = us(true).chain(us(false)).filter(|member| member.server != *newcomer);
        all.take(1 + SEEDS_MAX).map(|member| member.addr.to_string()).collect()
    }
}

/// A certificate is judged by its holder's clock: one that is far off would have it refused.
fn compare_clocks(theirs_ms: u64, ours: Duration) -> Result<(), String> {
    let theirs = Duration::from_millis(theirs_ms);
    let (off, how) = match theirs.checked_sub(ours) {
        Some(ahead) => (ahead, "ahead of"),
        None => (ours - theirs, "behind"),
    };
    if off <= BACKDATED {
        return Ok(());
    }
    Err(format!("that host's clock is {} s {how} ours: set it right and run the same command again", off.as_secs()))
}

/// Sends an answer and waits until the newcomer has hung up, or has had its time.
async fn give(send: &mut SendStream, text: &[u8], connection: &Connection) {
    // Both fail only when the newcomer is gone.
    drop(send.write_all(text).await);
    drop(send.finish());
    drop(timeout(PATIENCE, connection.closed()).await);
    connection.close(Close::Done.into(), b"");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_named_with_its_direction() {
        let ours = Duration::from_secs(1_000_000);
        let said = |theirs: u64| compare_clocks(theirs * 1_000, ours);
        assert_eq!((said(1_000_300), said(999_700)), (Ok(()), Ok(())));
        assert!(said(1_000_400).unwrap_err().contains("400 s ahead of ours"));
        assert!(said(0).unwrap_err().contains("1000000 s behind ours"));
        assert!(said(u64::MAX / 1_000).is_err());
    }
}
