//! Numbers from a seed (xorshift64*): the same seed, the same faults.

/// The next of them.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Chance {
        // A seed of a few bits must not begin with numbers of a few bits, and the state is never zero.
        Chance(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        usize::try_from(number % bound as u64).expect("it is below a usize")
    }
}
