//! What stands at a name, and how it is written into an entry of a shard.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::records::Sets;
use crate::config::Ttl;

/// What stands at a name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Node<'a> {
    /// Records, or none: then the name exists, as an empty non-terminal or as a known name without data. (An alias
    /// would be one more RRset here, of type CNAME, which the answerer then follows.)
    Plain(Sets<'a>),
    /// An APP: the same, and any known region is a name below it.
    App(Sets<'a>),
    /// The instances of an APP, of which the asker's own is left out.
    Peers(Endpoints<'a>),
    /// The instances of an APP, the nearest first: names `topN` stand below.
    Nearest(Endpoints<'a>),
    /// A list of everything, which is made when somebody asks.
    List(Listed),
}

/// A list of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listed {
    /// `_apps`.
    Apps,
    /// `_instances`.
    Instances,
}

/// The instances of an APP with their addresses, the nearest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Endpoints<'a> {
    ttl: u32,
    list: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
    pub(crate) place: Place,
}

/// Whether an instance runs on the answering server. Equal records count once (RFC 2181 §5): of an address that is here
/// and elsewhere the second stands for itself only where the first is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Here,
    Elsewhere,
    /// Elsewhere, with an address that one that is here has as well.
    Again,
}

/// Marks in the first byte of an endpoint: what follows, and where it is.
const HAS_V4: u8 = 1;
const HAS_V6: u8 = 2;
const IS_HERE: u8 = 4;
const IS_AGAIN: u8 = 8;

impl<'a> Endpoints<'a> {
    /// Reads endpoints out of an entry, as [`push_endpoints`] wrote them.
    pub(crate) fn read(bytes: &'a [u8]) -> Self {
        match bytes.split_first_chunk::<4>() {
            Some((ttl, list)) => Self { ttl: u32::from_ne_bytes(*ttl), list },
            None => Self { ttl: 0, list: &[] },
        }
    }

    /// How long the answer may be kept.
    pub(crate) fn ttl(&self) -> Ttl {
        Ttl::from_secs(i64::from(self.ttl)).unwrap_or(Ttl::DEFAULT)
    }

    /// The first so many, each address once.
    pub(crate) fn nearest(&self, count: usize) -> impl Iterator<Item = Endpoint> + Clone + use<'a> {
        self.iter().filter(|one| one.place != Place::Again).take(count)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Endpoint> + Clone + use<'a> {
        let mut rest = self.list;
        std::iter::from_fn(move || {
            let (marks, mut tail) = rest.split_first()?;
            let (mut v4, mut v6) = (None, None);
            if marks & HAS_V4 != 0 {
                let (octets, after) = tail.split_first_chunk::<4>()?;
                (v4, tail) = (Some(Ipv4Addr::from(*octets)), after);
            }
            if marks & HAS_V6 != 0 {
                let (octets, after) = tail.split_first_chunk::<16>()?;
                (v6, tail) = (Some(Ipv6Addr::from(*octets)), after);
            }
            rest = tail;
            let place = match (marks & IS_HERE, marks & IS_AGAIN) {
                (0, 0) => Place::Elsewhere,
                (0, _) => Place::Again,
                (_, _) => Place::Here,
            };
            Some(Endpoint { v4, v6, place })
        })
    }
}

/// Appends endpoints.
pub(crate) fn push_endpoints(out: &mut Vec<u8>, ttl: Ttl, list: &[Endpoint]) {
    out.extend_from_slice(&ttl.as_secs().to_ne_bytes());
    for one in list {
        let place = match one.place {
            Place::Here => IS_HERE,
            Place::Elsewhere => 0,
            Place::Again => IS_AGAIN,
        };
        let (v4, v6) = (one.v4.map_or(0, |_| HAS_V4), one.v6.map_or(0, |_| HAS_V6));
        out.push(v4 | v6 | place);
        out.extend(one.v4.iter().flat_map(Ipv4Addr::octets));
        out.extend(one.v6.iter().flat_map(Ipv6Addr::octets));
    }
}
