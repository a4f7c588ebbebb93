//! What was written, before anybody asks what it means: texts by key, each with the place it came from.
//!
//! File, environment and flags end up in the same form; the later source replaces the earlier one's value whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::key::{KEYS, Key, Kind, nearest};
use super::nats::INHERITED;
use super::problem::{Origin, Problems};

/// Most bytes of a configuration file. One with every key set has some hundreds; this is no configuration.
pub(crate) const MAX_FILE: u64 = 1024 * 1024;

/// The values that were set, by `section.name`.
#[derive(Debug, Default)]
pub(crate) struct RawConfig {
    settings: BTreeMap<(&'static str, &'static str), Setting>,
}

/// One value that was set.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Where.
    pub(crate) origin: Origin,
    /// Its texts: one, or those of a list, each with its own line.
    pub(crate) pieces: Vec<(String, Origin)>,
}

impl RawConfig {
    /// What was set for this key.
    pub(crate) fn get(&self, key: &'static Key) -> Option<&Setting> {
        self.settings.get(&(key.section, key.name))
    }

    /// Adds what a file holds.
    pub(crate) fn add_file(&mut self, path: &Path, text: &str, problems: &mut Problems) {
        let file = File { path: Arc::new(path.to_owned()), lines: Lines::of(text) };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let origin = file.at(error.span().map_or(0, |span| span.start));
            // What the parser takes a bare word for.
            let bare = error.message().starts_with("invalid boolean").then(|| "a text stands in quotes".to_owned());
            problems.add(&origin, error.message().replace('\n', ", "), bare);
        }
        for (section, value) in document.get_ref() {
            let origin = file.at(section.span().start);
            match value.get_ref() {
                DeValue::Table(table) if KEYS.iter().any(|key| key.section == section.get_ref()) => {
                    self.add_section(&file, section.get_ref(), table, problems);
                }
                DeValue::Table(_) => {
                    let hint = nearest(section.get_ref(), Key::sections()).map(|s| format!("did you mean [{s}]?"));
                    problems.add(&origin, format!("[{}] is not a known section", section.get_ref()), hint);
                }
                _ => problems.add(
                    &origin,
                    format!("{}: a key outside of any section", section.get_ref()),
                    Some(format!("the sections are {}", Key::sections().collect::<Vec<_>>().join(", "))),
                ),
            }
        }
    }

    /// Adds what the environment says. Variables that begin like a section's are keys, and must be known ones; others
    /// with our prefix (`KITH_API`, `KITH_LOG`) are not of the configuration.
    pub(crate) fn add_environment(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
        problems: &mut Problems,
    ) {
        let mut own = Vec::new();
        for (name, value) in variables {
            match INHERITED.iter().find(|(inherited, _)| *inherited == name) {
                Some((_, key)) => {
                    let key = Key::find("nats", key).expect("each stands for a key");
                    self.set_text(key, &value, Origin::Environment(name));
                }
                None => own.push((name, value)),
            }
        }
        for (name, value) in own {
            let Some((section, rest)) = name.strip_prefix("KITH_").and_then(|rest| rest.split_once('_')) else {
                continue;
            };
            let (section, rest) = (section.to_lowercase(), rest.to_lowercase());
            if !Key::sections().any(|known| known == section) {
                continue;
            }
            let origin = Origin::Environment(name.clone());
            match KEYS.iter().find(|key| key.variable() == name) {
                Some(key) => self.set_text(key, &value, origin),
                None => unknown(&section, &rest, &origin, problems),
            }
        }
    }

    /// Adds one `--set SECTION.KEY=VALUE`.
    pub(crate) fn add_flag(&mut self, assignment: &str, problems: &mut Problems) {
        let parts = assignment.split_once('=').and_then(|(path, value)| Some((path.trim().split_once('.')?, value)));
        let Some(((section, name), value)) = parts else {
            problems.add(&Origin::Flag, format!("`{assignment}` is not SECTION.KEY=VALUE"), None);
            return;
        };
        match Key::find(section, name) {
            Some(key) => self.set_text(key, value.trim(), Origin::Flag),
            None => unknown(section, name, &Origin::Flag, problems),
        }
    }

    fn add_section(&mut self, file: &File, section: &str, table: &DeTable<'_>, problems: &mut Problems) {
        for (name, value) in table {
            let origin = file.at(name.span().start);
            let Some(key) = Key::find(section, name.get_ref()) else {
                unknown(section, name.get_ref(), &origin, problems);
                continue;
            };
            let read = match (section, key.name, value.get_ref()) {
                ("dns", "forward", DeValue::Table(domains)) => forwards(file, domains, problems),
                _ => pieces(file, key.kind, value),
            };
            match read {
                Some(pieces) => self.set(key, Setting { origin, pieces }),
                // What stands in a line that does not parse is the parser's guess.
                None if problems.are_at(&origin) => {}
                None => problems.add(
                    &origin,
                    format!("{}: {}, where {} is wanted", key.path(), kind_of(value.get_ref()), key.kind.wanted()),
                    None,
                ),
            }
        }
    }

    fn set_text(&mut self, key: &'static Key, value: &str, origin: Origin) {
        let piece = |text: &str| (text.trim().to_owned(), origin.clone());
        let pieces = match key.kind {
            Kind::Text | Kind::Secret | Kind::Switch | Kind::Processes => vec![piece(value)],
            Kind::Texts | Kind::Files => value.split(',').filter(|text| !text.trim().is_empty()).map(piece).collect(),
        };
        self.set(key, Setting { origin, pieces });
    }

    fn set(&mut self, key: &'static Key, setting: Setting) {
        self.settings.insert((key.section, key.name), setting);
    }
}

/// The domains of `[dns.forward."corp.example"] servers = […]`, each as one text, `corp.example=ADDR+ADDR`, as the
/// environment and `--set` have it (where commas separate the domains).
fn forwards(file: &File, domains: &DeTable<'_>, problems: &mut Problems) -> Option<Vec<(String, Origin)>> {
    let mut texts = Vec::new();
    for (domain, value) in domains {
        let origin = file.at(domain.span().start);
        let DeValue::Table(keys) = value.get_ref() else { return None };
        let mut servers = Vec::new();
        for (name, value) in keys {
            match (name.get_ref().as_ref(), pieces(file, Kind::Texts, value)) {
                ("servers", Some(pieces)) => servers.extend(pieces.into_iter().map(|(text, _)| text)),
                _ => problems.add(
                    &file.at(name.span().start),
                    format!(
                        "dns.forward.{}.{}: only servers, a list of texts, is known",
                        domain.get_ref(),
                        name.get_ref()
                    ),
                    None,
                ),
            }
        }
        texts.push((format!("{}={}", domain.get_ref(), servers.join("+")), origin));
    }
    Some(texts)
}

/// The texts of a value, if it is of the kind.
fn pieces(file: &File, kind: Kind, value: &Spanned<DeValue<'_>>) -> Option<Vec<(String, Origin)>> {
    let origin = file.at(value.span().start);
    let text = match (kind, value.get_ref()) {
        (Kind::Text | Kind::Secret, DeValue::String(text)) => text.to_string(),
        (Kind::Text, DeValue::Integer(number)) => number.to_string(),
        (Kind::Switch, DeValue::Boolean(truth)) => truth.to_string(),
        (Kind::Texts, DeValue::Array(array)) => {
            return array.iter().map(|value| pieces(file, Kind::Text, value)?.pop()).collect();
        }
        (Kind::Processes, DeValue::Array(array)) => {
            return array.iter().map(|value| pieces(file, Kind::Processes, value)?.pop()).collect();
        }
        (Kind::Processes, DeValue::Table(table)) if table.len() == 2 => {
            let (name, _) = pieces(file, Kind::Text, table.get("name")?)?.pop()?;
            let command: Vec<String> =
                pieces(file, Kind::Texts, table.get("command")?)?.into_iter().map(|(text, _)| text).collect();
            format!("{name}={}", serde_json::json!(command))
        }
        (Kind::Files, DeValue::Array(array)) => {
            return array.iter().map(|value| pieces(file, Kind::Files, value)?.pop()).collect();
        }
        (Kind::Files, DeValue::Table(table)) if table.len() == 1 => {
            return pieces(file, Kind::Text, table.get("file")?);
        }
        _ => return None,
    };
    Some(vec![(text, origin)])
}

fn kind_of(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn unknown(section: &str, name: &str, origin: &Origin, problems: &mut Problems) {
    let names = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    let hint = match nearest(name, names.clone()) {
        Some(near) => format!("did you mean {section}.{near}?"),
        None => format!("[{section}] knows {}", names.collect::<Vec<_>>().join(", ")),
    };
    problems.add(origin, format!("{section}.{name} is not a known key"), Some(hint));
}

/// A file and where its lines are.
struct File {
    path: Arc<PathBuf>,
    lines: Lines,
}

/// Where each line of a text begins.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1).collect())
    }
}

impl File {
    /// The place of the byte at `offset`.
    fn at(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.clone(), line: self.lines.0.partition_point(|start| *start <= offset) + 1 }
    }
}
