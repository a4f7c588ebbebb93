//! What the store in memory does about rows that change behind its back, as the one in SQLite does.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, RowId, Store, log_id};
use crate::buckets::{Bucket, Buckets};
use crate::frame::PulledRow;
use crate::repair::{Seal, proven};
use crate::{Digest, Digests, Part, Row, Vector};

impl Store {
    /// Puts another row in the place of one, or none, and nothing that the store keeps hears of it.
    pub fn damage(&mut self, id: RowId, row: Option<Row>) {
        match row {
            Some(row) => drop(self.rows.insert(id, row)),
            None => drop(self.rows.remove(&id)),
        }
    }

    /// Whether the row is what was written, as far as its seal says.
    pub fn seal(&self, id: &RowId) -> Seal {
        let terms = self.rows.get(id).map(|row| Digest::of(&id.0, &id.1, row));
        if terms == self.seals.get(id).copied() { Seal::Whole } else { Seal::Broken }
    }

    /// What is wrong with the rows, by all that is kept of them.
    pub fn wrong(&self) -> Vec<String> {
        let broken = self.rows.keys().filter(|id| self.seal(id) == Seal::Broken);
        let broken = broken.map(|id| format!("{id:?} is not what was written"));
        broken.chain(self.verify().err().map(|damage| damage.to_string())).collect()
    }

    /// The digests by bucket, made from the rows.
    pub fn buckets(&self) -> Buckets {
        let mut buckets = Buckets::default();
        for (id, row) in &self.rows {
            buckets.add(Bucket::of(&id.0, &id.1), Digest::of(&id.0, &id.1, row));
        }
        buckets
    }

    /// Buckets of rows whose seal is broken.
    pub fn broken(&self) -> BTreeSet<Bucket> {
        let broken = self.rows.keys().filter(|id| self.seal(id) == Seal::Broken);
        broken.map(|id| Bucket::of(&id.0, &id.1)).collect()
    }

    /// What [`Store::collect`] gives, and all rows of these buckets besides.
    pub fn collect_with(&self, above: &Vector, buckets: &BTreeSet<Bucket>) -> Answer {
        let mut answer = self.collect(above);
        let came: BTreeSet<_> = answer.rows.iter().map(|row| (row.table.clone(), row.key.clone())).collect();
        let besides =
            self.rows.iter().filter(|(id, _)| buckets.contains(&Bucket::of(&id.0, &id.1)) && !came.contains(id));
        let row = |(id, row): (&RowId, &Row)| PulledRow { table: id.0.clone(), key: id.1.clone(), row: row.clone() };
        answer.rows.extend(besides.map(row));
        answer
    }

    /// Puts a sound peer's rows of these buckets in the place of ours, by `keep`, which is [`proven`] but in tests that show
    /// what that is for; joins all else, and makes everything that is kept anew from the rows.
    pub fn repair(&mut self, buckets: &BTreeSet<Bucket>, answer: Answer, keep: Keep) -> &Vector {
        let mut theirs = BTreeMap::<RowId, Row>::new();
        for PulledRow { table, key, row } in answer.rows {
            if buckets.contains(&Bucket::of(&table, &key)) {
                theirs.entry((table, key)).and_modify(|piece| piece.join(row.clone())).or_insert(row);
            } else {
                self.merge((table, key), row);
            }
        }
        let here = self.rows.keys().filter(|id| buckets.contains(&Bucket::of(&id.0, &id.1)));
        let ids: BTreeSet<_> = here.chain(theirs.keys()).cloned().collect();
        for id in ids {
            let ours = self.rows.get(&id).map(|row| (row.clone(), self.seal(&id)));
            match keep(ours, theirs.remove(&id), &self.heads, &answer.heads) {
                Some(row) => drop(self.rows.insert(id, row)),
                None => drop(self.rows.remove(&id)),
            }
        }
        self.heads.join(&answer.heads);
        self.purged.join(&answer.purged);
        self.recount();
        &self.heads
    }

    fn recount(&mut self) {
        (self.digests, self.log, self.seals) = (Digests::default(), BTreeMap::new(), BTreeMap::new());
        for (id, row) in &self.rows {
            let terms = Digest::of(&id.0, &id.1, row);
            self.digests.add(Part::of(row.cl, row.rs), terms);
            self.log.extend(row.stamps().into_iter().map(|stamp| (log_id(stamp), id.clone())));
            self.seals.insert(id.clone(), terms);
        }
        let readings: Vec<_> = self.rows.values().flat_map(Row::stamps).map(|stamp| stamp.hlc).collect();
        readings.into_iter().for_each(|hlc| self.clock.observe(hlc));
    }
}

/// What a repair keeps of a row, from ours and the peer's, and the heads of both.
pub type Keep = fn(Option<(Row, Seal)>, Option<Row>, &Vector, &Vector) -> Option<Row>;

/// What a store does.
pub const PROVEN: Keep = proven;
