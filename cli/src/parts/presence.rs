//! Presence as a part.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use kith_presence::{AuthConfig, BuildError, KeySource, Nats, Page, Presence, Rates, Server, TlsFiles};

use super::{Built, Part, pin};
use crate::config;
use crate::exit::{Exit, Failure};

/// Presence, buildable again and again.
pub(crate) struct PresencePart {
    config: kith_presence::Config,
}

impl PresencePart {
    /// Presence with this configuration.
    pub(crate) fn new(config: kith_presence::Config) -> PresencePart {
        PresencePart { config }
    }
}

impl Part for PresencePart {
    fn name(&self) -> &'static str {
        "presence"
    }

    fn build(&mut self) -> BoxFuture<'_, Result<Built, Failure>> {
        async {
            let presence = Presence::build(self.config.clone()).await.map_err(failure)?;
            pin(&mut self.config.listen, presence.addrs());
            Ok(Built {
                listens: presence.addrs().iter().map(|addr| ("presence", addr.to_string())).collect(),
                run: Box::new(move |token| async move { Ok(presence.run(token).await?) }.boxed()),
            })
        }
        .boxed()
    }
}

fn failure(error: BuildError) -> Failure {
    let exit = match error {
        BuildError::Bind(..) => Exit::Unavailable,
        BuildError::Key(_) | BuildError::Tls(..) => Exit::Config,
    };
    Failure::new(exit, error)
}

/// What presence is told by the configuration.
pub(crate) fn config(config: &config::Config) -> kith_presence::Config {
    let presence = &config.presence;
    let files = [
        presence.secret.clone().map(KeySource::Secret),
        presence.ed25519.clone().map(KeySource::Ed25519),
        presence.rsa.clone().map(KeySource::Rsa),
        presence.jwks.clone().map(KeySource::Jwks),
    ];
    kith_presence::Config {
        node: config.node.name.clone(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
        listen: presence.listen.clone(),
        tls: presence.tls.clone().map(|(cert, key)| TlsFiles { cert, key }),
        auth: AuthConfig {
            keys: files.into_iter().flatten().collect(),
            issuer: presence.issuer.clone(),
            audience: presence.audience.clone(),
        },
        rates: Rates { token: presence.token_rate, address: presence.address_rate },
        page: Page::None,
        nats: Nats::Server(Server {
            url: presence.url.clone(),
            credentials: presence.credentials.clone(),
            ca: presence.nats_ca.clone(),
            role: presence.role,
            domain: Some(presence.domain.clone()).filter(|domain| domain != "none").unwrap_or_default(),
        }),
    }
}
