//! The disk of a nats-server is full: nothing is acknowledged that is not kept, and it goes on once there is room.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Running;
use super::servers::{NatsServer, binary, skipped};
use super::wire::{config, put, shown, until};

/// A file system of 24 MiB, for as long as it lives.
struct Small(PathBuf);

impl Small {
    /// None where that is not allowed.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[1; 4 << 10]).is_ok() {}
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[tokio::test]
async fn with_a_full_disk_nothing_is_acknowledged_and_with_room_again_all_goes_on() {
    let test = "with_a_full_disk_nothing_is_acknowledged_and_with_room_again_all_goes_on";
    let Some(binary) = binary(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&dir.path().join("small")) else {
        return skipped(test, "no file system can be mounted here");
    };
    let mut server = NatsServer::start_on(&binary, dir.path(), "center", None, &small.0);
    let start =
        async |server: &NatsServer| Running::start(config(dir.path(), "center", server.nats())).await.ready().await;
    let node = start(&server).await;
    let write = async |node: &Running, n: usize| {
        put(node.addr, &format!("u{n}"), r#"{"status":"busy","ttl":600,"message":"a few words"}"#).await
    };
    assert_eq!(write(&node, 0).await.status, 200);
    small.fill();
    let mut acknowledged = 1;
    let refused = loop {
        let answer = write(&node, acknowledged).await;
        if answer.status != 200 {
            break answer;
        }
        acknowledged += 1;
        assert!(acknowledged < 10_000, "the disk is full");
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused:?}");
    assert!(refused.json()["error"].as_str().is_some_and(|error| error.contains("nats-server")), "{refused:?}");
    assert_eq!(shown(node.addr, "u0").await, "busy", "reads go on");
    assert_eq!(shown(node.addr, &format!("u{acknowledged}")).await, "offline", "what was refused is not in force");
    // A nats-server that met a full disk writes no more before it is started again.
    small.empty();
    server.kill();
    server.up();
    until("writes are taken again", async || write(&node, 9_999).await.status == 200).await;
    node.kill();
    let node = start(&server).await;
    for n in (0..acknowledged).chain([9_999]) {
        assert_eq!(shown(node.addr, &format!("u{n}")).await, "busy", "u{n} of {acknowledged}");
    }
    eprintln!("{acknowledged} acknowledged before and at the full disk, none lost; then 503 until there was room");
    node.stop().await;
}
