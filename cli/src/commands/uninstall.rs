//! `kith uninstall`: puts back what was changed on this host, and takes away what was left on it.

use std::path::{Path, PathBuf};

use kith_daemon::setup::docker;
use kith_daemon::setup::left::{self, Left, Tunnel};
use kith_daemon::setup::undo::{Back, Changed, put, text_of};
use kith_gossip_client::{Client, Endpoint};

use super::load;
use super::value::printable;
use crate::args::Uninstall;
use crate::config::{Config, DEFAULT_FILE, Purpose};
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// What `scripts/install` puts on a host, beside the manual's pages.
const INSTALLED: [&str; 3] = ["etc/systemd/system/kith.service", "etc/bash_completion.d/kith", "usr/local/bin/kith"];
/// Where those are.
const PAGES: &str = "usr/local/share/man/man1";

/// Something to do, or to say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A file gets the text that it had, or has without ours.
    Write { path: PathBuf, text: String, what: &'static str },
    /// A file or folder goes.
    Remove { path: PathBuf },
    /// Rules of the firewall go.
    Rules(Vec<String>),
    /// Docker's network goes.
    Network,
    /// The interface of the tunnels goes.
    Tunnel(String),
    /// Nothing is done.
    Left(String),
}

/// Says it, and does it.
pub(crate) async fn run(args: &Uninstall) -> Result<(), Failure> {
    let config = load(&args.configured, Purpose::Daemon)?;
    let client = Client::new(Endpoint::unix(&config.api.unix), None)?;
    if client.live().await.is_ok() {
        return Err(Failure::message(Exit::Failed, "Kith runs here").hint("first: systemctl disable --now kith"));
    }
    let dir = &config.node.data_dir;
    let mut changed = Changed::read(dir).map_err(io)?;
    let left = left::look(config.daemon.docker.as_deref(), &config.daemon.interface, dir).await;
    let mut steps = files(&changed)?;
    steps.extend(host(&left, &config.daemon.interface));
    steps.extend(own(args, &config));
    let mut out = Out::new();
    for step in &steps {
        out.line(said(step))?;
        if args.apply {
            apply(step, &config).await?;
            if let Step::Write { path, .. } | Step::Remove { path } = step
                && changed.files().contains_key(path)
            {
                changed.forget(dir, path).map_err(io)?;
            }
        }
    }
    out.line(format!("the other servers still know this one: kith server remove {}", config.node.name))
}

/// Files of others.
fn files(changed: &Changed) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for (path, change) in changed.files() {
        let found = text_of(path).map_err(io)?;
        steps.extend(match change.back(found.as_deref()) {
            Back::Nothing => None,
            Back::Restore(text) => Some(Step::Write { path: path.clone(), text, what: "as it was before" }),
            Back::Remove => Some(Step::Remove { path: path.clone() }),
            Back::Differs { wrote, found } => Some(match docker::without(&found, &wrote) {
                Ok(text) => Step::Write { path: path.clone(), text, what: "without what Kith put there" },
                Err(_) => Step::Left(format!("{}: somebody has changed it since Kith did", path.display())),
            }),
        });
    }
    Ok(steps)
}

/// What the daemon made.
fn host(left: &Left, interface: &str) -> Vec<Step> {
    let rules = match &left.rules {
        Ok(rules) if rules.is_empty() => None,
        Ok(rules) => Some(Step::Rules(rules.clone())),
        Err(why) => Some(Step::Left(format!("the firewall: {why}"))),
    };
    let network = match &left.network {
        Ok(None) => None,
        Ok(Some(containers)) if containers.is_empty() => Some(Step::Network),
        Ok(Some(containers)) => {
            let names: Vec<String> = containers.iter().map(|name| printable(name)).collect();
            Some(Step::Left(format!("Docker's network kith: {} are in it", names.join(", "))))
        }
        Err(why) => Some(Step::Left(format!("Docker's network kith: {why}"))),
    };
    let tunnel = match &left.tunnel {
        Ok(Tunnel::Nothing) => None,
        Ok(Tunnel::Ours) => Some(Step::Tunnel(interface.to_owned())),
        Ok(Tunnel::Foreign) => {
            Some(Step::Left(format!("the interface {interface}: it does not have this server's key")))
        }
        Err(why) => Some(Step::Left(format!("the interface {interface}: {why}"))),
    };
    rules.into_iter().chain(network).chain(tunnel).collect()
}

/// What was installed, and with `--purge` what this server is.
fn own(args: &Uninstall, config: &Config) -> Vec<Step> {
    let mut paths: Vec<PathBuf> = INSTALLED.map(|path| args.root.join(path)).into();
    paths.extend(pages(&args.root.join(PAGES)));
    if args.purge {
        paths.push(args.configured.config.clone().unwrap_or_else(|| DEFAULT_FILE.into()));
        paths.push(config.node.data_dir.clone());
    }
    paths.into_iter().filter(|path| path.exists()).map(|path| Step::Remove { path }).collect()
}

/// The manual's pages of ours.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let ours = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name == "kith.1" || name.starts_with("kith-") && name.ends_with(".1")
    };
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(ours).collect();
    pages.sort();
    pages
}

fn said(step: &Step) -> String {
    match step {
        Step::Write { path, what, .. } => format!("write {}, {what}", path.display()),
        Step::Remove { path } => format!("remove {}", path.display()),
        Step::Rules(rules) => format!("remove {} rules of the firewall", rules.len()),
        Step::Network => "remove Docker's network kith".to_owned(),
        Step::Tunnel(interface) => format!("remove the interface {interface}, with its tunnels"),
        Step::Left(what) => format!("leave {what}"),
    }
}

async fn apply(step: &Step, config: &Config) -> Result<(), Failure> {
    match step {
        Step::Write { path, text, .. } => put(path, text).map_err(io),
        Step::Remove { path } => remove(path),
        Step::Rules(_) => left::remove_rules().await.map_err(|e| Failure::new(Exit::Failed, e)),
        Step::Network => match &config.daemon.docker {
            Some(socket) => left::remove_network(socket).await.map_err(|e| Failure::new(Exit::Failed, e)),
            None => Ok(()),
        },
        Step::Tunnel(interface) => {
            let removed = left::remove_tunnel(interface, &config.node.data_dir).await;
            removed.map_err(|e| Failure::new(Exit::Failed, e))
        }
        Step::Left(_) => Ok(()),
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    removed.map_err(|e| Failure::new(Exit::Io, e).context(format!("cannot remove {}", path.display())))
}

fn io(error: kith_daemon::setup::undo::UndoError) -> Failure {
    Failure::new(Exit::Io, error)
}
