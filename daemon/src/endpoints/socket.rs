//! The echo's socket: asks every peer every 3 s, answers those that ask, and notes what is heard.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UdpSocket;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::Ways;
use super::came::{Came, bind, receive};
use super::echo::{BEFORE, Echo, HEAD, MOST, PORT, Token, answer, question, read};
use super::heard::Heard;
use crate::peers::{PublicKey, management};
use crate::retry::Retry;

/// How often each peer is asked.
pub(super) const EVERY: Duration = Duration::from_secs(3);
/// One in so many times also by a question as long as a packet may be.
const LONG: u64 = 5;

/// What is to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// A short question, and a long one where the last was not answered.
    Short,
    /// Both.
    All,
}

/// What is heard of each peer. Clones share it; the socket's loop alone writes.
#[derive(Debug, Clone)]
pub(crate) struct Echoes {
    heard: Arc<Mutex<BTreeMap<PublicKey, Heard>>>,
    /// The tunnels' interface.
    interface: Arc<str>,
    /// Why there is no socket.
    not_asking: Arc<Mutex<Option<String>>>,
}

impl Echoes {
    /// Of the peers that are reached by this interface.
    pub(crate) fn by(interface: &str) -> Echoes {
        Echoes { heard: Arc::default(), interface: interface.into(), not_asking: Arc::default() }
    }

    /// All of it, as it is.
    pub(super) fn get(&self) -> BTreeMap<PublicKey, Heard> {
        self.heard().clone()
    }

    /// Why nobody is asked, if that is so.
    pub(super) fn not_asking(&self) -> Option<String> {
        self.why().clone()
    }

    /// Asks and answers until the token is cancelled.
    pub(crate) async fn follow(self, ways: Ways, token: CancellationToken) {
        let go_on = async {
            let mut retry = Retry::new();
            loop {
                // Without an interface of ours there is no such address yet.
                if let Some(own) = ways.own()
                    && let Some(socket) = self.open(management(&own), PORT).await
                {
                    retry.succeeded();
                    let failed = self.talk(&socket, &ways).await;
                    self.fail(&failed);
                }
                sleep(retry.delay()).await;
            }
        };
        token.run_until_cancelled(go_on).await;
    }

    /// The socket, if there can be one; another may have its port, or the host no IPv6.
    async fn open(&self, address: Ipv6Addr, port: u16) -> Option<UdpSocket> {
        let opened = bind(address, port).await;
        *self.why() = opened.as_ref().err().map(|error| format!("UDP [{address}]:{port}: {error}"));
        opened.inspect_err(|error| tracing::debug!(%error, "no socket for echoes")).ok()
    }

    /// There is no socket any more. What was heard by it grows no older, so it says nothing: without it tunnels are told by their
    /// handshakes.
    fn fail(&self, error: &std::io::Error) {
        tracing::debug!(%error, "the socket for echoes failed");
        *self.why() = Some(format!("UDP {PORT}: {error}"));
        self.heard().clear();
    }

    /// Until the socket fails; why it did.
    async fn talk(&self, socket: &UdpSocket, ways: &Ways) -> std::io::Error {
        let random = SystemRandom::new();
        let mut due = interval(EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Longer by one than what is an echo, so that what is cut off is none.
        let mut buffer = [0; MOST + 1];
        let mut times = 0_u64;
        loop {
            tokio::select! {
                // A tick that is not waited for to its end comes at the next wait.
                _ = due.tick() => {
                    self.ask_all(socket, ways, &random, if times % LONG == 1 { Due::All } else { Due::Short }).await;
                    times += 1;
                }
                // A datagram that is not taken stays in the socket.
                came = receive(socket, &mut buffer) => match came {
                    Ok(came) => self.hear(socket, ways, &came, &buffer[..came.length]).await,
                    Err(error) => return error,
                },
            }
        }
    }

    async fn ask_all(&self, socket: &UdpSocket, ways: &Ways, random: &SystemRandom, due: Due) {
        let (peers, addresses) = (ways.peers(), ways.addresses());
        self.heard().retain(|key, _| peers.contains_key(key));
        for (address, key) in addresses.iter() {
            let again = self.heard().get(key).is_some_and(Heard::waits_for_long);
            let long = longest(ways.mtu()).filter(|_| due == Due::All || again);
            for length in [Some(HEAD as u16), long].into_iter().flatten() {
                let mut token = [0; 8];
                if random.fill(&mut token).is_err() {
                    return;
                }
                let datagram = self.question(*key, Token(token), length);
                send(socket, (*address, PORT).into(), &datagram).await;
            }
        }
    }

    fn question(&self, key: PublicKey, token: Token, length: u16) -> Vec<u8> {
        let (mut heard, now) = (self.heard(), Instant::now());
        let peer = heard.entry(key).or_default();
        let asker = peer.asker(now);
        if length > HEAD as u16 {
            peer.ask_long(token, length, now);
        } else {
            peer.ask(token, now);
        }
        question(token, length, asker)
    }

    async fn hear(&self, socket: &UdpSocket, ways: &Ways, came: &Came, datagram: &[u8]) {
        // From elsewhere nothing is taken, and nothing is sent there.
        let from = came.from;
        let Some(key) = ways.addresses().get(from.ip()).copied().filter(|_| from.port() == PORT) else { return };
        // What WireGuard lets in from a peer's address is that peer's. By another link anybody may send from it.
        if !came.by(&self.interface) {
            return tracing::debug!(%from, "what came by another interface than the tunnels' is no echo");
        }
        let now = Instant::now();
        match read(datagram) {
            Some(Echo::Question(token, length, asker)) => {
                self.heard().entry(key).or_default().asks(asker, now);
                send(socket, from.into(), &answer(token, length)).await;
            }
            Some(Echo::Answer(token, _)) => self.heard().entry(key).or_default().answer(token, now),
            None => tracing::trace!(%from, "no echo"),
        }
    }

    fn why(&self) -> MutexGuard<'_, Option<String>> {
        self.not_asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest question that is one packet.
fn longest(mtu: Option<u32>) -> Option<u16> {
    let length = u16::try_from(mtu?).ok()?.checked_sub(BEFORE)?;
    (HEAD + 1..=MOST).contains(&usize::from(length)).then_some(length)
}

/// What cannot be sent is as good as lost.
async fn send(socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) {
    if let Err(error) = socket.send_to(datagram, to).await {
        tracing::trace!(%to, %error, "echo not sent");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::super::echo::Asker;
    use super::super::{Echoed, Way};
    use super::*;

    #[tokio::test]
    async fn what_comes_by_another_link_than_the_tunnels_is_not_heard() {
        let (key, ways, mut buffer) = (PublicKey::new([7; 32]), Ways::default(), [0; MOST + 1]);
        let way = Way { id: "b".to_owned(), endpoints: Vec::new(), worked: None, echoed: Echoed::Never };
        ways.tell(PublicKey::new([8; 32]), None, [(key, way)].into());
        let socket = bind(Ipv6Addr::LOCALHOST, 0).await.unwrap();
        let asked = question(Token([1; 8]), 16, Asker::Answered);
        socket.send_to(&asked, socket.local_addr().unwrap()).await.unwrap();
        let came = receive(&socket, &mut buffer).await.unwrap();
        assert_eq!((came.from, &buffer[..came.length]), (own(&socket), &asked[..]));
        // Whose address it has, anybody can forge.
        let came = Came { from: SocketAddrV6::new(management(&key), PORT, 0, 0), ..came };
        for (interface, heard) in [("kith-none", false), ("lo", true)] {
            let echoes = Echoes::by(interface);
            echoes.hear(&socket, &ways, &came, &buffer[..came.length]).await;
            assert_eq!(echoes.get().contains_key(&key), heard, "{interface}");
        }
    }

    #[tokio::test]
    async fn why_there_is_no_socket_is_said_until_there_is_one() {
        let (echoes, taken) = (Echoes::by("lo"), bind(Ipv6Addr::LOCALHOST, 0).await.unwrap());
        let port = own(&taken).port();
        assert!(echoes.open(Ipv6Addr::LOCALHOST, port).await.is_none());
        let why = echoes.not_asking().unwrap();
        assert!(why.starts_with(&format!("UDP [::1]:{port}: Address already in use")), "{why}");
        drop(taken);
        assert!(echoes.open(Ipv6Addr::LOCALHOST, port).await.is_some());
        assert_eq!(echoes.not_asking(), None);
    }

    #[tokio::test]
    async fn of_a_socket_that_failed_nothing_is_left_that_was_heard() {
        let echoes = Echoes::by("lo");
        echoes.heard().entry(PublicKey::new([7; 32])).or_default().asks(Asker::Answered, Instant::now());
        echoes.fail(&std::io::ErrorKind::NetworkDown.into());
        assert!(echoes.get().is_empty());
        assert_eq!(echoes.not_asking().as_deref(), Some("UDP 31821: network down"));
    }

    fn own(socket: &UdpSocket) -> SocketAddrV6 {
        let SocketAddr::V6(own) = socket.local_addr().unwrap() else { panic!("IPv4") };
        own
    }
}
