//! What the two sides of a pull say of themselves.

use super::{get_vector, put_vector};
use crate::codec::{DecodeError, Decoder, Encoder};
use crate::purged::{Away, away};
use crate::{Day, Purged, Vector};

/// What a node that pulls has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Its heads: it lacks what is above them.
    pub above: Vector,
    /// [`Purged::through`] of its.
    pub purged: Vector,
}

/// What the answerer has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Its heads.
    pub heads: Vector,
    /// What it has purged, and so did not send.
    pub purged: Purged,
}

/// Of someone who has purged nothing.
impl From<Vector> for Answered {
    fn from(heads: Vector) -> Self {
        Self { heads, purged: Purged::default() }
    }
}

impl Answered {
    /// Which of the two has been away for too long, as the answerer sees it.
    pub fn away(&self, asker: &Question) -> Away {
        away(&self.heads, &self.purged.through, &asker.above, &asker.purged)
    }
}

pub(super) fn put_question(out: &mut Encoder, question: &Question) {
    put_vector(out, &question.above);
    put_vector(out, &question.purged);
}

pub(super) fn get_question(body: &mut Decoder<'_>) -> Result<Question, DecodeError> {
    Ok(Question { above: get_vector(body)?, purged: get_vector(body)? })
}

pub(super) fn put_answered(out: &mut Encoder, answered: &Answered) {
    let Answered { heads, purged: Purged { through, lengths, floor } } = answered;
    put_vector(out, heads);
    put_vector(out, through);
    out.varint(u64::from(floor.0));
    out.varint(lengths.len() as u64);
    for (table, &cl) in lengths {
        out.name(table);
        out.varint(cl);
    }
}

pub(super) fn get_answered(body: &mut Decoder<'_>) -> Result<Answered, DecodeError> {
    let (heads, through, floor) = (get_vector(body)?, get_vector(body)?, Day(body.u32()?));
    Ok(Answered { heads, purged: Purged { through, lengths: body.columns(Decoder::length)?, floor } })
}
