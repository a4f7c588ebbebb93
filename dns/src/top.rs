//! The busiest names, counted in bounded memory ("space-saving", Metwally et al. 2005): a name that finds no room takes
//! the place of the rarest and its count, so that a count is never too low, and too high by no more than is told with it.

use std::collections::{BTreeSet, HashMap};

/// Names that are counted at once. One that has more than a thousandth of all is surely among them.
const NAMES: usize = 1024;

/// Names with how often they were asked for.
#[derive(Debug, Default)]
pub struct Top {
    counts: HashMap<String, Counted>,
    /// By count: which one is the rarest.
    order: BTreeSet<(u64, String)>,
    total: u64,
}

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The name.
    pub name: String,
    /// The zone it is in.
    pub zone: String,
    /// How often it was asked for, at most.
    pub count: u64,
    /// How much of it may be another name's.
    pub error: u64,
}

impl Top {
    /// Counts a name so many times.
    pub fn add(&mut self, name: &str, zone: &str, times: u64) {
        self.total += times;
        if let Some(counted) = self.counts.get_mut(name) {
            self.order.remove(&(counted.count, name.to_owned()));
            counted.count += times;
            self.order.insert((counted.count, name.to_owned()));
            return;
        }
        let error = match self.order.pop_first() {
            Some((least, rarest)) if self.counts.len() >= NAMES => {
                self.counts.remove(&rarest);
                least
            }
            Some(first) => {
                self.order.insert(first);
                0
            }
            None => 0,
        };
        let count = error + times;
        self.order.insert((count, name.to_owned()));
        self.counts.insert(name.to_owned(), Counted { name: name.to_owned(), zone: zone.to_owned(), count, error });
    }

    /// The busiest, at most so many.
    #[must_use]
    pub fn busiest(&self, most: usize) -> Vec<Counted> {
        self.order.iter().rev().take(most).filter_map(|(_, name)| self.counts.get(name).cloned()).collect()
    }

    /// How often any name was asked for.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_names_are_counted_exactly() {
        let mut top = Top::default();
        for (name, times) in [("a", 2), ("b", 5), ("a", 4), ("c", 1)] {
            top.add(name, "z", times);
        }
        let busiest: Vec<_> = top.busiest(2).into_iter().map(|one| (one.name, one.count, one.error)).collect();
        assert_eq!(busiest, [("a".to_owned(), 6, 0), ("b".to_owned(), 5, 0)]);
        assert_eq!(top.total(), 12);
    }

    #[test]
    fn among_a_flood_of_names_the_busy_ones_are_found_within_what_is_told() {
        let mut top = Top::default();
        let mut truth = HashMap::new();
        for n in 0..200_000u64 {
            let name = match n % 10 {
                0..=1 => "busy".to_owned(),
                2 => "next".to_owned(),
                _ => format!("random{}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20),
            };
            *truth.entry(name.clone()).or_insert(0) += 1;
            top.add(&name, ".", 1);
        }
        assert!(top.counts.len() <= NAMES && top.order.len() == top.counts.len());
        let busiest = top.busiest(10);
        assert_eq!([busiest[0].name.as_str(), busiest[1].name.as_str()], ["busy", "next"]);
        for one in &busiest {
            let true_count = truth[&one.name];
            assert!(one.count >= true_count && one.count - one.error <= true_count, "{one:?}, {true_count}");
        }
    }
}
