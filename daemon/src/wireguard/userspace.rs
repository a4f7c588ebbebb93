//! WireGuard outside the kernel: wireguard-go, found on PATH. It puts itself into the background, with a process group of its own, and
//! so outlives whoever started it.

use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use wireguard_control::InterfaceName;

/// The program.
const PROGRAM: &str = "wireguard-go";
/// Where it, and every other like it, has its sockets.
const SOCKETS: &str = "/var/run/wireguard";

/// Whether somebody answers for an interface of this name.
pub(super) fn answers(name: &InterfaceName) -> bool {
    UnixStream::connect(Path::new(SOCKETS).join(format!("{name}.sock"))).is_ok()
}

/// Starts it, which makes the interface. It has done so when the program that was started ends.
pub(super) fn start(name: &InterfaceName) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg(name.to_string()).env_remove("WG_PROCESS_FOREGROUND").process_group(0);
    // Who keeps a pipe of ours open would keep us waiting.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            error.kind(),
            "this kernel has no WireGuard, and wireguard-go is not on PATH: install either",
        ),
        _ => error,
    })?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{PROGRAM} ended with {status}"))) }
}
