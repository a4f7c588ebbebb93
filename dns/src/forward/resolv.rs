//! The system's upstreams: `/etc/resolv.conf`, or what stands behind systemd-resolved.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::settings::Upstream;

/// What programs on this host ask.
const SYSTEM: &str = "/etc/resolv.conf";
/// What systemd-resolved itself asks. Its stub is not asked: it would ask us, where it is told to.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
/// The addresses of its stub.
const STUBS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];
/// Most servers taken. A resolver of the system takes three.
const SERVERS_MAX: usize = 8;

/// The two files, and how they were when they were read last.
#[derive(Debug)]
pub(crate) struct Files {
    system: PathBuf,
    resolved: PathBuf,
    seen: Option<[Stamp; 2]>,
}

/// What changes when a file does: it is written in place, or another one is put into its place.
type Stamp = Option<(SystemTime, u64, u64)>;

impl Default for Files {
    fn default() -> Self {
        Self::at(SYSTEM.into(), RESOLVED.into())
    }
}

impl Files {
    pub(crate) fn at(system: PathBuf, resolved: PathBuf) -> Self {
        Self { system, resolved, seen: None }
    }

    /// The upstreams, if the files are others than the last time; a file that is not there names none.
    pub(crate) fn changed(&mut self) -> Option<Vec<Upstream>> {
        let stamps = [&self.system, &self.resolved].map(|path| stamp(path));
        if self.seen == Some(stamps) {
            return None;
        }
        self.seen = Some(stamps);
        let read = |path: &Path| fs::read_to_string(path).map(|text| servers(&text)).unwrap_or_default();
        let servers = read(&self.system);
        let is_stub = !servers.is_empty() && servers.iter().all(|server| STUBS.contains(&server.addr.ip()));
        Some(if is_stub { read(&self.resolved) } else { servers })
    }
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
}

/// The servers that a `resolv.conf` names, each once.
fn servers(text: &str) -> Vec<Upstream> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let server = match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => server(address).map(Upstream::plain),
            _ => None,
        };
        if let Some(server) = server.filter(|server| !servers.contains(server)) {
            servers.push(server);
        }
    }
    servers.truncate(SERVERS_MAX);
    servers
}

/// An address, with the interface behind `%` that a link-local one needs.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = text.split_once('%') else { return Some(SocketAddr::new(text.parse().ok()?, 53)) };
    let scope = interface.parse().ok().or_else(|| nix::net::if_::if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, 53, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(upstreams: &[Upstream]) -> String {
        upstreams.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_lines_that_name_a_server_count() {
        let text = "# a comment\nsearch example.org\nnameserver 9.9.9.9 # why\n nameserver\t2620:fe::fe\nnameserver x\n\
                    nameserver 9.9.9.9\noptions ndots:5\nnameserver fe80::1%7\n;nameserver 1.1.1.1\nnameserver";
        assert_eq!(shown(&servers(text)), "9.9.9.9:53 [2620:fe::fe]:53 [fe80::1%7]:53");
    }

    #[test]
    fn the_list_of_systemd_resolved_stands_in_for_its_stub_and_changes_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (system, resolved) = (folder.path().join("resolv.conf"), folder.path().join("resolved.conf"));
        fs::write(&system, "nameserver 127.0.0.53\n").unwrap();
        fs::write(&resolved, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        let mut files = Files::at(system.clone(), resolved);
        assert_eq!(files.changed().as_deref().map(shown), Some("192.0.2.1:53 192.0.2.2:53".to_owned()));
        assert_eq!(files.changed(), None);
        fs::write(&system, "nameserver 192.0.2.33\n").unwrap();
        assert_eq!(files.changed().as_deref().map(shown), Some("192.0.2.33:53".to_owned()));
        fs::remove_file(&system).unwrap();
        assert_eq!(files.changed(), Some(Vec::new()));
    }
}
