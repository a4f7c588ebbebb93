//! Flat names: who claims them, and who gets them.
//!
//! A flat name stands for a service, a NATS cluster or an instance, in this order; of two of a kind the byte-wise smaller
//! has it. Whoever does not get a name leaves a claim in the zone, so that the zone itself says who wants it when the
//! other one goes.

use std::fmt;

use super::draft::View;
use super::unit::{Dirty, Key, Units};
use crate::name;
use crate::zone::entry::UnitId;
use crate::zone::shard::Shards;

/// What a flat name may stand for, by precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Service,
    Cluster,
    Instance,
}

/// The claims to all names that units being made anew have or want.
#[derive(Debug)]
pub(super) struct Claims {
    /// By name; the first of each is who gets it.
    sorted: Vec<(Box<str>, Class, Key, UnitId)>,
}

/// Who has a name, as status says it.
pub(super) struct Holder<'a> {
    class: Class,
    key: &'a Key,
}

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.class, self.key) {
            (Class::Service, Key::Group((project, name))) => write!(f, "{project}/{name}"),
            (Class::Cluster, Key::Cluster(cluster)) => f.write_str(cluster),
            _ => f.write_str("another instance"),
        }
    }
}

impl Claims {
    /// Collects them. A unit whose claims change touches those who claim the same, which are then made anew as well.
    pub(super) fn find(view: &View<'_>, names: &Shards, units: &Units, dirty: &mut Dirty) -> Self {
        let mut claims = Self { sorted: Vec::new() };
        let mut others = Vec::new();
        let mut place = 0;
        while let Some(unit) = dirty.get(place) {
            place += 1;
            let key = units.key(unit);
            let new = view.labels(key);
            let mut old: Vec<&str> = units.names(unit).entries(names, unit).filter_map(|one| flat(one.name)).collect();
            old.sort_unstable();
            for label in old.iter().copied().filter(|label| new.binary_search_by(|one| (**one).cmp(label)).is_err()) {
                touch(names, label, unit, |other| dirty.add(other));
            }
            for label in new {
                let class = class_of(key, &label);
                match old.binary_search(&&*label) {
                    Ok(_) => touch(names, &label, unit, |other| others.push((label.clone(), other))),
                    Err(_) => touch(names, &label, unit, |other| dirty.add(other)),
                }
                claims.sorted.push((label, class, key.clone(), unit));
            }
        }
        // Whoever claims a name without being touched counts as well, though nothing changes for it.
        for (label, unit) in others.into_iter().filter(|(_, unit)| !dirty.has(*unit)) {
            let key = units.key(unit);
            claims.sorted.push((label.clone(), class_of(key, &label), key.clone(), unit));
        }
        claims.sorted.sort_unstable();
        claims
    }

    /// Whether a unit gets a name, or who has it.
    pub(super) fn get(&self, label: &str, unit: UnitId) -> Result<(), Holder<'_>> {
        let first = self.sorted.partition_point(|(one, ..)| **one < *label);
        match self.sorted.get(first) {
            Some((_, class, key, holder)) if *holder != unit => Err(Holder { class: *class, key }),
            Some(_) | None => Ok(()),
        }
    }
}

/// Tells of every other unit that claims a name in the zone as it is.
fn touch(names: &Shards, label: &str, unit: UnitId, mut tell: impl FnMut(UnitId)) {
    let Ok(name) = name::relative(&[label]) else { return };
    names.all(&name).filter(|entry| entry.unit != unit).for_each(|entry| tell(entry.unit));
}

/// The label of a name that has only one.
fn flat(name: &[u8]) -> Option<&str> {
    let (label, rest) = name::split_first(name)?;
    rest.is_empty().then(|| std::str::from_utf8(label).ok()).flatten()
}

fn class_of(key: &Key, label: &str) -> Class {
    let is_service = |project: &str, name: &str| {
        label.strip_prefix(project).and_then(|rest| rest.strip_prefix('-')).is_some_and(|rest| rest == name)
    };
    match key {
        Key::Cluster(_) => Class::Cluster,
        Key::Group((project, name)) if is_service(project, name) => Class::Service,
        Key::Group(_) | Key::Server(_) | Key::Fixed => Class::Instance,
    }
}
