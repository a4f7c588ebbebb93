//! `kith invite`: a token for one more server.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kith_gossip::identity::{Fingerprint, Invite as Invitation, Token, invites, number_of};
use kith_gossip_client::{Client, Value};
use kith_gossip_proto::NodeId;
use serde_json::json;

use crate::args::Invite;
use crate::commands::load;
use crate::config::Purpose;
use crate::exit::{Exit, Failure};
use crate::out::Out;
use crate::parts::gossip;

/// Makes a token. The running node is asked which numbers are taken, and is whom the new server will talk to.
pub(crate) async fn run(args: &Invite) -> Result<(), Failure> {
    let config = load(&args.configured, Purpose::Gossip)?;
    let Some(enrolment) = gossip::enrolment(&config)? else {
        return Err(Failure::message(Exit::Failed, "the authority's key is not on this server")
            .hint("invite on the server where `kith init` was run (gossip.authority is set there)"));
    };
    let client = crate::store(&config, None)?;
    let servers = numbers(&client).await?;
    let Invitation { number, secret } = enrolment
        .invites
        .issue(&args.name, &servers, SystemTime::now())
        .map_err(|e| Failure::new(Exit::Failed, e).context(format!("cannot invite {}", args.name)))?;
    let mut addresses: Vec<String> = args.address.iter().map(|address| address.as_str().to_owned()).collect();
    if addresses.is_empty() {
        addresses.push(gossip::reached_at(&config.gossip).to_string());
    }
    let token = Token {
        node: args.name.clone(),
        number,
        cluster: config.cluster.id.as_str().to_owned(),
        addresses,
        authority: Fingerprint::of(enrolment.authority.certificate()),
        secret,
    };
    let minutes = invites::LASTS.as_secs() / 60;
    let mut out = Out::new();
    if args.output.json {
        return out.json(&json!({
            "token": token.reveal(),
            "node": args.name.as_str(),
            "number": number,
            "addresses": token.addresses,
            "lasts_seconds": invites::LASTS.as_secs(),
        }));
    }
    let addresses = token.addresses.join(", ");
    out.line(format!("{} may join as server {number}, once, within {minutes} minutes, at {addresses}", args.name))?;
    out.line("There, run:")?;
    out.line(format!("  kith join {}", token.reveal()))
}

/// The number of each server that has one.
async fn numbers(client: &Client) -> Result<BTreeMap<NodeId, u8>, Failure> {
    let asked = async { client.query("SELECT id, subnet FROM servers").await?.collect().await };
    let rows = asked.await.map_err(|e| {
        Failure::from(e)
            .context("the node of this server does not say which numbers are taken")
            .hint("start it first: kith agent --config FILE")
    })?;
    let number = |row: &Vec<Value>| {
        let text = |cell: usize| row.get(cell).and_then(Value::as_text);
        Some((text(0)?.parse().ok()?, number_of(text(1)?)?))
    };
    Ok(rows.iter().filter_map(number).collect())
}
