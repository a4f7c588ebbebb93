//! The echo: a datagram through the tunnel that asks a peer's daemon whether it comes through, and the answer.
//!
//! ```text
//!  0      4         5      6        8       16
//!  │ kith │ version │ kind │ length │ token │ zeros, in a question that is to be longer
//! ```
//!
//! An answer has no zeros: it says how long the question was, and is never longer than that. What is not understood is no echo, and
//! is answered by nobody. A question says whether the asker was answered of late: who hears that knows as much as by an answer, also
//! where a firewall lets its own questions through to nobody.

/// Where a daemon listens, UDP, on its management address.
pub(crate) const PORT: u16 = 31821;
/// The shortest question, and every answer.
pub(super) const HEAD: usize = 16;
/// The longest question: no tunnel carries more in one packet.
pub(super) const MOST: usize = 1500;
/// What is before it in a packet: headers of IPv6 and UDP.
pub(super) const BEFORE: u16 = 48;

const MAGIC: [u8; 4] = *b"kith";
/// Who asks by another version gets no answer, and is told by its handshakes alone.
const VERSION: u8 = 1;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const QUESTION_OF_ONE_ANSWERED: u8 = 3;

/// What a datagram says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Echo {
    /// Does this, which is so long, come through?
    Question(Token, u16, Asker),
    /// That came through, which was so long.
    Answer(Token, u16),
}

/// How it goes who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// It was answered of late.
    Answered,
    /// It was not.
    NotAnswered,
}

/// What an answer has of its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(pub(super) [u8; 8]);

/// A question of this length; the shortest, if that is longer.
pub(super) fn question(token: Token, length: u16, asker: Asker) -> Vec<u8> {
    let length = length.clamp(HEAD as u16, MOST as u16);
    let kind = match asker {
        Asker::Answered => QUESTION_OF_ONE_ANSWERED,
        Asker::NotAnswered => QUESTION,
    };
    let mut datagram = head(kind, length, token).to_vec();
    datagram.resize(usize::from(length), 0);
    datagram
}

/// The answer to a question.
pub(super) fn answer(token: Token, length: u16) -> [u8; HEAD] {
    head(ANSWER, length, token)
}

fn head(kind: u8, length: u16, Token(token): Token) -> [u8; HEAD] {
    let ([a, b, c, d], [high, low]) = (MAGIC, length.to_be_bytes());
    let [e, f, g, h, i, j, k, l] = token;
    [a, b, c, d, VERSION, kind, high, low, e, f, g, h, i, j, k, l]
}

/// Reads a datagram, whoever sent it.
pub(super) fn read(datagram: &[u8]) -> Option<Echo> {
    let (head, rest) = datagram.split_first_chunk::<HEAD>()?;
    let [a, b, c, d, version, kind, high, low, token @ ..] = *head;
    if [a, b, c, d] != MAGIC || version != VERSION || rest.iter().any(|byte| *byte != 0) {
        return None;
    }
    let length = u16::from_be_bytes([high, low]);
    let asker = match kind {
        ANSWER if rest.is_empty() => return Some(Echo::Answer(Token(token), length)),
        QUESTION => Asker::NotAnswered,
        QUESTION_OF_ONE_ANSWERED => Asker::Answered,
        _ => return None,
    };
    let is_whole = usize::from(length) == datagram.len() && datagram.len() <= MOST;
    is_whole.then_some(Echo::Question(Token(token), length, asker))
}

/// For the fuzzer: what is read is what was written, and its answer is no longer, and one.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn accepts(datagram: &[u8]) {
    match read(datagram) {
        Some(Echo::Question(token, length, asker)) => {
            assert_eq!(question(token, length, asker), datagram);
            let answer = answer(token, length);
            assert!(answer.len() <= datagram.len());
            assert_eq!(read(&answer), Some(Echo::Answer(token, length)));
        }
        Some(Echo::Answer(token, length)) => assert_eq!(answer(token, length), datagram),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: Token = Token(*b"12345678");

    #[test]
    fn the_bytes_of_a_question_and_its_answer_are_these() {
        assert_eq!(question(TOKEN, 18, Asker::NotAnswered), b"kith\x01\x01\x00\x1212345678\0\0");
        assert_eq!(question(TOKEN, 16, Asker::Answered), b"kith\x01\x03\x00\x1012345678");
        assert_eq!(&answer(TOKEN, 18), b"kith\x01\x02\x00\x1212345678");
        for asker in [Asker::NotAnswered, Asker::Answered] {
            assert_eq!(read(&question(TOKEN, 1420, asker)), Some(Echo::Question(TOKEN, 1420, asker)));
        }
        assert_eq!(read(&answer(TOKEN, 1420)), Some(Echo::Answer(TOKEN, 1420)));
        let length = |length| question(TOKEN, length, Asker::Answered).len();
        assert_eq!((length(0), length(u16::MAX)), (HEAD, MOST));
    }

    #[test]
    fn no_answer_is_longer_than_its_question_and_none_is_a_question() {
        for length in 0..=MOST {
            let asked = question(TOKEN, u16::try_from(length).unwrap(), Asker::NotAnswered);
            let Some(Echo::Question(token, length, _)) = read(&asked) else { panic!("{length}") };
            let answered = answer(token, length);
            assert!(answered.len() <= asked.len() && matches!(read(&answered), Some(Echo::Answer(..))), "{length}");
        }
    }

    #[test]
    fn whatever_else_comes_is_no_echo() {
        let asked = question(TOKEN, 40, Asker::NotAnswered);
        for length in 0..asked.len() {
            assert_eq!(read(&asked[..length]), None, "{length}");
        }
        for at in (0..asked.len()).filter(|at| !(8..16).contains(at)) {
            for flip in 1..=u8::MAX {
                let mut wrong = asked.clone();
                wrong[at] ^= flip;
                let other = (at, wrong[at]) == (5, QUESTION_OF_ONE_ANSWERED);
                assert_eq!(read(&wrong).is_some(), other, "{at} {flip}");
            }
        }
        let mut beyond = question(TOKEN, MOST as u16, Asker::Answered);
        beyond.push(0);
        beyond[6..8].copy_from_slice(&(MOST as u16 + 1).to_be_bytes());
        assert_eq!(read(&beyond), None);
        let longer = [&answer(TOKEN, 16)[..], &[0]].concat();
        assert_eq!((read(&longer), read(&[])), (None, None));
        // Another version, whatever it has, is left alone.
        let mut later = answer(TOKEN, 16);
        later[4] = VERSION + 1;
        assert_eq!(read(&later), None);
    }
}
