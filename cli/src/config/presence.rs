//! The keys of presence.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;

use kith_presence::{Rates, Role};

use super::Purpose;
use super::nats::Nats;
use super::reader::Reader;
use super::value::{Listen, Rate, Switch, Text};

/// Who is online.
#[derive(Debug)]
pub(crate) struct Presence {
    pub(crate) enabled: bool,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    pub(crate) role: Role,
    pub(crate) url: String,
    pub(crate) credentials: Option<PathBuf>,
    pub(crate) nats_ca: Option<PathBuf>,
    pub(crate) domain: String,
    pub(crate) secret: Option<PathBuf>,
    pub(crate) ed25519: Option<PathBuf>,
    pub(crate) rsa: Option<PathBuf>,
    pub(crate) jwks: Option<PathBuf>,
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
    pub(crate) token_rate: Option<NonZeroU32>,
    pub(crate) address_rate: Option<NonZeroU32>,
}

/// `center` or `leaf`.
struct Kind(Role);

impl FromStr for Kind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Kind, &'static str> {
        match text {
            "center" => Ok(Kind(Role::Center { replicas: 1 })),
            "leaf" => Ok(Kind(Role::Leaf)),
            _ => Err("neither center nor leaf"),
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Role::Center { .. } => "center",
            Role::Leaf => "leaf",
        })
    }
}

/// `1` or `3`.
#[derive(Clone, Copy)]
struct Replicas(usize);

impl FromStr for Replicas {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Replicas, &'static str> {
        match text {
            "1" => Ok(Replicas(1)),
            "3" => Ok(Replicas(3)),
            _ => Err("neither 1 nor 3"),
        }
    }
}

impl std::fmt::Display for Replicas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Presence {
    pub(super) fn read(reader: &mut Reader<'_>, nats: &Nats, purpose: Purpose) -> Presence {
        let enabled = reader.or(("presence", "enabled"), Switch(false)).0;
        let listen = reader.list(("presence", "listen"), vec![Listen(([0, 0, 0, 0], 8080).into())]);
        let role = reader.or(("presence", "role"), Kind(Role::Leaf)).0;
        let Replicas(replicas) = reader.or(("presence", "replicas"), Replicas(1));
        let url = reader.or(("presence", "url"), Text(nats.url())).0;
        let domain = reader.or(("presence", "domain"), Text("center".to_owned())).0;
        let rates = Rates::default();
        let of = |rate: Option<NonZeroU32>| Rate(rate.map_or(0, NonZeroU32::get));
        let token_rate = NonZeroU32::new(reader.or(("presence", "token_rate"), of(rates.token)).0);
        let address_rate = NonZeroU32::new(reader.or(("presence", "address_rate"), of(rates.address)).0);
        let mut text = |name| reader.optional(("presence", name)).map(|Text(text)| text);
        let mut presence = Presence {
            enabled,
            listen: listen.into_iter().map(|Listen(addr)| addr).collect(),
            tls: None,
            role: match role {
                Role::Center { .. } => Role::Center { replicas },
                Role::Leaf => Role::Leaf,
            },
            url,
            domain,
            credentials: text("credentials").map(PathBuf::from),
            nats_ca: text("nats_ca").map(PathBuf::from),
            secret: text("jwt_secret_file").map(PathBuf::from),
            ed25519: text("jwt_ed25519_file").map(PathBuf::from),
            rsa: text("jwt_rsa_file").map(PathBuf::from),
            jwks: text("jwks_file").map(PathBuf::from),
            issuer: text("jwt_issuer"),
            audience: text("jwt_audience"),
            token_rate,
            address_rate,
        };
        let files = [text("tls_cert").map(PathBuf::from), text("tls_key").map(PathBuf::from)];
        let runs = purpose == Purpose::Presence || (purpose == Purpose::Agent && enabled);
        presence.tls = match files {
            [Some(cert), Some(key)] => Some((cert, key)),
            [None, None] => None,
            _ => {
                reader.problem(
                    ("presence", "tls_cert"),
                    "half of a pair",
                    "TLS needs tls_cert and tls_key, two PEM files",
                );
                None
            }
        };
        let keys = [&presence.secret, &presence.ed25519, &presence.rsa, &presence.jwks];
        if runs && keys.iter().all(|key| key.is_none()) {
            reader.problem(
                ("presence", "jwt_secret_file"),
                "not set, nor any other key",
                "nobody could write: name a file with a secret of 32 bytes or more, or a public key (jwt_ed25519_file, jwt_rsa_file, jwks_file)",
            );
        }
        presence
    }
}
