//! Lists as TXT records: Fly.io's forms, which existing clients parse.

use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use super::entry::Kind;
use super::node::{Listed, Node};
use super::records::{RR_HEAD, Sets, Tail, push_set, rtype};
use super::shard::Shards;
use crate::config::Ttl;
use crate::name;

/// Longest list in bytes. A message holds 65,535: the list, a byte before each 255 of it, header, question and OPT.
pub(super) const LIST_MAX: usize = 65_000;
/// Longest string inside a TXT record (RFC 1035 §3.3).
const STRING_MAX: usize = 255;

/// The lists of everything, each made when somebody first asks for it, and kept as long as the zone.
#[derive(Debug, Default)]
pub(super) struct Lists {
    apps: OnceLock<Made>,
    instances: OnceLock<Made>,
}

/// A list, and how many entries did not fit.
#[derive(Debug)]
struct Made {
    set: Vec<u8>,
    cut: usize,
}

impl Lists {
    /// The set of a list, if it is made.
    pub(super) fn get(&self, which: Listed) -> Option<Sets<'_>> {
        self.cell(which).get().map(|made| Sets::read(&made.set))
    }

    /// Makes a list over all APPs by their names, which takes some 10 ms at a million names. Blocking.
    pub(super) fn make(&self, which: Listed, names: &Shards, ttl: Ttl) {
        let make = match which {
            Listed::Apps => apps,
            Listed::Instances => instances,
        };
        self.cell(which).get_or_init(|| {
            let list = make(names);
            Made { set: list.set(ttl), cut: list.cut() }
        });
    }

    /// How many entries did not fit into those that are made.
    pub(super) fn cut(&self) -> usize {
        [&self.apps, &self.instances].into_iter().filter_map(OnceLock::get).map(|made| made.cut).sum()
    }

    fn cell(&self, which: Listed) -> &OnceLock<Made> {
        match which {
            Listed::Apps => &self.apps,
            Listed::Instances => &self.instances,
        }
    }
}

/// The flat names of all APPs, sorted.
fn flats(names: &Shards) -> Vec<&str> {
    let apps = names.iter().filter(|entry| entry.kind == Kind::App);
    let mut flats: Vec<&str> = apps.filter_map(|entry| std::str::from_utf8(entry.name.get(1..)?).ok()).collect();
    flats.sort_unstable();
    flats
}

fn apps(names: &Shards) -> List {
    let mut list = List::new(',');
    for app in flats(names) {
        list.push(format_args!("{app}"));
    }
    list
}

/// `_instances`, out of what `vms` and the instances themselves say, so that nothing has to be kept for it.
fn instances(names: &Shards) -> List {
    let mut list = List::new(';');
    for app in flats(names) {
        let vms = name::relative(&["vms", app]).ok().and_then(|name| names.get(&name));
        let Some(Node::Plain(sets)) = vms else { continue };
        for entry in text(&sets).split(',').filter(|entry| !entry.is_empty()) {
            let (label, region) = entry.split_once(' ').unwrap_or((entry, ""));
            let vm = name::relative(&[label, "vm", app]).ok().and_then(|name| names.get(&name));
            let Some(Node::Plain(sets)) = vm else { continue };
            if let Some(ip) = sets.iter().find_map(|set| set.addresses().next()) {
                list.push(format_args!("instance={label},app={app},ip={ip},region={region}"));
            }
        }
    }
    list
}

/// The text of a list that was written by [`List::set`].
fn text(sets: &Sets<'_>) -> String {
    let rdata = sets.iter().next().map_or(&[][..], |set| set.wire().get(RR_HEAD..).unwrap_or_default());
    let mut text = String::with_capacity(rdata.len());
    let mut rest = rdata;
    while let Some((string, tail)) = name::split_first(rest) {
        text += &String::from_utf8_lossy(string);
        rest = tail;
    }
    text
}

/// A list under construction: entries joined by a separator, cut at the last whole entry that fits.
pub(crate) struct List {
    text: String,
    separator: char,
    cut: usize,
}

impl List {
    pub(crate) fn new(separator: char) -> Self {
        Self { text: String::new(), separator, cut: 0 }
    }

    /// Appends one entry, in pieces or whole: `format_args!` writes it in place.
    pub(crate) fn push(&mut self, entry: fmt::Arguments<'_>) {
        if self.cut > 0 {
            self.cut += 1;
            return;
        }
        let before = self.text.len();
        if before > 0 {
            self.text.push(self.separator);
        }
        self.text.write_fmt(entry).expect("writing to a String cannot fail");
        if self.text.len() > LIST_MAX {
            self.text.truncate(before);
            self.cut = 1;
        }
    }

    /// How many entries did not fit.
    pub(crate) fn cut(&self) -> usize {
        self.cut
    }

    /// The list as a set; without entries there is none.
    pub(crate) fn set(&self, ttl: Ttl) -> Vec<u8> {
        let mut set = Vec::new();
        push_set(&mut set, rtype::TXT, Tail::Whole, ttl, self.rdata().into_iter());
        set
    }

    /// The list as the RDATA of one record; `None` when it is empty.
    fn rdata(&self) -> Option<Vec<u8>> {
        let mut rdata = Vec::with_capacity(self.text.len() + self.text.len() / STRING_MAX + 1);
        for string in self.text.as_bytes().chunks(STRING_MAX) {
            rdata.push(string.len() as u8);
            rdata.extend_from_slice(string);
        }
        (!rdata.is_empty()).then_some(rdata)
    }
}
