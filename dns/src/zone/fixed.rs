//! Names from zone files: read once, then never changed.
//!
//! A file whose zone is one that is served anyway is laid over it: its names replace those of the rows, one by one, and
//! whoever asks sees the union. Any other file is a zone of its own.

mod build;
mod table;

use std::path::PathBuf;
use std::sync::Arc;

use super::origin::Origin;
use crate::zonefile::Fault;
pub(crate) use build::load;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use build::zone_of;
pub(crate) use table::FixedNode;
use table::Table;

/// The zones of all files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fixed {
    /// The longest origin first.
    zones: Arc<[Arc<FixedZone>]>,
    files: Arc<[FileState]>,
}

/// One file, and what came of it.
#[derive(Debug, Clone)]
pub(crate) struct FileState {
    pub(crate) path: PathBuf,
    /// The zone that is served; `None` if there never was a good one.
    pub(crate) zone: Option<Arc<FixedZone>>,
    /// What is wrong with the file as it is.
    pub(crate) fault: Option<Fault>,
}

/// The zone of one file.
#[derive(Debug)]
pub(crate) struct FixedZone {
    pub(super) origin: Origin,
    table: Table,
    forms: Forms,
    /// What is served otherwise than it is written, or not at all: the first 100.
    pub(crate) notes: Box<[Fault]>,
    pub(crate) note_count: usize,
}

/// What makes finding a name take more than one look.
#[derive(Debug, Clone, Copy, Default)]
struct Forms {
    /// Some name below the origin has NS.
    cuts: bool,
    wildcards: bool,
}

/// What a file says of a name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Said<'a> {
    /// Records.
    Node(FixedNode<'a>),
    /// The name is in a zone of somebody else, whose name servers these are; its origin begins at this byte.
    Cut(FixedNode<'a>, usize),
    /// The name exists, because others stand below it.
    Empty,
    /// Nothing, and a wildcard stands for it.
    Wildcard(FixedNode<'a>),
    Nothing,
}

impl Fixed {
    /// The zones of these files. Of two with one origin, the first is served.
    pub(crate) fn new(files: Vec<FileState>) -> Self {
        let mut zones: Vec<_> = files.iter().filter_map(|file| file.zone.clone()).collect();
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.origin().len()));
        Self { zones: zones.into(), files: files.into() }
    }

    pub(crate) fn zones(&self) -> &[Arc<FixedZone>] {
        &self.zones
    }

    /// The files, in the order of the configuration.
    pub(crate) fn files(&self) -> &[FileState] {
        &self.files
    }
}

impl FixedZone {
    /// The zone's own name, lower-cased wire form with its closing zero.
    pub(crate) fn origin(&self) -> &[u8] {
        self.origin.wire()
    }

    /// The same, as people read it.
    pub(crate) fn name(&self) -> String {
        let wire = self.origin();
        if wire.len() == 1 { ".".to_owned() } else { crate::name::text(&wire[..wire.len() - 1]) }
    }

    /// How many names it has, empty non-terminals included.
    pub(crate) fn names(&self) -> usize {
        self.table.len()
    }

    /// Whether the zone begins below this name.
    pub(super) fn is_below(&self, qname: &[u8]) -> bool {
        let origin = self.origin.wire();
        let Some(at) = origin.len().checked_sub(qname.len()).filter(|at| *at > 0 && origin.ends_with(qname)) else {
            return false;
        };
        let mut label = 0;
        while label < at {
            label += 1 + usize::from(origin[label]);
        }
        label == at
    }

    /// What stands at the zone's own name.
    pub(super) fn apex(&self) -> FixedNode<'_> {
        self.table.get(&[]).expect("a table has the zone's own name")
    }

    /// What stands at exactly this relative name.
    pub(super) fn exactly(&self, name: &[u8]) -> Option<FixedNode<'_>> {
        self.table.get(name)
    }

    /// What the file says of a relative name below its origin, whose labels begin at `labels`. `exists` tells of the
    /// names that are there without the file, also of those above the one that is asked.
    pub(super) fn say(&self, name: &[u8], labels: &[u8], exists: impl Fn(&[u8]) -> bool) -> Said<'_> {
        if self.forms.cuts
            && let Some(cut) = self.cut(name, labels)
        {
            return cut;
        }
        match self.table.get(name) {
            Some(node) if node.is_empty() => Said::Empty,
            Some(node) => Said::Node(node),
            None if self.forms.wildcards && !exists(name) => self.wildcard(name, labels, exists),
            None => Said::Nothing,
        }
    }

    /// The highest name above or at this one that belongs to somebody else.
    fn cut(&self, name: &[u8], labels: &[u8]) -> Option<Said<'_>> {
        for at in labels.iter().rev().map(|at| usize::from(*at)) {
            let node = self.table.get(&name[at..])?;
            if node.set(super::rtype::NS).is_some() {
                return Some(Said::Cut(node, at));
            }
        }
        None
    }

    /// The wildcard right below the nearest name that exists (RFC 4592 §3.3.1).
    fn wildcard(&self, name: &[u8], labels: &[u8], exists: impl Fn(&[u8]) -> bool) -> Said<'_> {
        let mut nearest = name.len();
        for at in labels.iter().skip(1).rev().map(|at| usize::from(*at)) {
            if self.table.get(&name[at..]).is_none() && !exists(&name[at..]) {
                break;
            }
            nearest = at;
        }
        let mut star = [0; crate::name::NAME_MAX + 2];
        let rest = &name[nearest..];
        star[..2].copy_from_slice(b"\x01*");
        star[2..2 + rest.len()].copy_from_slice(rest);
        match self.table.get(&star[..2 + rest.len()]) {
            Some(node) if node.is_empty() => Said::Empty,
            Some(node) => Said::Wildcard(node),
            None => Said::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
