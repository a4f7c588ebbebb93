//! What peers sent, joined into the rows.

use kith_gossip_proto::frame::PulledRow;
use kith_gossip_proto::{Vector, Version};

use super::error::ExecuteError;
use super::error::SchemaError;
use super::group::Sum;
use super::table::TableSet;
use super::writer::Core;

impl Core {
    pub(crate) fn apply(&mut self, _versions: &[Version], _sum: &mut Sum) -> Result<(), ExecuteError> {
        Err(ExecuteError::Failed("apply is not there yet".to_owned()))
    }

    pub(crate) fn join(&mut self, _rows: &[PulledRow], _heads: &Vector, _sum: &mut Sum) -> Result<(), ExecuteError> {
        Err(ExecuteError::Failed("join is not there yet".to_owned()))
    }

    pub(crate) fn adopt(&mut self, _tables: &TableSet, _sum: &mut Sum) -> Result<(), SchemaError> {
        Ok(())
    }
}
