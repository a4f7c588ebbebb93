//! What the network, membership and replication count. One struct, so that all of it is shown in one place.

use prometheus_client::metrics::counter::Counter;

use crate::api::Count;

macro_rules! counters {
    ($($name:ident: $help:literal,)+) => {
        /// Cheap to clone; all clones count together.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Counters { $(#[doc = $help] pub(crate) $name: Counter,)+ }

        impl Counters {
            /// All of them as they stand.
            pub(crate) fn read(&self) -> Vec<Count> {
                vec![$(Count { name: concat!("gossip_", stringify!($name)), help: $help, value: self.$name.get() },)+]
            }
        }
    };
}

counters! {
    connections: "Connections with other nodes that were established",
    refusals: "Handshakes that failed for lack of trust, on either side",
    refusals_removed: "Of these, because an operator removed the node",
    refusals_not_in_force: "Of these, because a certificate has expired or is not in force yet",
    refusals_stranger: "Of these, because of another authority, another cluster, no certificate, or one that names no node",
    addresses_doubted: "Handshakes whose address had to prove itself first, because many were under way",
    joins: "Certificates given to new nodes",
    joins_refused: "Wishes to join that were refused",
    renewals: "Times this node's certificate was renewed",
    renewals_failed: "Times it could not be",
    renewals_given: "Certificates renewed for other nodes",
    messages_sent: "Membership messages sent",
    messages_received: "Membership messages received and decoded",
    messages_dropped: "Membership messages lost: no connection, a full queue, no stream to be had, an unreadable datagram",
    messages_oversize: "Membership messages over the limit of 65,507 bytes, which were not sent",
    messages_foreign: "Datagrams of other processes to the loopback codec",
    links_replaced: "Streams of versions that were replaced before their end was known",
    versions_received: "Versions received, also those known already",
    versions_pushed: "Versions sent to peers, once per peer",
    versions_applied: "Versions of peers handed to the store and applied",
    forks_met: "Hellos of stores that are not, or not alone, the ones that wrote their site",
    frames_dropped: "Frames not sent because a peer's queue was full; the peer pulls instead",
    apply_failed: "Groups of versions that the store did not take; they are pulled",
    pulls: "Pulls asked for",
    pulls_failed: "Pulls that were refused, broken off, too large, or not stored",
    pulls_answered: "Pulls answered for peers",
    snapshots: "Snapshots of a peer's store asked for",
    snapshots_failed: "Snapshots that were refused, broken off, damaged, or not stored",
    snapshots_sent: "Snapshots of this node's store sent to peers",
    tombstones_purged: "Deletions forgotten, because every known node has applied them",
    rows_pulled: "Rows that pulls brought",
    repairs: "Times this node's rows were compared with a peer's, because they differed or were damaged",
    repairs_failed: "Of these, those that came to nothing",
    rows_repaired: "Damaged rows that were replaced by a peer's",
    from_the_future: "Versions and pulls that were refused because their stamps are far ahead of the clocks",
}
