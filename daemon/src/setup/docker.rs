//! Docker's own configuration, `daemon.json`: whom its containers ask for names, and below which domains they look for short ones.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};

use crate::bridge::gateway;
use crate::docker::Docker;

/// What containers are to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The name server: the host's address in its containers' range.
    pub server: String,
    /// The domains below which a short name is looked for.
    pub search: Vec<String>,
    /// Programs built on musl look below them only if a name with that many dots is tried as it is first. Docker's own is 0.
    pub ndots: u8,
}

/// Why a file cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not JSON.
    #[error("it is not JSON")]
    Json(#[source] serde_json::Error),
    /// It is, but not an object, or not lists of texts where those belong.
    #[error("{0} is not what Docker takes there")]
    Shape(&'static str),
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its name.
    pub name: String,
    /// The text of its `resolv.conf`; none if it uses the host's, or it cannot be read.
    pub resolver: Option<String>,
}

/// Why Docker cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AskError(Box<dyn std::error::Error + Send + Sync>);

/// The containers that run in the Docker at `socket`.
pub async fn running(socket: &Path) -> Result<Vec<Running>, AskError> {
    let found = Docker::at(socket).running().await.map_err(|error| AskError(error.into()))?;
    let read = |(name, path): (String, Option<std::path::PathBuf>)| {
        let resolver = path.and_then(|path| std::fs::read_to_string(path).ok());
        Running { name, resolver }
    };
    Ok(found.into_iter().map(read).collect())
}

/// The name server of the containers of the server whose own range this is.
pub fn name_server(cluster: Ipv4Net, own: Ipv4Net) -> Option<Ipv4Addr> {
    gateway(cluster, own)
}

/// A file with what containers are to be told; what was there stays, behind it. None: it says so already.
pub fn plan(text: &str, wanted: &Wanted) -> Result<Option<String>, FileError> {
    let before = read(text)?;
    let mut after = before.clone();
    front(&mut after, "dns", std::slice::from_ref(&wanted.server), |_| false)?;
    front(&mut after, "dns-search", &wanted.search, |_| false)?;
    front(&mut after, "dns-opts", &[format!("ndots:{}", wanted.ndots)], |option| option.starts_with("ndots:"))?;
    Ok((after != before).then(|| render(&after)))
}

/// A file without what we put there, if somebody has changed it since.
pub fn without(text: &str, wrote: &str) -> Result<String, FileError> {
    let (mut file, ours) = (read(text)?, read(wrote)?);
    for key in ["dns", "dns-search", "dns-opts"] {
        let mut left = list(&file, key)?;
        let put = list(&ours, key)?;
        left.retain(|value| !put.contains(value));
        if left.is_empty() {
            file.remove(key);
        } else {
            file.insert(key.to_owned(), json!(left));
        }
    }
    Ok(render(&file))
}

/// Whether Docker goes on with its containers while it is restarted.
pub fn is_live_restore(text: &str) -> bool {
    read(text).is_ok_and(|file| file.get("live-restore") == Some(&Value::Bool(true)))
}

/// Whether a container's `resolv.conf` was written before its Docker was told.
pub fn is_old(resolver: &str, wanted: &Wanted) -> bool {
    let words = |key: &str| {
        let lines = resolver.lines().filter_map(|line| line.trim().strip_prefix(key));
        lines.flat_map(str::split_whitespace).map(str::to_owned).collect::<Vec<_>>()
    };
    let (search, options) = (words("search "), words("options "));
    !wanted.search.iter().all(|domain| search.contains(domain)) || !options.contains(&format!("ndots:{}", wanted.ndots))
}

fn read(text: &str) -> Result<Map<String, Value>, FileError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text).map_err(FileError::Json)? {
        Value::Object(file) => Ok(file),
        _ => Err(FileError::Shape("the file")),
    }
}

fn render(file: &Map<String, Value>) -> String {
    let text = serde_json::to_string_pretty(file).expect("a map of JSON is JSON");
    format!("{text}\n")
}

fn list(file: &Map<String, Value>, key: &'static str) -> Result<Vec<String>, FileError> {
    let Some(value) = file.get(key) else { return Ok(Vec::new()) };
    let texts = value.as_array().ok_or(FileError::Shape(key))?.iter().map(|text| text.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or(FileError::Shape(key))
}

/// Puts values in front of a list. What they replace goes.
fn front(
    file: &mut Map<String, Value>,
    key: &'static str,
    values: &[String],
    replaced: impl Fn(&str) -> bool,
) -> Result<(), FileError> {
    let mut left = list(file, key)?;
    left.retain(|value| !values.contains(value) && !replaced(value));
    let all: Vec<String> = values.iter().cloned().chain(left).collect();
    if !all.is_empty() {
        file.insert(key.to_owned(), json!(all));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted { server: "10.210.135.1".to_owned(), search: vec!["internal".to_owned()], ndots: 1 }
    }

    fn planned(text: &str) -> String {
        plan(text, &wanted()).expect("it can be read").unwrap_or_else(|| "nothing to do".to_owned())
    }

    #[test]
    fn what_is_there_stays_behind_what_is_put_in_front() {
        insta::assert_snapshot!(planned(""), @r#"
        {
          "dns": [
            "10.210.135.1"
          ],
          "dns-opts": [
            "ndots:1"
          ],
          "dns-search": [
            "internal"
          ]
        }
        "#);
        let before =
            r#"{ "log-driver": "journald", "dns": ["9.9.9.9", "10.210.135.1"], "dns-opts": ["ndots:5", "timeout:2"] }"#;
        let after = planned(before);
        insta::assert_snapshot!(after, @r#"
        {
          "dns": [
            "10.210.135.1",
            "9.9.9.9"
          ],
          "dns-opts": [
            "ndots:1",
            "timeout:2"
          ],
          "dns-search": [
            "internal"
          ],
          "log-driver": "journald"
        }
        "#);
        assert_eq!(planned(&after), "nothing to do");
    }

    #[test]
    fn what_docker_would_not_take_is_refused() {
        let refused = |text: &str| plan(text, &wanted()).map_err(|error| error.to_string());
        assert_eq!(refused("{"), Err("it is not JSON".to_owned()));
        assert_eq!(refused("[]"), Err("the file is not what Docker takes there".to_owned()));
        assert_eq!(refused(r#"{"dns": "1.1.1.1"}"#), Err("dns is not what Docker takes there".to_owned()));
        assert_eq!(refused(r#"{"dns-search": [1]}"#), Err("dns-search is not what Docker takes there".to_owned()));
    }

    #[test]
    fn what_was_put_is_taken_away_and_what_others_added_stays() {
        let wrote = planned("{}");
        let since =
            wrote.replace("\"10.210.135.1\"", "\"10.210.135.1\", \"9.9.9.9\"").replace('{', "{\"debug\": true,");
        let left = without(&since, &wrote).expect("it can be read");
        insta::assert_snapshot!(left, @r#"
        {
          "debug": true,
          "dns": [
            "9.9.9.9"
          ]
        }
        "#);
    }

    #[test]
    fn a_resolver_from_before_is_told_from_one_of_after() {
        let after = "nameserver 127.0.0.11\nsearch internal example.com\noptions ndots:1 timeout:2\n";
        assert!(!is_old(after, &wanted()));
        for before in [
            "nameserver 127.0.0.11\noptions ndots:0\n",
            "nameserver 9.9.9.9\nsearch internal\n",
            "nameserver 127.0.0.11\nsearch example.com\noptions ndots:1\n",
            "",
        ] {
            assert!(is_old(before, &wanted()), "{before}");
        }
    }

    #[test]
    fn live_restore_is_seen() {
        assert!(is_live_restore(r#"{"live-restore": true}"#));
        assert!(!is_live_restore(r#"{"live-restore": "yes"}"#) && !is_live_restore("") && !is_live_restore("{"));
    }
}
