//! Nodes that are apart: each in a network namespace of its own, with a link to the others that can be cut, or lose.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::binary::kith;
use super::node::Addresses;
use crate::skip::skip;

/// The network of all nodes of one [`Links`]. Namespaces see nothing of each other, so each may have the same.
const NETWORK: [u8; 3] = [10, 78, 0];

/// Namespaces joined by a switch that loses what it is told to. All are gone when it is dropped.
#[derive(Debug)]
pub struct Links {
    prefix: String,
    state: TempDir,
}

impl Links {
    /// Joins that many nodes. None, said aloud in the name of `test`, where this host does not let us.
    ///
    /// # Panics
    /// If the host lets us and it fails all the same.
    #[must_use]
    pub fn up(test: &str, nodes: u8) -> Option<Links> {
        if !geteuid().is_root() {
            skip(test, "network namespaces need root");
            return None;
        }
        let state = tempfile::Builder::new().prefix("kith-links-").tempdir().expect("a temporary folder can be made");
        let links = Links { prefix: format!("kith{}", std::process::id()), state };
        let probe = Command::new("ip").args(["netns", "add", &format!("{}-probe", links.prefix)]).output();
        match probe {
            Ok(made) if made.status.success() => {
                must("ip", Command::new("ip").args(["netns", "del", &format!("{}-probe", links.prefix)]));
            }
            Ok(refused) => {
                skip(test, &format!("no network namespaces here: {}", said(&refused)));
                return None;
            }
            Err(error) => {
                skip(test, &format!("`ip` cannot be run: {error}"));
                return None;
            }
        }
        links.nsc(&["up", &nodes.to_string(), "tap"]);
        Some(links)
    }

    /// Where node `number`, from 1, listens in its namespace.
    #[must_use]
    pub fn addresses(&self, number: u8) -> Addresses {
        let [a, b, c] = NETWORK;
        let at = |ip: Ipv4Addr, port| SocketAddr::from((IpAddr::V4(ip), port));
        let (inside, outside) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(a, b, c, number));
        Addresses { api: at(inside, 31220), dns: at(inside, 53), gossip: at(outside, 31280) }
    }

    /// Nothing passes between these nodes, given as `1`, `1,3` or `2-4`, in either direction.
    pub fn cut(&self, some: &str, others: &str) {
        self.nsc(&["cut", some, others]);
    }

    /// Nothing passes from the first to the second; back it does.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.nsc(&["cut1", from, to]);
    }

    /// All links lose this share of what they carry, in percent.
    pub fn lose(&self, percent: u8) {
        self.nsc(&["both", "*", "*", &format!("loss={percent}%")]);
    }

    /// All links do this to what they carry: `delay=150ms`, `dup=50%`, `corrupt=1%`, `reorder=10%`, `mtu=1280`, `rate=256`.
    pub fn spoil(&self, faults: &[&str]) {
        self.nsc(&[&["both", "*", "*"], faults].concat());
    }

    /// All links are whole again.
    pub fn heal(&self) {
        self.nsc(&["heal"]);
    }

    /// The namespace of node `number`.
    pub(super) fn namespace(&self, number: u8) -> String {
        format!("{}-n{number}", self.prefix)
    }

    fn nsc(&self, arguments: &[&str]) {
        must("nsc", self.command().args(arguments));
    }

    fn command(&self) -> Command {
        let mut command = Command::new(tool("nsc"));
        // The switch is compiled once, beside the program under test.
        command.env("P", &self.prefix).env("DIR", self.state.path()).env("FAULTSW", kith().with_file_name("faultsw"));
        command.env("NET", NETWORK.map(|byte| byte.to_string()).join(".")).stdin(Stdio::null());
        command
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // A test that fails must not leave its network behind; if it cannot be taken down, that is said.
        match self.command().arg("down").output() {
            Ok(down) if down.status.success() => {}
            Ok(down) => eprintln!("the namespaces of {} are left: {}", self.prefix, said(&down)),
            Err(error) => eprintln!("the namespaces of {} are left: {error}", self.prefix),
        }
    }
}

/// One of our fault tools.
pub(super) fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/faults").join(name)
}

pub(super) fn must(what: &str, command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{what} does not start: {e}"));
    assert!(output.status.success(), "{what}: {}", said(&output));
    output
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)).trim().to_owned()
}
