//! What the runner's turns are made of: whom to ask for the lease, and its own nats-server.

use std::net::SocketAddr;

use tokio::sync::watch;

use crate::config::{Config, Role};
use crate::discovery::News;
use crate::identity::Identity;
use crate::monitor::Monitor;
use crate::name::Label;
use crate::render::Credentials;
use crate::shape::Place;
use crate::turn::{Access, Keeper, NatsLease, OwnServer, User};

/// Makes them.
pub(crate) struct Roll {
    name: Label,
    monitor: Monitor,
    system: Access,
    news: watch::Receiver<News>,
    config: Config,
}

impl Roll {
    pub(crate) fn new(
        config: &Config,
        name: Label,
        system: Access,
        monitor: Monitor,
        news: watch::Receiver<News>,
    ) -> Self {
        Self { name, monitor, system, news, config: config.clone() }
    }
}

impl Keeper for Roll {
    type Lease = NatsLease;
    type Own = OwnServer;

    fn turn(&self) -> Option<(NatsLease, OwnServer)> {
        // Others only: our own server is about to go, and the lease is renewed while it is away.
        let servers: Vec<SocketAddr> = self.news.borrow().clients.to_vec();
        if servers.is_empty() {
            return None;
        }
        let user = user(&self.config);
        let access = Access { servers, user, tls: self.config.tls.clone() };
        let own = OwnServer {
            monitor: self.monitor.clone(),
            name: self.name.clone(),
            system: self.system.clone(),
            news: self.news.clone(),
        };
        Some((NatsLease::new(self.name.clone(), access), own))
    }
}

/// As whom a turn is asked for. Where the center has accounts nobody is served without a name, and its own account of turns is known to
/// who has the secret; of a leaf the configuration does not say which accounts there are, so that the secret counts.
fn user(config: &Config) -> User {
    match (&config.secret, &config.credentials) {
        (Some(secret), _) if config.accounts.is_some() || config.role == Role::Leaf => User::Secret(secret.clone()),
        (_, Some(credentials)) => User::File(credentials.clone()),
        (_, None) => User::Anybody,
    }
}

/// Our own nats-server, as the user of its system account.
pub(crate) fn system(config: &Config, identity: &Identity, place: &Place) -> Access {
    let user = Credentials { user: identity.user.clone(), password: identity.password.clone() };
    Access {
        servers: vec![SocketAddr::new(place.address, place.ports.client)],
        user: User::Password(user),
        tls: config.tls.clone(),
    }
}
