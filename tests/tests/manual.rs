//! The manual works: the commands of its pages are run, in their order, on loopback.
//!
//! A command is an indented line `HOST# …`. Addresses and folders of the page are replaced by those of the lab, and a token
//! by the one that was just made; everything else is run as it stands. A command that is not known here fails the test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kith_tests::lab::{Addresses, Lab, Node, Run};

/// The servers of the manual, with the number that ends their address there.
const HOSTS: [(&str, u8); 3] = [("fra-1", 1), ("fra-2", 2), ("fra-3", 3)];

/// What a reader of the manual has in front of them.
struct Reader {
    lab: Lab,
    at: BTreeMap<String, Addresses>,
    nodes: BTreeMap<String, Node>,
    /// The token that was printed last.
    token: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manual")
}

fn text(page: &str) -> String {
    fs::read_to_string(folder().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"))
}

/// The commands of a page: host, and what is typed there.
fn commands(page: &str) -> Vec<(String, String)> {
    let text = text(page);
    let command = |line: &str| {
        let (host, typed) = line.strip_prefix("    ")?.split_once("# ")?;
        HOSTS.iter().any(|(name, _)| *name == host).then(|| (host.to_owned(), typed.to_owned()))
    };
    text.lines().filter_map(command).collect()
}

/// A line as a shell takes it apart; the manual needs no more of a shell than quotes.
fn words(typed: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for letter in typed.chars() {
        match quote {
            Some(open) if letter == open => quote = None,
            None if letter == '"' || letter == '\'' => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            None if letter.is_whitespace() => words.extend(word.take()),
            Some(_) | None => word.get_or_insert_default().push(letter),
        }
    }
    words.into_iter().chain(word).collect()
}

impl Reader {
    fn new() -> Reader {
        let at = HOSTS.iter().map(|(name, _)| ((*name).to_owned(), Addresses::choose(name))).collect();
        Reader { lab: Lab::new("manual"), at, nodes: BTreeMap::new(), token: String::new() }
    }

    async fn follow(&mut self, page: &str) -> Vec<Run> {
        let mut runs = Vec::new();
        for (host, typed) in commands(page) {
            runs.extend(self.run(&host, &typed).await);
        }
        runs
    }

    async fn run(&mut self, host: &str, typed: &str) -> Option<Run> {
        let at = self.at[host];
        let words = words(typed);
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["systemctl", "enable", "--now", "kith"] => {
                let mut node = self.lab.made(host, at);
                node.start().await;
                assert!(self.nodes.insert(host.to_owned(), node).is_none(), "{host} is started twice");
                return None;
            }
            ["systemctl", "restart", "kith"] => {
                let node = self.nodes.get_mut(host).unwrap_or_else(|| panic!("{host} does not run"));
                node.stop().await;
                node.start().await;
                return None;
            }
            ["curl", ref arguments @ ..] => {
                self.curl(host, typed, arguments).await;
                return None;
            }
            ["kith", ..] => {}
            _ => panic!("the manual has a command that this test does not know: {typed}"),
        }
        let mut arguments: Vec<String> = words[1..].iter().map(|word| self.here(word)).collect();
        let text = |path: PathBuf| path.display().to_string();
        let config = ["--config".to_owned(), text(self.lab.folder(host).join("kith.toml"))];
        let data = ["--data-dir".to_owned(), text(self.lab.folder(host).join("data"))];
        match arguments[0].as_str() {
            "init" | "join" => {
                arguments.extend(config.into_iter().chain(data));
                arguments.extend(["--listen".to_owned(), at.gossip.to_string()]);
            }
            "invite" => arguments.extend(config),
            "resolve" => arguments.extend(["--server".to_owned(), at.dns.to_string()]),
            "top" => {
                let socket = self.lab.folder(host).join("data/dns.sock");
                arguments.extend(["--socket".to_owned(), text(socket)]);
            }
            _ => arguments.extend(["--api".to_owned(), format!("http://{}", at.api)]),
        }
        let run = Run::of(&arguments).await;
        assert_eq!(run.code, Some(0), "{host}# {typed}\n{}{}", run.stdout, run.stderr);
        if let Some(token) = run.stdout.lines().find_map(|line| line.trim().strip_prefix("kith join ")) {
            token.clone_into(&mut self.token);
        }
        Some(run)
    }

    /// Asks the host's API what `curl` would ask it. Of an answer without end the first line is enough.
    async fn curl(&self, host: &str, typed: &str, arguments: &[&str]) {
        let (body, url) = match *arguments {
            ["--json", body, url] => (Some(serde_json::from_str(body).unwrap_or_else(|e| panic!("{typed}: {e}"))), url),
            [url] => (None, url),
            _ => panic!("curl is not known like this: {typed}"),
        };
        let path = url.strip_prefix("http://127.0.0.1:31220").unwrap_or_else(|| panic!("{url} is not the API"));
        let answer = self.nodes[host].api().stream(path, body.as_ref()).await;
        let mut answer = answer.unwrap_or_else(|error| panic!("{host}# {typed}\n{error}"));
        assert!(answer.status().is_success(), "{host}# {typed}\n{answer:?}");
        if !path.starts_with("/v1/updates") {
            let said = answer.chunk().await.expect("an answer").expect("some of it");
            let said = String::from_utf8_lossy(&said);
            let line = said.lines().next().unwrap_or_default();
            assert!(!line.contains("\"error\""), "{host}# {typed}\n{said}");
        }
    }

    /// A word of the manual, with this lab's addresses and token.
    fn here(&self, word: &str) -> String {
        if word.starts_with("kith1.") {
            return self.token.clone();
        }
        let address = HOSTS.iter().find(|(_, number)| word == format!("192.0.2.{number}:31280"));
        address.map_or_else(|| word.to_owned(), |(name, _)| self.at[*name].gossip.to_string())
    }
}

#[tokio::test]
async fn the_commands_of_the_manual_do_what_it_says() {
    let mut reader = Reader::new();
    let first = reader.follow("first-cluster.md").await;
    assert!(first.len() >= 9 && reader.nodes.len() == 3, "{first:?}");
    let last = &first[first.len() - 1];
    assert!(last.stdout.contains("casa") && last.stdout.contains("api"), "{}", last.stdout);
    let certificates = reader.follow("certificates.md").await;
    assert!(
        certificates.iter().any(|run| run.stdout.contains("fra-2 is server 2 of cluster casa")),
        "{certificates:?}"
    );
    reader.follow("api.md").await;
    let dns = reader.follow("dns.md").await;
    assert!(dns.len() == 3 && dns[0].stdout.contains("casa-api"), "{dns:?}");
    assert!(dns[1].stdout.contains("casa-api"), "{}", dns[1].stdout);
    let operating = reader.follow("operating.md").await;
    assert!(operating[0].stdout.contains("10.210.3.0/24"), "{}", operating[0].stdout);
    assert!(operating.iter().any(|run| run.stdout.contains("fra-3 is removed")), "{operating:?}");
    let shown = reader.nodes["fra-1"].api().get("/metrics").await.expect("metrics").body;
    let page = text("operating.md");
    let named: Vec<&str> = page.split('`').filter(|word| word.starts_with("kith_")).collect();
    assert!(named.len() >= 5, "{named:?}");
    for metric in named {
        let metric = metric.split('{').next().unwrap_or_default().trim_end_matches("_total");
        assert!(shown.contains(&format!("# TYPE {metric} ")), "{metric} is not in /metrics:\n{shown}");
    }
}

/// Each `Alarm { name: "…" }` in the store's sources.
fn alarms(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names.extend(alarms(&path));
        } else {
            let text = fs::read_to_string(&path).expect("a source");
            let made = text.split("Alarm { name: \"").skip(1);
            names.extend(made.filter_map(|rest| rest.split('"').next().map(str::to_owned)));
        }
    }
    names
}

#[test]
fn each_alarm_has_its_paragraph() {
    let (names, page) = (alarms(&folder().join("../gossip/src")), text("operating.md"));
    assert!(names.iter().any(|name| name == "certificate"), "{names:?}");
    for name in names {
        assert!(page.contains(&format!("\n**{name}.** ")), "operating.md does not say what the alarm {name} means");
    }
}

#[test]
fn the_pages_link_to_what_is_there() {
    let entries = fs::read_dir(folder()).expect("the manual").map(|entry| entry.expect("an entry").file_name());
    let pages: Vec<String> =
        entries.filter_map(|name| name.into_string().ok()).filter(|name| name.ends_with(".md")).collect();
    assert!(pages.iter().any(|page| page == "nats.md") && pages.len() >= 9, "{pages:?}");
    for page in pages {
        let text = text(&page);
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        // A place in a page is not looked for.
        for link in links.filter_map(|link| link.split('#').next()) {
            assert!(folder().join(link).exists(), "{page} links to {link}, which is not there");
        }
    }
}
