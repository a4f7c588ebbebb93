//! How nats-server is, by its own word.

use super::check::Found;
use crate::chain::Chain;
use crate::config::{Role, Servers};
use crate::monitor::{Monitor, MonitorError};

fn said(error: &MonitorError) -> String {
    Chain(error).to_string()
}

/// Whether it lives, whatever it knows of others.
pub(super) async fn live(monitor: &Monitor) -> Found {
    monitor.live().await.map(|()| "it answers".to_owned()).map_err(|error| said(&error))
}

/// Whether it has caught up with all others.
pub(super) async fn ready(monitor: &Monitor) -> Found {
    monitor.ready().await.map(|()| "it has caught up".to_owned()).map_err(|error| said(&error))
}

/// Whether the name at the monitoring port is the one that it was given: a server of another is asked where a port is shared.
pub(super) async fn name(monitor: &Monitor, own: &str) -> Found {
    let varz = monitor.varz().await.map_err(|error| said(&error))?;
    if varz.server_name == own {
        Ok(format!("{own}: {} clients, {} routes, {} leaves", varz.connections, varz.routes, varz.leafnodes))
    } else {
        Err(format!("another nats-server answers here: {}", varz.server_name))
    }
}

/// Whether there is somebody who decides where streams are.
pub(super) async fn meta(monitor: &Monitor, role: Role, servers: Servers) -> Found {
    if role == Role::Leaf || servers == Servers::One {
        return Ok("decides alone".to_owned());
    }
    let streams = monitor.jsz().await.map_err(|error| said(&error))?;
    match streams.meta_cluster {
        Some(meta) if !meta.leader.is_empty() => {
            Ok(format!("{} leads {} servers; {} streams here", meta.leader, meta.cluster_size, streams.streams))
        }
        Some(meta) => Err(format!("no leader of JetStream among {} servers", meta.cluster_size)),
        None => Err("no member of JetStream's group".to_owned()),
    }
}
