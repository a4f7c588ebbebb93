//! The ancestor's YAML file: its keys, taken as those of `[presence]`.
//!
//! It is read as what it is, sections with keys below them, each a single value; no more of YAML than that.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Legacy {
    /// As `SECTION.KEY=VALUE`.
    pub(crate) set: Vec<String>,
    /// For people: what each key is called here.
    pub(crate) told: Vec<String>,
}

/// What bounds memory instead of the ancestor's cache: who set its bound relies on one.
const UNBOUNDED: &str = "whoever is here is kept in memory, however many they are; \
                         of more than a million users those who are gone are forgotten";

/// Reads a file's text. A secret that stands in it is kept in a file of its own, in `dir`, which only its owner can read.
pub(crate) fn read(text: &str, dir: &Path) -> Result<Legacy, Failure> {
    let mut legacy = Legacy::default();
    for (key, value) in keys(text)? {
        match key.as_str() {
            "service.node_type" => legacy.key(&key, ("presence", "role"), &value),
            "service.port" => legacy.key(&key, ("presence", "listen"), &format!("0.0.0.0:{value}")),
            "auth.jwt_secret" => {
                let path = keep(&value, dir)?;
                legacy.key(&key, ("presence", "jwt_secret_file"), &path.display().to_string());
            }
            "nats.data_dir" => legacy.key(&key, ("nats", "store_dir"), &value),
            "nats.embedded" => {
                legacy.told.push(format!("{key} is gone: presence.url names the nats-server that `kith nats` runs"));
            }
            "cache.max_cost" => legacy.told.push(format!("{key} has no effect: {UNBOUNDED}")),
            "cache.num_counters" | "cache.buffer_items" => {
                legacy.told.push(format!("{key} has no effect: there is no cache, all users are in memory"));
            }
            _ => {
                let hint = "known are service.node_type, service.port, nats.data_dir, nats.embedded, cache.max_cost, \
                            cache.num_counters, cache.buffer_items and auth.jwt_secret";
                return Err(Failure::message(Exit::Config, format!("{key} is not a known key")).hint(hint));
            }
        }
    }
    Ok(legacy)
}

impl Legacy {
    fn key(&mut self, old: &str, (section, name): (&str, &str), value: &str) {
        self.set.push(format!("{section}.{name}={value}"));
        let value = toml::Value::from(value);
        let value = if name == "listen" { toml::Value::Array(vec![value]) } else { value };
        self.told.push(format!("{old} is [{section}] {name} = {value}"));
    }
}

fn keys(text: &str) -> Result<Vec<(String, String)>, Failure> {
    let (mut section, mut keys) = (String::new(), Vec::new());
    for (at, line) in text.lines().enumerate() {
        let content = line.split(" #").next().unwrap_or_default().trim_end();
        if content.trim().is_empty() || content.trim_start().starts_with('#') || content == "---" {
            continue;
        }
        let wrong = || Failure::message(Exit::Config, format!("line {}: not `section:` or `  key: value`", at + 1));
        let (name, value) = content.split_once(':').ok_or_else(wrong)?;
        let value = value.trim().trim_matches(['"', '\'']);
        match (name.strip_prefix(' '), value) {
            (None, "") => section = name.trim().to_owned(),
            (Some(name), value) if !section.is_empty() && !value.is_empty() => {
                keys.push((format!("{section}.{}", name.trim()), value.to_owned()));
            }
            (None | Some(_), _) => return Err(wrong()),
        }
    }
    Ok(keys)
}

fn keep(secret: &str, dir: &Path) -> Result<PathBuf, Failure> {
    let path = dir.join("presence.secret");
    let failed = |e: std::io::Error| Failure::new(Exit::Io, e).context(path.display().to_string());
    match std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => file.write_all(secret.as_bytes()).map_err(failed)?,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            if std::fs::read(&path).map_err(failed)? != secret.as_bytes() {
                let told = format!("{} is there, with another secret than auth.jwt_secret", path.display());
                return Err(
                    Failure::message(Exit::Config, told).hint("keep the one that holds, and take the other away")
                );
            }
        }
        Err(e) => return Err(failed(e)),
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# presence
service:
  node_type: leaf   # or center
  port: 8081
nats:
  embedded: true
  data_dir: \"/var/lib/nats\"
cache:
  max_cost: 1073741824
  num_counters: 10000000
  buffer_items: 64
auth:
  jwt_secret: '0123456789abcdef0123456789abcdef'
";

    #[test]
    fn the_ancestors_keys_are_taken_and_what_they_are_called_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let legacy = read(FILE, dir.path()).unwrap();
        let secret = dir.path().join("presence.secret");
        let kept = format!("presence.jwt_secret_file={}", secret.display());
        let set = ["presence.role=leaf", "presence.listen=0.0.0.0:8081", "nats.store_dir=/var/lib/nats", &kept];
        assert_eq!(legacy.set, set);
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "0123456789abcdef0123456789abcdef");
        let told = legacy.told.join("\n").replace(&secret.display().to_string(), "SECRET");
        insta::assert_snapshot!(told, @r#"
        service.node_type is [presence] role = "leaf"
        service.port is [presence] listen = ["0.0.0.0:8081"]
        nats.embedded is gone: presence.url names the nats-server that `kith nats` runs
        nats.data_dir is [nats] store_dir = "/var/lib/nats"
        cache.max_cost has no effect: whoever is here is kept in memory, however many they are; of more than a million users those who are gone are forgotten
        cache.num_counters has no effect: there is no cache, all users are in memory
        cache.buffer_items has no effect: there is no cache, all users are in memory
        auth.jwt_secret is [presence] jwt_secret_file = "SECRET"
        "#);
    }

    #[test]
    fn a_secret_that_is_there_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        read(FILE, dir.path()).unwrap();
        read(FILE, dir.path()).unwrap();
        let secret = dir.path().join("presence.secret");
        std::fs::write(&secret, "another").unwrap();
        let report = read(FILE, dir.path()).unwrap_err().report().unwrap();
        assert!(report.contains("presence.secret is there, with another secret"), "{report}");
        assert_eq!(std::fs::read_to_string(secret).unwrap(), "another");
    }

    #[test]
    fn what_is_not_known_is_an_error_with_its_place() {
        for (text, told) in [
            ("service:\n  nodetype: leaf\n", "service.nodetype is not a known key"),
            ("service\n", "line 1: not `section:`"),
            ("  port: 1\n", "line 1: not"),
            ("service:\n  port:\n", "line 2: not"),
        ] {
            let report = read(text, Path::new(".")).unwrap_err().report().unwrap();
            assert!(report.contains(told), "{report}");
        }
    }
}
