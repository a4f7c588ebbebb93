//! What a node knows: for each site, the last version it has applied.
//!
//! One integer a site is enough because a site's versions are applied strictly in order: a head of 7 means that whatever
//! survives of versions 1 to 7 is here.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use xxhash_rust::xxh3::Xxh3;

use crate::SiteId;

/// The heads of a node. A site that is absent has head 0.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Vector(BTreeMap<SiteId, u64>);

impl Vector {
    /// The last version of `site` that is applied; 0 when none is.
    pub fn head(&self, site: SiteId) -> u64 {
        self.0.get(&site).copied().unwrap_or(0)
    }

    /// Raises a head. A lower one than is known changes nothing: what is applied stays applied.
    pub fn raise(&mut self, site: SiteId, version: u64) {
        if version == 0 {
            return;
        }
        match self.0.entry(site) {
            Entry::Vacant(free) => drop(free.insert(version)),
            Entry::Occupied(mut head) => *head.get_mut() = version.max(*head.get()),
        }
    }

    /// Lowers a head: what the site wrote above `version` is not here after all. For a store that gives up its site.
    pub fn set_back(&mut self, site: SiteId, version: u64) {
        match version.min(self.head(site)) {
            0 => drop(self.0.remove(&site)),
            version => drop(self.0.insert(site, version)),
        }
    }

    /// The least upper bound of both.
    pub fn join(&mut self, other: &Self) {
        for (site, version) in other.iter() {
            self.raise(site, version);
        }
    }

    /// The greatest lower bound of both.
    pub fn meet(&mut self, other: &Self) {
        self.0.retain(|&site, version| {
            *version = other.head(site).min(*version);
            *version > 0
        });
    }

    /// Whether every head here is at least the other's.
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(site, version)| self.head(site) >= version)
    }

    /// The heads in which this vector is above the other: what the other lacks.
    pub fn above(&self, other: &Self) -> Self {
        Self(self.iter().filter(|&(site, version)| version > other.head(site)).collect())
    }

    /// How many versions of all sites together the other has and this lacks.
    pub fn lag(&self, other: &Self) -> u64 {
        other.iter().map(|(site, version)| version.saturating_sub(self.head(site))).sum()
    }

    /// The heads, by site.
    pub fn iter(&self) -> impl Iterator<Item = (SiteId, u64)> + '_ {
        self.0.iter().map(|(&site, &version)| (site, version))
    }

    /// How many sites have a head.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is known of anyone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Equal vectors have equal hashes on every machine; gossip carries this instead of the vector. xxh3-64 over the
    /// sites and heads in order.
    pub fn hash(&self) -> u64 {
        let mut hasher = Xxh3::new();
        for (site, version) in self.iter() {
            hasher.update(site.as_bytes());
            hasher.update(&version.to_le_bytes());
        }
        hasher.digest()
    }
}

impl FromIterator<(SiteId, u64)> for Vector {
    fn from_iter<T: IntoIterator<Item = (SiteId, u64)>>(heads: T) -> Self {
        let mut vector = Self::default();
        heads.into_iter().for_each(|(site, version)| vector.raise(site, version));
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_says_what_another_lacks() {
        let [a, b] = [1, 2].map(|n| SiteId::new([n; 16]));
        let ours = Vector::from_iter([(a, 5), (b, 1)]);
        let theirs = Vector::from_iter([(a, 3)]);
        assert_eq!(ours.above(&theirs), Vector::from_iter([(a, 5), (b, 1)]));
        assert_eq!(theirs.above(&ours), Vector::default());
        assert_eq!(theirs.lag(&ours), 3);
        assert!(ours.covers(&theirs) && !theirs.covers(&ours));
        assert_ne!(ours.hash(), theirs.hash());
    }
}
