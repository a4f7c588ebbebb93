//! Name servers that are not ours, serving names that stand in a file.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::process::Process;
use super::wait::eventually;
use crate::skip::skip;

/// From start to an answer.
const STARTING: Duration = Duration::from_secs(20);
/// Ports to choose from: no privilege, and below those that the system gives to clients.
const PORTS: std::ops::Range<u16> = 10_053..10_153;

/// Whose name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// Knot DNS, which is authoritative.
    Knot,
    /// Unbound, a resolver with local data.
    Unbound,
}

/// One name server.
#[derive(Debug)]
pub struct NameServer {
    maker: Maker,
    address: SocketAddrV4,
    folder: TempDir,
    process: Option<Process>,
}

impl NameServer {
    /// One on this loopback address; none, said aloud in the name of `test`, where its program is not installed.
    ///
    /// # Panics
    /// If there is no room for its folder.
    #[must_use]
    pub fn new(test: &str, maker: Maker, address: Ipv4Addr) -> Option<Self> {
        if program(maker).is_none() {
            skip(test, &format!("no {maker:?}: install the package of that name"));
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let free =
            |port: &u16| UdpSocket::bind((address, *port)).is_ok() && TcpListener::bind((address, *port)).is_ok();
        // Others may hold a port on all addresses.
        let port = PORTS.into_iter().find(free).expect("one of a hundred ports is free");
        Some(Self { maker, address: SocketAddrV4::new(address, port), folder, process: None })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address.into()
    }

    /// Starts it with these records of the zone `internal`, each `NAME TYPE DATA`, names relative to the zone; in the
    /// place of those that it served before.
    ///
    /// # Panics
    /// If it does not answer within 20 s.
    pub async fn serve(&mut self, records: &[String]) {
        self.stop();
        let program = program(self.maker).expect("it was there before");
        let folder = self.folder.path();
        let mut command = match self.maker {
            Maker::Knot => knot(&program, folder, self.address, records),
            Maker::Unbound => unbound(&program, folder, self.address, records),
        };
        let log = fs::File::create(folder.join("log")).expect("room for a log");
        let again = log.try_clone().expect("a file can be opened twice");
        command.stdin(Stdio::null()).stdout(log).stderr(again);
        self.process = Some(Process::spawn(command));
        eventually("the name server answers", STARTING, async || {
            let ended = self.process.as_mut().and_then(Process::ended);
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none(), "{:?} ended: {}", self.maker, log());
            super::resolve(self.address(), "internal").await.map(drop)
        })
        .await;
    }

    /// Ends it: nobody answers.
    pub fn stop(&mut self) {
        self.process = None;
    }
}

fn program(maker: Maker) -> Option<PathBuf> {
    let name = match maker {
        Maker::Knot => "knotd",
        Maker::Unbound => "unbound",
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = [PathBuf::from("/usr/sbin")];
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|file| file.exists())
}

fn knot(program: &Path, folder: &Path, at: SocketAddrV4, records: &[String]) -> Command {
    let (address, port, folder_text) = (at.ip(), at.port(), folder.display());
    let zone = format!("$ORIGIN internal.\n$TTL 5\n@ SOA ns hostmaster 1 5 5 5 5\n@ NS ns\nns A {address}\n");
    fs::write(folder.join("internal.zone"), zone + &records.join("\n") + "\n").expect("room for a file");
    let text = format!(
        "server:\n    listen: {address}@{port}\n    rundir: {folder_text}\n    udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
         database:\n    storage: {folder_text}\n\
         zone:\n  - domain: internal\n    storage: {folder_text}\n    file: internal.zone\n    journal-content: none\n"
    );
    fs::write(folder.join("knot.conf"), text).expect("room for a file");
    let mut command = Command::new(program);
    command.arg("-c").arg(folder.join("knot.conf"));
    command
}

fn unbound(program: &Path, folder: &Path, at: SocketAddrV4, records: &[String]) -> Command {
    let mut text = format!(
        "server:\n  interface: {1}@{2}\n  directory: \"{0}\"\n  pidfile: \"{0}/pid\"\n  username: \"\"\n  chroot: \"\"\n  \
         use-syslog: no\n  do-daemonize: no\n  num-threads: 1\n  access-control: 127.0.0.0/8 allow\n  \
         local-zone: \"internal.\" static\n  \
         local-data: 'internal. 5 SOA ns.internal. hostmaster.internal. 1 5 5 5 5'\n",
        folder.display(),
        at.ip(),
        at.port()
    );
    for record in records {
        let (name, rest) = record.split_once(' ').expect("a name, a type and data");
        text += &format!("  local-data: '{name}.internal. 5 {rest}'\n");
    }
    text += "remote-control:\n  control-enable: no\n";
    fs::write(folder.join("unbound.conf"), text).expect("room for a file");
    let mut command = Command::new(program);
    command.arg("-d").arg("-c").arg(folder.join("unbound.conf"));
    command
}
