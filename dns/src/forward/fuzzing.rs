//! What must hold of an upstream's answer, whatever bytes it is.

use std::time::Instant;

use hickory_proto::op::Message;

use super::clean::{Cleaned, Sent, clean};
use super::rebind::Guard;
use crate::answer::message::Opt;
use crate::query::{self, HEADER, QName};

/// The lengths that are asked for: the smallest, ours, and that of a stream.
const SIZES: [usize; 3] = [512, 1232, 65_535];

/// One byte of flags, then an answer to the question that stands in it: what is given on can be read by another codec,
/// is never longer than the asker takes, and says TC if it is cut.
pub(crate) fn forwarded(bytes: &[u8]) {
    let Some((flags, message)) = bytes.split_first() else { return };
    let Some(body) = message.get(HEADER..) else { return };
    let Some((name, _)) = QName::parse(body) else { return };
    let Some(question) = body.get(..name.wire().len() + 4) else { return };
    let sent = Sent { id: [message[0], message[1]], question, dnssec_ok: flags & 1 != 0 };
    let guard = if flags & 2 != 0 { Guard::cluster(&[]) } else { Guard::default() };
    let Cleaned::Answer(entry, _) = clean(message, &sent, &guard) else { return };
    let edns: &[u8] = if flags & 4 != 0 { &[0, 0, 41, 16, 0, 0, 0, 128, 0, 0, 0] } else { &[] };
    let head = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!edns.is_empty())];
    let asked = [&head, question, edns].concat();
    let Ok(query) = query::parse(&asked) else { return };
    let mut out = Vec::new();
    let mut whole = 0;
    for size in SIZES.into_iter().rev() {
        let opt = query.edns.as_ref().map(|edns| Opt::of(edns, "s1", entry.ede()));
        entry.write(&query, size, opt.as_ref(), Instant::now(), &mut out);
        whole = whole.max(out.len());
        assert!(out.len() <= size, "{} bytes of {size}", out.len());
        let read = Message::from_vec(&out).expect("an answer that another codec reads");
        assert_eq!(read.metadata.truncation, out.len() < whole, "TC");
        assert_eq!(&out[HEADER..HEADER + question.len()], question);
    }
}
