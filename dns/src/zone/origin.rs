//! Origins: the names at which our zones begin, with what stands at their apex.

use crate::config::Ttl;

/// One zone of ours.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Lower-cased, with the closing zero.
    wire: Box<[u8]>,
    owner: Owner,
    /// RDATA of the NS record, in full.
    name_server: Box<[u8]>,
    negative_ttl: Ttl,
    ttl: Ttl,
}

/// Whose a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The zone's with this place in the configuration.
    Forward(usize),
    /// A reverse zone's.
    Reverse,
    /// In no zone of ours.
    Nobody,
}

/// Seconds of refresh, retry and expire in every SOA. Nothing transfers these zones, so that they only have to look
/// sane to a checker (RIPE-203's order: refresh > retry, expire far above both).
const SOA_TIMERS: [u32; 3] = [3600, 600, 86_400];

impl Origin {
    /// A zone of names, whose name server is the answering server itself, `local.node`.
    pub(crate) fn forward(place: usize, wire: &[u8], ttl: Ttl, negative_ttl: Ttl) -> Self {
        let name_server = [LOCAL_NODE, wire].concat().into();
        Self { wire: wire.into(), owner: Owner::Forward(place), name_server, negative_ttl, ttl }
    }

    /// A zone of addresses, served by `local.node` of the first zone of names.
    pub(crate) fn reverse(wire: &[u8], first: &[u8], ttl: Ttl, negative_ttl: Ttl) -> Self {
        let name_server = [LOCAL_NODE, first].concat().into();
        Self { wire: wire.into(), owner: Owner::Reverse, name_server, negative_ttl, ttl }
    }

    pub(crate) fn wire(&self) -> &[u8] {
        &self.wire
    }

    pub(crate) fn owner(&self) -> Owner {
        self.owner
    }

    pub(crate) fn name_server(&self) -> &[u8] {
        &self.name_server
    }

    pub(crate) fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// TTL of the SOA, also its MINIMUM, so that a cache keeps a negative answer exactly this long (RFC 2308 §5).
    pub(crate) fn negative_ttl(&self) -> Ttl {
        self.negative_ttl
    }

    /// RDATA of the SOA, where `apex` is a pointer to the origin in the question: MNAME is the zone itself, as RFC 6303
    /// §3 has it for zones that exist everywhere at once, and RNAME `nobody.invalid`. Small by construction, so that
    /// a negative answer fits into 512 bytes whatever was asked.
    pub(crate) fn soa(&self, apex: [u8; 2], serial: u32) -> [u8; 38] {
        let mut rdata = [0; 38];
        rdata[..2].copy_from_slice(&apex);
        rdata[2..18].copy_from_slice(b"\x06nobody\x07invalid\0");
        rdata[18..22].copy_from_slice(&serial.to_be_bytes());
        for (index, timer) in SOA_TIMERS.iter().enumerate() {
            rdata[22 + 4 * index..26 + 4 * index].copy_from_slice(&timer.to_be_bytes());
        }
        rdata[34..].copy_from_slice(&self.negative_ttl.as_secs().to_be_bytes());
        rdata
    }
}

/// The relative name of the answering server.
pub(crate) const LOCAL_NODE: &[u8] = b"\x05local\x04node";
