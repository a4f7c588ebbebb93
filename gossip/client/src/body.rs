//! Whole bodies, read up to a bound, and what a refusal says.

use http::StatusCode;
use reqwest::Response;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::endpoint::Endpoint;
use crate::error::{Cause, Error};

/// Most bytes of a body that is read as a whole: a status of a large fleet or the results of a full transaction
/// (1 MiB of statements) stay far below. Beyond it the call fails with [`Error::TooLarge`].
pub(crate) const MAX_BODY: usize = 16 * 1024 * 1024;

/// Most bytes that are read of a refusal: a message is one line. The rest is left unread.
const MAX_REFUSAL: usize = 64 * 1024;

/// The body of a successful answer.
pub(crate) async fn read(endpoint: &Endpoint, mut response: Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| broken(endpoint, &e))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Error::TooLarge { max: MAX_BODY });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The body of a successful answer, as JSON.
pub(crate) async fn read_json<T: DeserializeOwned>(endpoint: &Endpoint, response: Response) -> Result<T, Error> {
    let body = read(endpoint, response).await?;
    serde_json::from_slice(&body).map_err(|e| Error::malformed(&body, &e))
}

/// What an answer with another status than success says.
pub(crate) async fn refusal(mut response: Response) -> Error {
    let status = response.status();
    let mut body = Vec::new();
    // A refusal whose text is cut off is still a refusal: the status decides, the text explains.
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_REFUSAL {
            break;
        }
    }
    Error::Refused { status, message: message(status, &body) }
}

/// The connection broke while the answer was read.
pub(crate) fn broken(endpoint: &Endpoint, error: &reqwest::Error) -> Error {
    Error::Broken { endpoint: endpoint.clone(), source: Cause::of(error) }
}

/// The two shapes of a refusal: an error alone, or the envelope of a transaction with one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Refusal {
    Plain { error: String },
    Envelope { results: Vec<FailedStatement> },
}

#[derive(Deserialize)]
struct FailedStatement {
    error: Option<String>,
}

fn message(status: StatusCode, body: &[u8]) -> String {
    let named = || status.canonical_reason().unwrap_or("refused").to_owned();
    match serde_json::from_slice(body) {
        Ok(Refusal::Plain { error }) => error,
        Ok(Refusal::Envelope { results }) => results.into_iter().find_map(|r| r.error).unwrap_or_else(named),
        Err(_) => {
            // Not of the API, a proxy perhaps: its first line, if it is one.
            let text = String::from_utf8_lossy(body);
            let line = text.lines().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default();
            if line.is_empty() || line.len() > 400 { named() } else { line.to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_read_in_each_of_its_shapes() {
        let at = |body: &str| message(StatusCode::INTERNAL_SERVER_ERROR, body.as_bytes());
        assert_eq!(at(r#"{"error":"no such table: t"}"#), "no such table: t");
        assert_eq!(
            at(r#"{"results":[{"error":"near \"x\""}],"time":0.0,"version":null,"actor_id":"00"}"#),
            "near \"x\""
        );
        assert_eq!(at("\n upstream said no \nmore"), "upstream said no");
        assert_eq!(at(""), "Internal Server Error");
        assert_eq!(at(&"x".repeat(500)), "Internal Server Error");
    }
}
