//! `kith top` and `kith dns trace`: what a DNS server answers at this moment, by its socket.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;

use super::table;
use super::value::printable;
use crate::args::{DnsSocket, Top, Trace};
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Where the socket is by the defaults of the configuration.
const DEFAULT_SOCKET: &str = "/var/lib/kith/dns.sock";
/// Clears a terminal, and begins at its first line.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";
/// Widths of the columns of a trace that are not its last; longer cells push their line.
const WIDTHS: [usize; 6] = [15, 4, 32, 6, 9, 8];

impl DnsSocket {
    fn path(&self) -> PathBuf {
        let set = self.path.clone().or_else(|| std::env::var_os("KITH_DNS_SOCKET").map(PathBuf::from));
        set.unwrap_or_else(|| DEFAULT_SOCKET.into())
    }
}

/// What a server says, line by line.
struct Told {
    lines: Lines<BufReader<UnixStream>>,
    path: PathBuf,
}

impl Told {
    async fn ask(path: PathBuf, request: &Value) -> Result<Told, Failure> {
        let mut stream = UnixStream::connect(&path).await.map_err(|error| unreachable(&path, error))?;
        let request = format!("{request}\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| unreachable(&path, error))?;
        Ok(Told { lines: BufReader::new(stream).lines(), path })
    }

    /// The next line; an error where the server has stopped, or refuses.
    async fn next(&mut self) -> Result<Value, Failure> {
        let line = self.lines.next_line().await.map_err(|error| unreachable(&self.path, error))?;
        let Some(line) = line else {
            return Err(Failure::message(Exit::Unreachable, "the DNS server has stopped"));
        };
        let value: Value =
            serde_json::from_str(&line).map_err(|e| Failure::new(Exit::Failed, e).context("not understood"))?;
        match value["error"].as_str() {
            Some(error) if value.get("count").is_none() => Err(Failure::message(Exit::Failed, printable(error))),
            _ => Ok(value),
        }
    }
}

fn unreachable(path: &Path, error: std::io::Error) -> Failure {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => "only its owner and group may: use sudo, or join the group".to_owned(),
        _ => "is `kith agent` or `kith dns` running? Its socket is dns.sock in its node.data_dir, or what --socket \
              of `kith dns --zone-file` names: name it with --socket"
            .to_owned(),
    };
    Failure::new(Exit::Unreachable, error).context(format!("no DNS server at {}", path.display())).hint(hint)
}

/// Prints the busiest names of each interval.
pub(crate) async fn top(args: &Top) -> Result<(), Failure> {
    let terminal = std::io::stdout().is_terminal() && !args.output.json;
    let request = json!({ "top": { "interval_ms": args.interval * 1000, "names": args.names } });
    let mut told = Told::ask(args.socket.path(), &request).await?;
    let mut out = Out::new();
    let mut left = args.count.or((!terminal).then_some(1));
    while left != Some(0) {
        let line = told.next().await?;
        left = left.map(|left| left - 1);
        if args.output.json {
            out.json(&line)?;
            continue;
        }
        let mut lines = busiest(&line);
        if terminal {
            lines[0].insert_str(0, CLEAR);
        } else if left != Some(0) {
            lines.push(String::new());
        }
        lines.into_iter().try_for_each(|line| out.line(line))?;
    }
    Ok(())
}

/// One table, behind a line about all names.
fn busiest(line: &Value) -> Vec<String> {
    let seconds = line["seconds"].as_f64().filter(|seconds| *seconds > 0.0).unwrap_or(1.0);
    let total = line["total"].as_u64().unwrap_or(0);
    let each_second = |count: u64| format!("{:.1}", count as f64 / seconds);
    let lost = line["lost"].as_u64().filter(|lost| *lost > 0);
    let lost = lost.map(|lost| format!(", {lost} not looked at")).unwrap_or_default();
    let row = |one: &Value| {
        let count = one["count"].as_u64().unwrap_or(0);
        let share = 100.0 * count as f64 / total.max(1) as f64;
        let text = |key: &str| printable(one[key].as_str().unwrap_or_default());
        vec![each_second(count), format!("{share:.1}"), text("zone"), text("name")]
    };
    let rows: Vec<Vec<String>> = line["top"].as_array().into_iter().flatten().map(row).collect();
    let mut lines = vec![format!("{} answers a second over {seconds:.1} s{lost}", each_second(total))];
    lines.extend(table::render(&["EACH S", "%", "ZONE", "NAME"], &rows));
    lines
}

/// Prints each answer to a name.
pub(crate) async fn trace(args: &Trace) -> Result<(), Failure> {
    let mut told = Told::ask(args.socket.path(), &json!({ "trace": args.name })).await?;
    let mut out = Out::new();
    told.next().await?;
    if !args.output.json {
        let head = ["ASKER", "BY", "NAME", "TYPE", "CODE", "FROM", "US"].map(str::to_owned);
        out.line(table::line(&head, &widths()))?;
    }
    let mut left = args.count;
    while left != Some(0) {
        let line = told.next().await?;
        if line.get("lost").is_none() {
            left = left.map(|left| left - 1);
        }
        match args.output.json {
            true => out.json(&line)?,
            false => out.line(answer(&line))?,
        }
    }
    Ok(())
}

fn widths() -> Vec<usize> {
    WIDTHS.into_iter().chain([0]).collect()
}

fn answer(line: &Value) -> String {
    if let Some(lost) = line["lost"].as_u64() {
        return format!("… {lost} not shown");
    }
    let text = |key: &str| printable(line[key].as_str().unwrap_or_default());
    let mut cells: Vec<String> = ["asker", "transport", "name", "type", "rcode", "from"].map(text).into();
    cells.push(format!("{:.1}", line["us"].as_f64().unwrap_or_default()));
    table::line(&cells, &widths())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_names_are_a_table() {
        let line = json!({ "seconds": 2.0, "total": 40, "lost": 3, "top": [
            { "name": "casa-api.internal", "zone": "internal", "count": 30, "error": 0 },
            { "name": "example.com\u{7}", "zone": ".", "count": 10, "error": 0 },
        ]});
        insta::assert_snapshot!(busiest(&line).join("\n"), @r#"
        20.0 answers a second over 2.0 s, 3 not looked at
        EACH S  %     ZONE      NAME
        15.0    75.0  internal  casa-api.internal
        5.0     25.0  .         example.com\u{7}
        "#);
    }

    #[test]
    fn an_answer_is_a_line() {
        let line = json!({ "name": "casa-api.internal", "zone": "internal", "type": "A", "rcode": "NOERROR",
            "asker": "10.210.1.7", "transport": "udp", "from": "rows", "us": 1.26 });
        assert_eq!(
            answer(&line),
            "10.210.1.7       udp   casa-api.internal                 A       NOERROR    rows      1.3"
        );
        assert_eq!(answer(&json!({ "lost": 7 })), "… 7 not shown");
    }
}
