//! A real browser without a screen, driven by its DevTools protocol over a pipe: messages of JSON, each ended by a zero byte.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::wait::eventually;

/// For an answer of the browser; its first comes when it has started.
const ANSWER: Duration = Duration::from_secs(30);

/// A browser that shows one page. It ends with its value.
#[derive(Debug)]
pub struct Browser {
    _child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// The session of the page.
    session: Option<String>,
    asked: u64,
    _profile: TempDir,
}

impl Browser {
    /// Starts it, and opens a page.
    ///
    /// # Panics
    /// If it does not start, or does not open the page.
    pub async fn open(program: &Path, url: &str) -> Browser {
        let profile = tempfile::tempdir().expect("a temporary folder can be made");
        // It reads at descriptor 3 and writes at 4.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"]).arg(program);
        // Its sandbox does not run as root; the page is ours.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a shell starts");
        let ask = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut browser = Browser { _child: child, ask, answers, session: None, asked: 0, _profile: profile };
        let target = browser.command("Target.createTarget", json!({ "url": url })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.command("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        assert!(browser.session.is_some(), "{attached}");
        browser
    }

    /// What a JavaScript expression gives on the page.
    ///
    /// # Panics
    /// If it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true });
        let mut answer = self.command("Runtime.evaluate", parameters).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression gives this.
    ///
    /// # Panics
    /// If it does not within the bound.
    pub async fn shows(&mut self, expression: &str, wanted: &Value, bound: Duration) {
        eventually(&format!("{expression} is {wanted}"), bound, async || {
            let seen = self.evaluate(expression).await;
            if seen == *wanted { Ok(()) } else { Err(seen.to_string()) }
        })
        .await;
    }

    async fn command(&mut self, method: &str, parameters: Value) -> Value {
        self.asked += 1;
        let mut message = json!({ "id": self.asked, "method": method, "params": parameters });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.ask.write_all(&bytes).await.expect("the browser runs");
        loop {
            let mut answer = Vec::new();
            let read = timeout(ANSWER, self.answers.read_until(0, &mut answer)).await;
            read.unwrap_or_else(|_| panic!("{method}: the browser says nothing")).expect("it can be read");
            let ended = answer.pop();
            assert_eq!(ended, Some(0), "{method}: the browser ended");
            let mut answer: Value = serde_json::from_slice(&answer).expect("it is JSON");
            // The others are events.
            if answer["id"] == self.asked {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }
}
