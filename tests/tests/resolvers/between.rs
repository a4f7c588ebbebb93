//! Those that stand between a container and us: what they are asked they ask us, and hand on what we said.

use std::process::Child;
use std::time::Duration;

use kith_tests::lab::{Dockerd, eventually};

use crate::host::Host;
use crate::programs::{compiled, resolved, tool};
use crate::questions::{MANY_OF_THEM, QUESTIONS, all_many, answers};

/// For a program to come up on a busy machine.
const STARTING: Duration = Duration::from_secs(30);

/// A process that ends with its value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended by itself, which is what the test found.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::test]
async fn behind_systemd_resolved_every_answer_is_the_same() {
    let test = "behind_systemd_resolved_every_answer_is_the_same";
    let Some(resolved) = resolved(test) else { return };
    let Some(program) = compiled(test, "cc", &["-lresolv"]) else { return };
    let Some(host) = Host::start(test).await else { return };
    let mut command = host.fleet.nodes[0].inside("unshare");
    command.args(["--mount", "sh"]).arg(tool("resolved.sh")).arg(host.folder.path()).arg(resolved);
    let log = std::fs::File::create(host.folder.path().join("log")).expect("the folder can be written");
    let log = (log.try_clone().expect("a file can be shared"), log);
    let _resolved = Ends(command.stdout(log.0).stderr(log.1).spawn().expect("nsenter runs"));
    // As systemd-resolved would have it.
    let text = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch casa.svc.internal internal\n";
    std::fs::write(host.folder.path().join("resolv.conf"), text).expect("the folder can be written");
    eventually("systemd-resolved answers", STARTING, async || {
        let said = host.ask(&[&program], &["A:casa-api.internal"]);
        if said == ["A:casa-api.internal 10.210.1.1 10.210.1.2"] { Ok(()) } else { Err(format!("{said:?}")) }
    })
    .await;

    let (answered, many) = (host.ask(&[&program], &QUESTIONS), host.ask(&[&program], &[MANY_OF_THEM]));
    std::fs::remove_file(program).expect("what was compiled is there");
    assert_eq!(answered, answers("NODATA", "NODATA"));
    assert_eq!(many, all_many(MANY_OF_THEM));
}

#[tokio::test]
async fn behind_dockers_own_dns_every_answer_is_the_same() {
    let test = "behind_dockers_own_dns_every_answer_is_the_same";
    let Some(program) = compiled(test, "cc", &["-static", "-lresolv"]) else { return };
    let Some(host) = Host::start(test).await else { return };
    let node = &host.fleet.nodes[0];
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let Some(docker) = Dockerd::start(test, node, folder).await else { return };
    docker.image();
    docker.docker(&["network", "create", "--subnet", "10.210.9.0/24", "kith"]);
    let (names, mount) = (node.at.gossip.ip().to_string(), format!("{program}:/ask:ro"));
    let run = ["run", "--rm", "--network", "kith", "--dns", &names, "--volume", &mount];
    let search = ["--dns-search", "casa.svc.internal", "--dns-search", "internal", "--dns-option", "ndots:1"];
    let ask = |program: &str, arguments: &[&str]| {
        let said = docker.docker(&[&run[..], &search[..], &["lab:1", program], arguments].concat());
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    // Docker's own, not ours, is what the container has.
    let resolver = ask("/bin/sh", &["-c", "while read -r line; do echo \"$line\"; done </etc/resolv.conf"]);
    assert!(resolver.contains(&"nameserver 127.0.0.11".to_owned()), "{resolver:?}");

    let (answered, many) = (ask("/ask", &QUESTIONS), ask("/ask", &[MANY_OF_THEM]));
    std::fs::remove_file(program).expect("what was compiled is there");
    assert_eq!(answered, answers("NODATA", "NODATA"));
    assert_eq!(many, all_many(MANY_OF_THEM));
}
