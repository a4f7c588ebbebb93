//! `kith presence set`, `get`, `watch` and `who`: questions to a node of presence, by its HTTP API.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use kith_presence::{AuthConfig, Writes};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Map, Value, json};

use super::table;
use super::value::printable;
use crate::args::{At, Get, Output, PresenceAction, Set, Who};
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Where a node is when nobody says otherwise.
const DEFAULT: &str = "http://127.0.0.1:8080";
/// A node answers from memory.
const ANSWER: Duration = Duration::from_secs(10);
/// A token that is signed here is for this one write.
const TOKEN_SECS: u64 = 60;

/// Does what was typed.
pub(crate) async fn run(action: &PresenceAction) -> Result<(), Failure> {
    match action {
        PresenceAction::Set(args) => set(args).await,
        PresenceAction::Get(args) => get(args).await,
        PresenceAction::Watch(args) => watch(args).await,
        PresenceAction::Who(args) => who(args).await,
    }
}

async fn set(args: &Set) -> Result<(), Failure> {
    let mut body = json!({"status": args.status, "ttl": args.ttl});
    for (name, value) in [("message", &args.message), ("session", &args.session)] {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    let request = ask(&args.at, Method::PUT, &format!("/{}", encoded(&args.user)))?;
    let request = match token(args)? {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let users = users(request.timeout(ANSWER).body(body.to_string())).await?;
    print(&users, &args.output)
}

async fn get(args: &Get) -> Result<(), Failure> {
    let request = ask(&args.at, Method::GET, &format!("?users={}", list(&args.users)))?;
    print(&users(request.timeout(ANSWER)).await?, &args.output)
}

async fn who(args: &Who) -> Result<(), Failure> {
    let request = ask(&args.at, Method::GET, "?online=1")?;
    print(&users(request.timeout(ANSWER)).await?, &args.output)
}

/// Prints every change until the stream ends, or nobody reads on.
async fn watch(args: &Get) -> Result<(), Failure> {
    let request = ask(&args.at, Method::GET, &format!("/stream?users={}", list(&args.users)))?;
    let mut stream = good(request).await?.bytes_stream();
    let (mut out, mut read) = (Out::new(), Vec::new());
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes.map_err(unreachable)?);
        while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = read.drain(..=end).collect();
            let Some(record) = line.strip_prefix(b"data: ") else { continue };
            let Ok(Value::Object(event)) = serde_json::from_slice(record) else { continue };
            for (_, record) in event.get("data").and_then(Value::as_object).into_iter().flatten() {
                if args.output.json {
                    out.json(record)?;
                } else {
                    out.line(row(record).join("  "))?;
                }
            }
        }
    }
    Err(Failure::message(Exit::Failed, "the stream ended"))
}

fn ask(at: &At, method: Method, path: &str) -> Result<RequestBuilder, Failure> {
    let named = at.at.clone().or_else(|| std::env::var("KITH_PRESENCE").ok());
    let base = named.unwrap_or_else(|| DEFAULT.to_owned());
    let url = format!("{}/api/v2/presence{path}", base.trim_end_matches('/'));
    let client = Client::builder().no_proxy().build().map_err(|e| Failure::new(Exit::Software, e))?;
    Ok(client.request(method, url))
}

/// What stands for itself in a path or a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn list(users: &[String]) -> String {
    users.iter().map(|user| encoded(user)).collect::<Vec<_>>().join(",")
}

fn unreachable(error: reqwest::Error) -> Failure {
    Failure::new(Exit::Unreachable, error).context("presence does not answer")
}

/// An answer that is a success.
async fn good(request: RequestBuilder) -> Result<Response, Failure> {
    let response = request.send().await.map_err(unreachable)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let body: Value = serde_json::from_str(&response.text().await.unwrap_or_default()).unwrap_or_default();
    let error = body.get("error").and_then(Value::as_str).unwrap_or("no reason was given");
    let failure = Failure::message(Exit::Failed, format!("{error} ({})", status.as_u16()));
    Err(match status.as_u16() {
        401 | 403 => failure.hint("name a file with a token by --token-file, or with the secret by --secret-file"),
        _ => failure,
    })
}

async fn users(request: RequestBuilder) -> Result<Map<String, Value>, Failure> {
    let text = good(request).await?.text().await.map_err(unreachable)?;
    let answer: Value = serde_json::from_str(&text).map_err(|e| Failure::new(Exit::Unreachable, e))?;
    Ok(answer.get("data").and_then(Value::as_object).cloned().unwrap_or_default())
}

fn print(users: &Map<String, Value>, output: &Output) -> Result<(), Failure> {
    let mut out = Out::new();
    if output.json {
        for record in users.values() {
            out.json(record)?;
        }
        return Ok(());
    }
    let rows: Vec<_> = users.values().map(|record| row(record).to_vec()).collect();
    table::render(&["USER", "STATUS", "MESSAGE", "NODE", "LAST SEEN"], &rows).iter().try_for_each(|line| out.line(line))
}

fn row(record: &Value) -> [String; 5] {
    // What a user says of himself must not drive another's terminal.
    let text = |name: &str| printable(record.get(name).and_then(Value::as_str).unwrap_or("-"));
    let stale = if record.get("stale") == Some(&Value::Bool(true)) { " (stale)" } else { "" };
    [text("user_id"), format!("{}{stale}", text("status")), text("message"), text("node_id"), text("last_seen")]
}

/// The token to write with, if one was named.
fn token(args: &Set) -> Result<Option<String>, Failure> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|e| Failure::new(Exit::Io, e).context(path.display().to_string()));
    match (&args.token_file, &args.secret_file) {
        (Some(path), _) => Ok(Some(String::from_utf8_lossy(&read(path)?).trim().to_owned())),
        (None, Some(path)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let secret = read(path)?;
            let signed =
                kith_presence::sign(&secret, &args.user, now + TOKEN_SECS, Writes::Own, &AuthConfig::default());
            Ok(Some(signed.map_err(|e| Failure::new(Exit::Software, e))?))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_user_says_does_not_drive_the_terminal() {
        let shown = row(&json!({"user_id": "a\u{7}", "status": "away", "message": "\u{1b}[2J\n"}));
        assert_eq!(shown, ["a\\u{7}", "away", "\\u{1b}[2J\\n", "-", "-"]);
    }
}
