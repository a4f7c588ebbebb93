//! From texts to values: each key is read once, checked by its type, and kept as it is for `config show`.

use std::fmt::Display;
use std::str::FromStr;

use super::key::{Key, Kind};
use super::problem::{Origin, Problems};
use super::raw::RawConfig;

/// What stands for a value that may hold secrets.
const NOT_SHOWN: &str = "(set, not shown)";

/// One effective value, as `config show` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) key: &'static Key,
    /// One text, or those of a list. An empty list for a text: not set, and no default.
    pub(crate) texts: Vec<String>,
    pub(crate) origin: Origin,
}

/// Reads the keys of a raw configuration and gathers what is wrong.
pub(crate) struct Reader<'a> {
    raw: &'a RawConfig,
    pub(crate) problems: Problems,
    pub(crate) shown: Vec<Shown>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(raw: &'a RawConfig, problems: Problems) -> Reader<'a> {
        Reader { raw, problems, shown: Vec::new() }
    }

    /// A value that has a default. If it is wrong the default stands in, so that the rest can be checked too.
    pub(crate) fn or<T: FromStr<Err: Display> + Display>(&mut self, path: (&str, &str), default: T) -> T {
        let key = known(path);
        match self.parse(key) {
            Some(Some(value)) => value,
            read => {
                if read.is_none() {
                    self.show(key, vec![default.to_string()], Origin::Default);
                }
                default
            }
        }
    }

    /// A value that need not be set.
    pub(crate) fn optional<T: FromStr<Err: Display>>(&mut self, path: (&str, &str)) -> Option<T> {
        let key = known(path);
        let read = self.parse(key);
        if read.is_none() {
            self.show(key, Vec::new(), Origin::Default);
        }
        read.flatten()
    }

    /// A value that is shown only where it is set: nobody but a test has a reason to.
    pub(crate) fn hidden<T: FromStr<Err: Display>>(&mut self, path: (&str, &str)) -> Option<T> {
        self.parse(known(path)).flatten()
    }

    /// A list.
    pub(crate) fn list<T: FromStr<Err: Display> + Display>(&mut self, path: (&str, &str), default: Vec<T>) -> Vec<T> {
        let key = known(path);
        let Some(setting) = self.raw.get(key) else {
            self.show(key, default.iter().map(ToString::to_string).collect(), Origin::Default);
            return default;
        };
        self.show(key, setting.pieces.iter().map(|(text, _)| text.clone()).collect(), setting.origin.clone());
        let mut values = Vec::new();
        for (text, origin) in &setting.pieces {
            match text.parse() {
                Ok(value) => values.push(value),
                Err(error) => self.wrong(key, origin, text, &error),
            }
        }
        values
    }

    /// Where the key was set.
    pub(crate) fn origin(&self, path: (&str, &str)) -> Origin {
        self.raw.get(known(path)).map_or(Origin::Default, |setting| setting.origin.clone())
    }

    /// Whether something is wrong with this key already, so that nothing need be said of what follows from it.
    pub(crate) fn is_wrong(&self, (section, name): (&str, &str)) -> bool {
        self.problems.name(&format!("{section}.{name}: "))
    }

    /// Something that no single value's type can know.
    pub(crate) fn problem(&mut self, path: (&str, &str), what: impl Display, hint: impl Into<String>) {
        let origin = self.origin(path);
        self.problems.add(&origin, format!("{}.{}: {what}", path.0, path.1), Some(hint.into()));
    }

    /// `None`: not set. `Some(None)`: set, and wrong.
    fn parse<T: FromStr<Err: Display>>(&mut self, key: &'static Key) -> Option<Option<T>> {
        let setting = self.raw.get(key)?;
        let (text, origin) = setting.pieces.first()?;
        self.show(key, vec![text.clone()], setting.origin.clone());
        match text.parse() {
            Ok(value) => Some(Some(value)),
            Err(error) => {
                self.wrong(key, origin, text, &error);
                Some(None)
            }
        }
    }

    fn wrong(&mut self, key: &Key, origin: &Origin, text: &str, error: &dyn Display) {
        let shown = match key.kind {
            Kind::Secret => NOT_SHOWN.to_owned(),
            Kind::Text | Kind::Texts | Kind::Switch | Kind::Processes | Kind::Files => {
                format!("`{}`", text.chars().take(80).collect::<String>())
            }
        };
        self.problems.add(origin, format!("{}: {shown}: {error}", key.path()), None);
    }

    fn show(&mut self, key: &'static Key, texts: Vec<String>, origin: Origin) {
        self.shown.push(Shown { key, texts, origin });
    }
}

/// The key of a path that the code names.
fn known((section, name): (&str, &str)) -> &'static Key {
    Key::find(section, name).expect("the code reads keys of the table only")
}

/// The effective configuration as TOML, each value with where it came from.
///
/// Nothing in it is secret: keys and tokens are in files of their own, of which only the paths stand here, and of a value that may hold
/// one it is only said that it is set.
pub(crate) fn render(shown: &[Shown]) -> String {
    let mut text = String::new();
    for section in Key::sections() {
        let keys: Vec<&Shown> = shown.iter().filter(|s| s.key.section == section).collect();
        let lines: Vec<(String, String)> = keys.iter().map(|s| (line(s), s.origin.to_string())).collect();
        let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
        text.push_str(&format!("[{section}]\n"));
        for (line, origin) in lines {
            let pad = " ".repeat(width - line.chars().count());
            text.push_str(&format!("{line}{pad}  # {origin}\n"));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

fn line(shown: &Shown) -> String {
    let quoted: Vec<String> = shown.texts.iter().map(|t| toml::Value::String(t.clone()).to_string()).collect();
    let name = shown.key.name;
    match (shown.key.kind, quoted.first()) {
        (Kind::Texts, _) => format!("{name} = [{}]", quoted.join(", ")),
        (Kind::Files, _) => {
            let files: Vec<String> = quoted.iter().map(|file| format!("{{ file = {file} }}")).collect();
            format!("{name} = [{}]", files.join(", "))
        }
        (Kind::Processes, _) => {
            let table = |text: &String| match text.split_once('=') {
                Some((process, command)) => format!("{{ name = \"{process}\", command = {command} }}"),
                None => format!("{{ name = {text:?} }}"),
            };
            format!("{name} = [{}]", shown.texts.iter().map(table).collect::<Vec<_>>().join(", "))
        }
        (Kind::Secret, Some(_)) => format!("# {name} = {NOT_SHOWN}"),
        (Kind::Switch, Some(_)) => format!("{name} = {}", shown.texts[0]),
        (Kind::Text, Some(text)) => format!("{name} = {text}"),
        // Not set and without a default: a comment, so that what is printed is itself a valid file.
        (Kind::Text | Kind::Secret | Kind::Switch, None) => format!("# {name} ="),
    }
}

/// The same as JSON: section, key, value, origin.
pub(crate) fn render_json(shown: &[Shown]) -> serde_json::Value {
    let mut sections = serde_json::Map::new();
    for Shown { key, texts, origin } in shown {
        let value = match key.kind {
            Kind::Texts | Kind::Processes => serde_json::json!(texts),
            Kind::Files => texts.iter().map(|file| serde_json::json!({ "file": file })).collect(),
            Kind::Switch => serde_json::json!(texts.first().map(|t| t == "true")),
            Kind::Text => serde_json::json!(texts.first()),
            Kind::Secret => serde_json::json!(texts.first().map(|_| NOT_SHOWN)),
        };
        let section = sections.entry(key.section).or_insert_with(|| serde_json::json!({}));
        section[key.name] = serde_json::json!({ "value": value, "from": origin.to_string() });
    }
    serde_json::Value::Object(sections)
}
