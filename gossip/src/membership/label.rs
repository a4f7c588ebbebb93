//! The address chitchat knows a node by.
//!
//! Chitchat names nodes by a socket address, and sends to it. Ours travel on connections, so the address is only a label:
//! made from the node's id, it is the same on every node, unique without being configured, and stays when the node moves
//! to another host. It lies in 100::/64, which every router discards (RFC 6666), so that a label which slips into a
//! `connect` somewhere leads nowhere.

use std::net::{Ipv6Addr, SocketAddr};

use kith_gossip_proto::NodeId;
use xxhash_rust::xxh3::xxh3_128;

/// The label of a node: 80 bits of a hash of its id. Two ids of a thousand that share one are a 10^-18 chance.
pub(crate) fn label(node: &NodeId) -> SocketAddr {
    let hash = xxh3_128(node.as_str().as_bytes());
    let host = 0x0100_u128 << 112 | (hash & u128::from(u64::MAX));
    // Chitchat takes any port; zero would read like a mistake in a log.
    let port = ((hash >> 64) as u16).max(1);
    SocketAddr::from((Ipv6Addr::from_bits(host), port))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn labels_are_discarded_addresses_one_per_node() {
        let nodes: Vec<NodeId> = (0..1000).map(|n| format!("node-{n}").parse().unwrap()).collect();
        let labels: BTreeSet<_> = nodes.iter().map(label).collect();
        assert_eq!(labels.len(), nodes.len());
        assert!(labels.iter().all(|label| label.to_string().starts_with("[100::")), "{labels:?}");
        // Every release must compute the same one.
        assert_eq!(label(&"fra-1".parse().unwrap()).to_string(), "[100::af83:66b:f8b8:9931]:30162");
    }
}
