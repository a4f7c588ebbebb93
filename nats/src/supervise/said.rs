//! A line of nats-server's log, read for what it says: `[123] 2026/11/27 14:33:32.123456 [INF] Server is ready`.

/// What it says of the runner's own password.
const PLAIN: &str = "Plaintext passwords detected, use nkeys or bcrypt";

/// What it says, each second, of another server of its name that it has met. The runner says it once.
const NAMESAKE: &str = "Remote server has a duplicate name: ";
/// How it tells, beside the answer, that it was asked how it is and is not well. Whoever asked has the answer.
const ASKED: &str = "Healthcheck failed: ";

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// For who looks for something.
    Detail,
    /// What happens.
    Fact,
    /// What somebody should look at some day. Errors are among them: most are about a peer that is away.
    Warning,
    /// Why it ends.
    Fatal,
}

/// Its weight, and its text without time and number. Of any other process's line everything is text.
pub(crate) fn read(line: &str) -> (Weight, &str) {
    parse(line).unwrap_or((Weight::Fact, line))
}

fn parse(line: &str) -> Option<(Weight, &str)> {
    let (number, rest) = line.strip_prefix('[')?.split_once("] ")?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (_time, rest) = rest.split_once('[')?;
    let (level, text) = rest.split_once("] ")?;
    let weight = match level {
        // Its picture, and the table below it.
        "INF" if text.starts_with([' ', '-']) || text.is_empty() => Weight::Detail,
        // The runner's own, in a file that nobody else can read.
        "WRN" if text == PLAIN => Weight::Detail,
        "WRN" | "ERR" if text.starts_with(ASKED) || text.contains(NAMESAKE) => Weight::Detail,
        "INF" => Weight::Fact,
        "WRN" | "ERR" => Weight::Warning,
        "FTL" => Weight::Fatal,
        "DBG" | "TRC" => Weight::Detail,
        _ => return None,
    };
    Some((weight, text))
}

/// What it says of a reload: `Ok` if it was taken.
pub(crate) fn reload(line: &str) -> Option<Result<(), String>> {
    let (_, text) = read(line);
    // Some say the sum of the file behind it.
    if text.starts_with("Reloaded server configuration") {
        return Some(Ok(()));
    }
    text.strip_prefix("Failed to reload server configuration: ").map(|why| Err(why.to_owned()))
}

/// Whether it says that there is another server of its name.
pub(crate) fn is_of_a_namesake(line: &str) -> bool {
    parse(line).is_some_and(|(_, text)| text.contains(NAMESAKE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_nats_server_are_told_apart_from_others() {
        let ready = "[123] 2026/11/27 14:33:32.123456 [INF] Server is ready";
        assert_eq!(read(ready), (Weight::Fact, "Server is ready"));
        let picture = "[123] 2026/11/27 14:33:32.123456 [INF]     _ ___ _____";
        assert_eq!(read(picture).0, Weight::Detail);
        let taken = "[1] 2026/11/27 14:33:32.123456 [FTL] Error listening on port: 127.0.0.1:4222, \"in use\"";
        assert_eq!(read(taken), (Weight::Fatal, "Error listening on port: 127.0.0.1:4222, \"in use\""));
        for other in ["", "nats-server: /x.conf:1: unknown", "[x] [INF] a", "[1] now [???] a", "[1]", "[] [INF] a"] {
            assert_eq!(read(other), (Weight::Fact, other));
        }
    }

    #[test]
    fn what_becomes_of_a_reload_is_read() {
        let said = |text: &str| reload(&format!("[1] 2026/11/27 14:33:32.123456 {text}"));
        assert_eq!(said("[INF] Reloaded server configuration"), Some(Ok(())));
        assert_eq!(said("[INF] Reloaded server configuration (sha256:ef24bf21)"), Some(Ok(())), "2.15.1");
        let refused = said("[ERR] Failed to reload server configuration: no reload of a gateway");
        assert_eq!(refused, Some(Err("no reload of a gateway".to_owned())));
        assert_eq!(said("[INF] Server is ready"), None);
    }

    #[test]
    fn another_server_of_its_name_is_told_apart() {
        let met = "[1] 2026/11/27 20:49:15.975576 [ERR] 127.0.0.1:45386 - rid:63 - Remote server has a duplicate name: \"s0\"";
        assert!(is_of_a_namesake(met));
        assert_eq!(read(met).0, Weight::Detail, "it says so each second");
        assert!(!is_of_a_namesake(
            "[1] 2026/11/27 20:49:15.9 [INF] rid:28 - Router connection closed: Duplicate Route"
        ));
        assert_eq!(read("[1] 2026/11/27 20:48:42.4 [WRN] Healthcheck failed: \"no leader\"").0, Weight::Detail);
    }
}
