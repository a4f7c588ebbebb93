//! `kith init`: a cluster's authority, and its first server.

use std::time::SystemTime;

use kith_gossip::identity::{Authority, AuthorityError, Fingerprint, NewKey};
use kith_gossip_proto::NodeId;
use serde_json::json;

use super::configuration::{Facts, Keeps, render};
use super::{AUTHORITY_KEY, Making, Paths};
use crate::args::Init;
use crate::config::host_name;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Makes everything, or nothing.
pub(crate) fn run(args: &Init) -> Result<(), Failure> {
    let (name, paths, now) = (name(args)?, Paths::of(&args.place)?, SystemTime::now());
    let authority_key = paths.authority.join(AUTHORITY_KEY);
    let mut making = Making::of(&[&paths.config, &authority_key, &paths.ca, &paths.certificate, &paths.key])?;
    let authority = Authority::found(args.cluster.as_str(), now).map_err(failed)?;
    let key = NewKey::generate().map_err(failed)?;
    let certificate = authority.certify_pem(&name, &key, now).map_err(failed)?;
    let (cluster, cidr, keeps) = (&args.cluster, args.cidr, Keeps::Authority);
    // The first to ask for a number gets this one.
    let facts = Facts { name: &name, cluster, cidr, number: 1, seeds: &[], keeps };
    making.folder(&paths.authority)?;
    making.folder(&paths.identity)?;
    making.file(&authority_key, &authority.key_pem())?;
    making.file(&paths.ca, &authority.certificate_pem())?;
    making.file(&paths.key, &key.pem())?;
    making.file(&paths.certificate, &certificate)?;
    // Last, so that a node that can be started is whole.
    making.file(&paths.config, &render(&facts, &args.place, &paths))?;
    making.keep();

    let fingerprint = Fingerprint::of(authority.certificate());
    let start = format!("kith agent --config {}", paths.config.display());
    let mut out = Out::new();
    if args.place.output.json {
        return out.json(&json!({
            "node": name.as_str(),
            "cluster": args.cluster.as_str(),
            "authority_sha256": fingerprint.to_string(),
            "authority_dir": paths.authority,
            "config": paths.config,
            "start": start,
        }));
    }
    out.line(format!("cluster {} is founded, with {name} as its first server", args.cluster))?;
    out.line(format!("authority   SHA-256 {fingerprint}"))?;
    out.line(format!("its key     {}: on this server alone, keep a copy in a safe place", authority_key.display()))?;
    out.line(format!("next        {start}"))?;
    out.line("then        kith invite NAME, for each further server")
}

/// As it was typed, or the host's.
fn name(args: &Init) -> Result<NodeId, Failure> {
    let host = host_name();
    match &args.name {
        Some(name) => Ok(name.clone()),
        None => host.parse().map_err(|_| {
            Failure::message(Exit::Usage, format!("the host's name `{host}` cannot be a server's"))
                .hint("give it one: --name NAME, 1 to 63 of a-z, 0-9, - and _")
        }),
    }
}

fn failed(error: AuthorityError) -> Failure {
    Failure::new(Exit::Failed, error)
}
