//! What `dig` prints, read.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::process::Command;

/// The longest that `dig` waits. A foreign name has its SERVFAIL within 2 s.
const PATIENCE: Duration = Duration::from_secs(3);

/// An answer as `dig` shows it, or that there was none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// NOERROR, NXDOMAIN, SERVFAIL; empty if nothing came.
    pub(crate) rcode: String,
    /// Addresses, as they stand there.
    pub(crate) addresses: Vec<String>,
    /// Codes of extended errors (RFC 8914): 3 is a stale answer.
    pub(crate) errors: Vec<u16>,
}

impl Seen {
    /// Asks once, by UDP.
    pub(crate) async fn of(server: SocketAddr, name: &str) -> Seen {
        let mut command = Command::new("dig");
        command.args(["+tries=1", &format!("+time={}", PATIENCE.as_secs()), "+noall", "+comments", "+answer"]);
        command.args(["-p", &server.port().to_string(), &format!("@{}", server.ip()), name]);
        let output = command.output().await.expect("dig is installed: scripts/setup");
        Seen::read(&String::from_utf8_lossy(&output.stdout))
    }

    fn read(text: &str) -> Seen {
        let mut seen = Seen::default();
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once("status: ") {
                seen.rcode = rest.split(',').next().unwrap_or_default().to_owned();
            } else if let Some(rest) = line.strip_prefix("; EDE: ") {
                seen.errors.extend(rest.split_whitespace().next().and_then(|code| code.parse::<u16>().ok()));
            } else if let [_, _, "IN", "A", address] = line.split_whitespace().collect::<Vec<_>>()[..] {
                seen.addresses.push(address.to_owned());
            }
        }
        seen
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = match (self.rcode.as_str(), &self.addresses[..]) {
            ("", _) => "nothing".to_owned(),
            ("NOERROR", [_, ..]) => self.addresses.join(" "),
            (rcode, _) => rcode.to_owned(),
        };
        for code in &self.errors {
            words.push_str(&format!(" ({code})"));
        }
        f.pad(&words)
    }
}

#[test]
fn what_dig_prints_is_read() {
    let text = ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 7\n;; OPT PSEUDOSECTION:\n\
                ; EDE: 3 (Stale Answer)\n;; ANSWER SECTION:\na.internal.\t5\tIN\tA\t10.0.0.1\n";
    let seen = Seen { rcode: "NOERROR".into(), addresses: vec!["10.0.0.1".into()], errors: vec![3] };
    assert_eq!((Seen::read(text).to_string(), Seen::read(text)), ("10.0.0.1 (3)".to_owned(), seen));
    assert_eq!(Seen::read(";; communications error to 127.0.0.1#53: timed out\n").to_string(), "nothing");
}
