//! Setting up a host and putting it back: Docker's configuration, the firewall and Docker's network, as an operator does it.

use std::path::{Path, PathBuf};
use std::process::Command;

use kith_tests::lab::{Run, ScriptedDocker, kith};
use kith_tests::skip::skip;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;

const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222222222222222222222222222";

/// A host's files, and its Docker.
struct Host {
    folder: TempDir,
    docker: ScriptedDocker,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::create_dir(folder.path().join("data")).expect("the folder can be written");
        let docker = ScriptedDocker::at(&folder.path().join("docker.sock"));
        Host { folder, docker }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    /// A configuration that is about this host alone.
    fn settings(&self) -> Vec<String> {
        let at = |path: &Path| path.display().to_string();
        let set = [
            "node.name=n1".to_owned(),
            format!("node.data_dir={}", at(&self.path("data"))),
            format!("daemon.docker={}", at(&self.path("docker.sock"))),
            "dns.listen=127.0.0.1:53".to_owned(),
        ];
        set.into_iter().flat_map(|set| ["--set".to_owned(), set]).collect()
    }

    async fn docker(&self, more: &[&str]) -> Run {
        let file = self.path("daemon.json").display().to_string();
        let fixed = ["daemon", "setup-docker", "--dns", "10.210.135.1", "--file", &file];
        let arguments: Vec<String> = fixed.iter().chain(more).map(|word| (*word).to_owned()).collect();
        let run = Run::of(arguments.into_iter().chain(self.settings())).await;
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run
    }
}

#[tokio::test]
async fn containers_are_had_to_ask_kith_and_docker_is_left_as_it_runs() {
    let host = Host::new();
    let labels = json!({});
    host.docker.run(ONE, "10.210.135.7", &labels, None);
    host.docker.run(TWO, "10.210.135.8", &labels, None);
    for (id, text) in [(ONE, "options ndots:0\n"), (TWO, "search internal\noptions ndots:1\n")] {
        let path = host.path(&format!("resolv-{}", &id[..4]));
        std::fs::write(&path, format!("nameserver 127.0.0.11\n{text}")).expect("the folder can be written");
        host.docker.resolver(id, &path);
    }
    let dry = host.docker(&["--dry-run"]).await;
    assert!(
        dry.stdout.contains("daemon.json would become:\n  {\n    \"dns\": [\n      \"10.210.135.1\""),
        "{}",
        dry.stdout
    );
    assert!(dry.stdout.contains("ask as before until they are started again: container-1111\n"), "{}", dry.stdout);
    assert!(dry.stdout.contains("stop when Docker is restarted: container-1111, container-2222\n"), "{}", dry.stdout);
    assert_eq!((host.read("daemon.json"), host.read("data/changed.json")), (None, None));

    let applied = host.docker(&["--apply"]).await;
    assert!(applied.stdout.contains("daemon.json is now:"), "{}", applied.stdout);
    let written: Value = serde_json::from_str(&host.read("daemon.json").expect("it is written")).expect("JSON");
    assert_eq!(written, json!({ "dns": ["10.210.135.1"], "dns-search": ["internal"], "dns-opts": ["ndots:1"] }));
    let again: Value = serde_json::from_str(&host.docker(&["--apply", "--json"]).await.stdout).expect("JSON");
    assert_eq!((&again["text"], &again["written"]), (&Value::Null, &json!(false)), "{again}");
    assert_eq!((&again["old"], &again["restarted"]), (&json!(["container-1111"]), &json!(false)), "{again}");
}

#[tokio::test]
async fn what_docker_would_not_take_is_not_touched() {
    let host = Host::new();
    std::fs::write(host.path("daemon.json"), "{ \"dns\": \"9.9.9.9\" }").expect("the folder can be written");
    let file = host.path("daemon.json").display().to_string();
    let fixed = ["daemon", "setup-docker", "--apply", "--dns", "10.210.135.1", "--file", &file].map(str::to_owned);
    let run = Run::of(fixed.into_iter().chain(host.settings())).await;
    assert_eq!(run.code, Some(1), "{}", run.stdout);
    assert!(run.stderr.contains("dns is not what Docker takes there"), "{}", run.stderr);
    assert_eq!(host.read("daemon.json").as_deref(), Some("{ \"dns\": \"9.9.9.9\" }"));
}

#[tokio::test]
async fn the_host_s_own_resolver_is_told_or_a_person_is() {
    let host = Host::new();
    let setup = async |resolver: &str| {
        std::fs::write(host.path("resolv.conf"), resolver).expect("the folder can be written");
        let (file, resolver) =
            (host.path("kith.conf").display().to_string(), host.path("resolv.conf").display().to_string());
        let fixed = ["daemon", "setup-host", "--dry-run", "--file", &file, "--resolver", &resolver].map(str::to_owned);
        let run = Run::of(fixed.into_iter().chain(host.settings())).await;
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        run.stdout
    };
    let told = setup("nameserver 127.0.0.53\n").await;
    assert!(told.contains("kith.conf would become:") && told.contains("  Domains=~internal\n"), "{told}");
    let told = setup("nameserver 9.9.9.9\n").await;
    assert!(told.contains("  nameserver 127.0.0.1\n"), "{told}");
    assert_eq!(host.read("kith.conf"), None);
}

#[tokio::test]
async fn uninstalling_puts_back_what_was_there_and_takes_away_what_was_left() {
    let test = "uninstalling_puts_back_what_was_there_and_takes_away_what_was_left";
    let host = Host::new();
    let before = "{ \"debug\": true }\n";
    std::fs::write(host.path("daemon.json"), before).expect("the folder can be written");
    let installed = ["etc/systemd/system/kith.service", "usr/local/bin/kith", "usr/local/share/man/man1/kith-status.1"];
    let foreign = "usr/local/share/man/man1/kithara.1";
    for path in installed.iter().chain([&foreign]).map(|path| host.path(path)) {
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder can be written");
        std::fs::write(path, "").expect("the folder can be written");
    }
    host.docker(&["--apply"]).await;
    assert_ne!(host.read("daemon.json").as_deref(), Some(before));
    host.docker.make_network("kith", "10.210.135.0/24", &json!({}));
    host.docker.run(ONE, "10.210.135.7", &json!({}), None);

    // In a network of its own: the firewall of this host is nobody's business.
    let rule = "POSTROUTING -s 10.210.135.0/24 ! -d 10.210.0.0/16 -m comment --comment kith -j MASQUERADE";
    let script = format!(
        "iptables -t nat -I {rule} || exit 99\n\"$@\" --dry-run\necho ---\niptables -t nat -S POSTROUTING\n\"$@\" --apply || exit\n\
         echo ---\niptables -t nat -S POSTROUTING"
    );
    let uninstall = async |more: Vec<String>| {
        let mut command = tokio::process::Command::from(Command::new("unshare"));
        command
            .args(["--net", "sh", "-c", &script, "sh"])
            .arg(kith())
            .arg("uninstall")
            .args(more)
            .args(host.settings());
        command.output().await
    };
    let root = ["--root".to_owned(), host.folder.path().display().to_string()];
    if !geteuid().is_root() {
        return skip(test, "a network of its own needs root");
    }
    let output = uninstall(root.to_vec()).await.expect("unshare runs");
    if output.status.code() == Some(99) {
        return skip(test, &format!("no firewall here: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let parts: Vec<&str> = said.split("---\n").collect();
    let [dry, applied, after] = parts[..] else { panic!("{said}") };
    for line in [
        "daemon.json, as it was before",
        "remove 1 rules of the firewall",
        "kith.service",
        "Docker's network kith: container-1111",
    ] {
        assert!(dry.contains(line) && applied.contains(line), "{line}: {said}");
    }
    assert!(applied.starts_with("-P POSTROUTING ACCEPT\n-A "), "a dry run did something: {said}");
    assert!(!after.contains("--comment kith"), "{said}");
    assert_eq!(host.read("daemon.json").as_deref(), Some(before));
    assert!(
        installed.iter().all(|path| !host.path(path).exists())
            && host.path("data").exists()
            && host.path(foreign).exists()
    );
    assert!(host.docker.network("kith").is_some(), "the network was taken from under a container");

    // Once the container is gone, the rest goes; and with --purge what this server is.
    host.docker.remove(ONE);
    let output = uninstall(
        [&root[..], &["--purge".to_owned(), "--config".to_owned(), host.path("none").display().to_string()]].concat(),
    );
    drop(output.await);
    assert!(host.docker.network("kith").is_some(), "a configuration that is not there is wrong usage");
    std::fs::write(host.path("kith.toml"), "").expect("the folder can be written");
    let config = host.path("kith.toml").display().to_string();
    let output =
        uninstall([&root[..], &["--purge".to_owned(), "--config".to_owned(), config]].concat()).await.expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(host.docker.network("kith").is_none() && !host.path("data").exists() && !host.path("kith.toml").exists());
}
