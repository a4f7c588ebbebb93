//! `kith join`: this host becomes a server of a cluster.

use std::io::Read;

use kith_gossip::identity::{AuthorityError, Clock, Grant, JoinError, NewKey, Subnets, Token, join, replace};
use serde_json::json;

use super::configuration::{Facts, Keeps, render};
use super::{Making, Paths};
use crate::args::{Configured, Join};
use crate::commands::load;
use crate::config::{ClusterId, Purpose, Seed, host_name};
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Most bytes of a token on stdin.
const MAX_TOKEN: u64 = 8192;

/// Joins, or renews by a token what could not renew itself.
pub(crate) async fn run(args: &Join) -> Result<(), Failure> {
    let token = token(&args.token)?;
    if args.again { again(args, &token).await } else { first(args, &token).await }
}

async fn first(args: &Join, token: &Token) -> Result<(), Failure> {
    let paths = Paths::of(&args.place)?;
    // Before the token is used up: what is there already, and whether folders can be made here.
    let mut making = Making::of(&[&paths.config, &paths.ca, &paths.certificate, &paths.key])?;
    making.folder(&paths.identity)?;
    let key = NewKey::generate().map_err(own)?;
    making.file(&paths.key, &key.pem())?;
    let grant = ask(token, &key).await?;
    let (cluster, cidr, seeds) = read(&grant).ok_or_else(|| Failure::new(Exit::Failed, JoinError::Malformed))?;
    let (name, number, keeps) = (&token.node, grant.number, Keeps::Nothing);
    let facts = Facts { name, cluster: &cluster, cidr, number, seeds: &seeds, keeps };
    making.file(&paths.ca, &grant.authority)?;
    making.file(&paths.certificate, &grant.certificate)?;
    making.file(&paths.config, &render(&facts, &args.place, &paths))?;
    making.keep();
    said(args, token, &grant, &paths.config)
}

/// For the key that is here, so that one file is replaced and the others stay.
async fn again(args: &Join, token: &Token) -> Result<(), Failure> {
    let file = args.place.config.clone();
    let config = load(&Configured { config: Some(file.clone()), set: Vec::new() }, Purpose::Gossip)?;
    if config.node.name != token.node {
        let message = format!("the token is for {}, and this server is {}", token.node, config.node.name);
        return Err(Failure::message(Exit::Failed, message));
    }
    let files = config.gossip.identity.ok_or_else(|| Failure::message(Exit::Config, "there are no certificates"))?;
    let key = NewKey::read(&files.key).map_err(own)?;
    let grant = ask(token, &key).await?;
    replace(&files.cert, grant.certificate.as_bytes())
        .map_err(|e| Failure::new(Exit::Io, e).context(format!("cannot replace {}", files.cert.display())))?;
    said(args, token, &grant, &file)
}

async fn ask(token: &Token, key: &NewKey) -> Result<Grant, Failure> {
    join(token, key, &host_name(), &Clock::system()).await.map_err(|error| {
        let exit = match &error {
            JoinError::Unreachable(_) | JoinError::Lost(_) | JoinError::Socket(_) => Exit::Unavailable,
            JoinError::OtherAuthority { .. }
            | JoinError::Clock { .. }
            | JoinError::Refused(_)
            | JoinError::Unusable(_)
            | JoinError::Malformed
            | JoinError::Prepare(_) => Exit::Failed,
        };
        let unreachable = matches!(error, JoinError::Unreachable(_));
        let failure = Failure::new(exit, error).context(format!("cannot join {} as {}", token.cluster, token.node));
        if unreachable {
            failure.hint("is Kith running there, and is its UDP port open in the firewalls? Another address: kith invite NAME --address HOST:PORT")
        } else {
            failure
        }
    })
}

/// What was granted, as the configuration takes it.
fn read(grant: &Grant) -> Option<(ClusterId, Subnets, Vec<Seed>)> {
    let seeds = grant.seeds.iter().map(|seed| seed.parse().ok()).collect::<Option<_>>()?;
    Some((grant.cluster.parse().ok()?, grant.cidr.parse().ok()?, seeds))
}

fn said(args: &Join, token: &Token, grant: &Grant, config: &std::path::Path) -> Result<(), Failure> {
    let start = format!("kith agent --config {}", config.display());
    let mut out = Out::new();
    if args.place.output.json {
        return out.json(&json!({
            "node": token.node.as_str(),
            "cluster": grant.cluster,
            "number": grant.number,
            "config": config,
            "start": start,
        }));
    }
    out.line(format!("{} is server {} of cluster {}", token.node, grant.number, grant.cluster))?;
    out.line(format!("next        {start}"))
}

/// As it was typed, or from stdin.
fn token(typed: &str) -> Result<Token, Failure> {
    let mut text = typed.to_owned();
    if typed == "-" {
        text.clear();
        std::io::stdin()
            .take(MAX_TOKEN)
            .read_to_string(&mut text)
            .map_err(|e| Failure::new(Exit::Io, e).context("cannot read the token from stdin"))?;
    }
    text.parse().map_err(|e| Failure::new(Exit::Usage, anyhow::Error::new::<kith_gossip::identity::TokenError>(e)))
}

fn own(error: AuthorityError) -> Failure {
    Failure::new(Exit::Io, error)
}
