//! DNS cookies (RFC 7873), made as RFC 9018 makes them: by which a client proves that it receives what is sent to the
//! address it asks from. Pure: the secret and the time come in.
//!
//! None is ever required. A wrong or old one is answered like none, with a fresh one in the reply.

use std::hash::Hasher as _;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// Bytes of a client's cookie.
pub(crate) const CLIENT: usize = 8;
/// Bytes of both cookies, as an option has them.
pub(crate) const BOTH: usize = 24;
/// Lengths that an option with both cookies may have (RFC 7873 §4).
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=40;
/// Seconds for which a server's cookie is good (RFC 9018 §4.3).
const OLD: u32 = 3600;
/// Seconds by which a cookie may be from the future: of a server that shared the secret and whose clock runs ahead.
const AHEAD: u32 = 300;
/// Seconds after which a good cookie is replaced by a fresh one.
const AGING: u32 = 1800;

/// What a query says of cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// Nothing.
    None,
    /// Its own cookie alone, or with one that no server of ours made.
    Client([u8; CLIENT]),
    /// Its own and one that may be ours.
    Both([u8; BOTH]),
}

impl Cookie {
    /// Reads the option's content; `None` when it has a length that it cannot have.
    pub(crate) fn parse(option: &[u8]) -> Option<Self> {
        if let Ok(both) = option.try_into() {
            return Some(Self::Both(both));
        }
        let client = *option.first_chunk()?;
        (option.len() == CLIENT || LENGTHS.contains(&option.len())).then_some(Self::Client(client))
    }
}

/// Makes and checks cookies at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Cookies {
    secret: [u8; 16],
    /// Seconds since 1970, whose low 32 bits count.
    now: u32,
}

/// What a server's cookie proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Its bearer received it at the address that asks.
    Good,
    Nothing,
}

impl Cookies {
    /// Those that this secret makes, at the beginning of time.
    #[must_use]
    pub const fn new(secret: [u8; 16]) -> Self {
        Self { secret, now: 0 }
    }

    /// The same at this moment.
    #[must_use]
    pub fn at(self, now: u32) -> Self {
        Self { now, ..self }
    }

    /// What to send to who sent `cookie` from `source`, and what it proves.
    pub(crate) fn reply(&self, cookie: Cookie, source: IpAddr) -> (Option<[u8; BOTH]>, Proof) {
        match cookie {
            Cookie::None => (None, Proof::Nothing),
            Cookie::Client(client) => (Some(self.fresh(&client, source)), Proof::Nothing),
            Cookie::Both(both) => {
                let client = *both.first_chunk().expect("8 of 24 bytes");
                match self.proof(&both, source) {
                    Proof::Good if self.age(&both) <= AGING as i32 => (Some(both), Proof::Good),
                    proof => (Some(self.fresh(&client, source)), proof),
                }
            }
        }
    }

    fn proof(&self, both: &[u8; BOTH], source: IpAddr) -> Proof {
        let age = self.age(both);
        let current = -(AHEAD as i32) <= age && age <= OLD as i32;
        // The version, and what is reserved goes into the hash as it came (RFC 9018 §4.2).
        if current && both[8] == 1 && self.hash(&both[..16], source) == both[16..] {
            Proof::Good
        } else {
            Proof::Nothing
        }
    }

    /// Seconds since a cookie was made, by the arithmetic of serial numbers (RFC 1982).
    fn age(&self, both: &[u8; BOTH]) -> i32 {
        let made = u32::from_be_bytes([both[12], both[13], both[14], both[15]]);
        self.now.wrapping_sub(made) as i32
    }

    fn fresh(&self, client: &[u8; CLIENT], source: IpAddr) -> [u8; BOTH] {
        let mut both = [0; BOTH];
        both[..8].copy_from_slice(client);
        both[8] = 1;
        both[12..16].copy_from_slice(&self.now.to_be_bytes());
        let hash = self.hash(&both[..16], source);
        both[16..].copy_from_slice(&hash);
        both
    }

    /// Of client cookie, version, reserved bytes and time, and the address asked from.
    fn hash(&self, head: &[u8], source: IpAddr) -> [u8; 8] {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(head);
        match source {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.finish().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The reply to a cookie, as hex, and whether it proves anything.
    fn reply(secret: &str, now: u32, sent: &str, source: &str) -> (String, Proof) {
        let sent: Vec<u8> =
            (0..sent.len() / 2).map(|i| u8::from_str_radix(&sent[2 * i..2 * i + 2], 16).unwrap()).collect();
        let cookies = Cookies::new(bytes(secret)).at(now);
        let (both, proof) = cookies.reply(Cookie::parse(&sent).unwrap(), source.parse().unwrap());
        (hex(&both.unwrap()), proof)
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    /// RFC 9018 appendix A.
    #[test]
    fn the_cookies_are_those_of_the_standard() {
        let first = reply(SECRET, 0x5cf7_9f11, "2464c4abcf10c957", "198.51.100.100");
        assert_eq!(first, ("2464c4abcf10c957010000005cf79f111f8130c3eee29480".into(), Proof::Nothing));
        // 40 minutes later: still good, and replaced.
        let renewed = reply(SECRET, 0x5cf7_a871, &first.0, "198.51.100.100");
        assert_eq!(renewed, ("2464c4abcf10c957010000005cf7a871d4a564a1442aca77".into(), Proof::Good));
        // Reserved bytes that are not zero.
        let other = "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5";
        let (both, _) = reply(SECRET, 0x5cf7_a9ac, other, "203.0.113.203");
        assert_eq!(both, "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e");
        assert_eq!(reply(SECRET, 0x5cf7_9000, other, "203.0.113.203"), (other.into(), Proof::Good));
        // A secret that was replaced.
        let ip = "2001:db8:220:1:59de:d0f4:8769:82b8";
        let before = "22681ab97d52c298010000005cf7c57926556bd0934c72f8";
        assert_eq!(reply("dd3bdf9344b678b185a6f5cb60fca715", 0x5cf7_c579, &before[..16], ip).0, before);
        let after = reply("445536bcd2513298075a5d379663c962", 0x5cf7_c609, before, ip);
        assert_eq!(after, ("22681ab97d52c298010000005cf7c609a6bb79d16625507a".into(), Proof::Nothing));
    }

    #[test]
    fn a_cookie_is_good_for_an_hour_at_its_own_address() {
        let ours = reply(SECRET, 1000, "0102030405060708", "192.0.2.1").0;
        let proof = |now, cookie: &str, ip| reply(SECRET, now, cookie, ip).1;
        assert_eq!(proof(1000 + 3600, &ours, "192.0.2.1"), Proof::Good);
        assert_eq!(proof(1000 + 3601, &ours, "192.0.2.1"), Proof::Nothing);
        assert_eq!(proof(700, &ours, "192.0.2.1"), Proof::Good);
        assert_eq!(proof(699, &ours, "192.0.2.1"), Proof::Nothing);
        assert_eq!(proof(1000, &ours, "192.0.2.2"), Proof::Nothing);
        assert_eq!(proof(1000, &ours.replacen("01", "02", 1), "192.0.2.1"), Proof::Nothing);
        // Any answer has a good one for the next question.
        let fresh = reply(SECRET, 9000, &ours, "192.0.2.2").0;
        assert_eq!(proof(9000, &fresh, "192.0.2.2"), Proof::Good);
    }

    proptest! {
        #[test]
        fn an_option_has_8_or_16_to_40_bytes(option in proptest::collection::vec(any::<u8>(), 0..64)) {
            let possible = option.len() == 8 || (16..=40).contains(&option.len());
            prop_assert_eq!(Cookie::parse(&option).is_some(), possible);
        }
    }
}
