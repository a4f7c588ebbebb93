//! Where the API is: a TCP address by URL, or a Unix socket by path; and the token that opens it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

/// Where the API listens.
///
/// Parsed from `http://host:port` or `unix:/path/to/socket`. TLS is not offered: the API is for this host, and what
/// leaves the host goes through a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// HTTP over TCP. The URL has no path, query or credentials.
    Http(Url),
    /// HTTP over a Unix socket, by its absolute path.
    Unix(PathBuf),
}

/// Why a text is not an [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an endpoint: {why} (an endpoint is http://HOST:PORT or unix:/PATH)")]
pub struct BadEndpoint {
    text: String,
    why: &'static str,
}

impl Endpoint {
    /// The endpoint of a Unix socket.
    pub fn unix(path: impl AsRef<Path>) -> Endpoint {
        Endpoint::Unix(path.as_ref().to_owned())
    }

    /// The URL that requests start from. Over a Unix socket the host is a word for the `Host` header only.
    pub(crate) fn base(&self) -> Url {
        match self {
            Endpoint::Http(url) => url.clone(),
            Endpoint::Unix(_) => Url::parse("http://kith/").expect("a constant URL parses"),
        }
    }
}

impl From<std::net::SocketAddr> for Endpoint {
    fn from(addr: std::net::SocketAddr) -> Endpoint {
        Endpoint::Http(Url::parse(&format!("http://{addr}/")).expect("a socket address makes a URL"))
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Endpoint, BadEndpoint> {
        let bad = |why| BadEndpoint { text: text.to_owned(), why };
        if let Some(path) = text.strip_prefix("unix:") {
            // `unix:///path` is how some tools spell it; a leading `//` is the empty authority.
            let path = if path.starts_with("///") { &path[2..] } else { path };
            if !path.starts_with('/') {
                return Err(bad("the socket's path is not absolute"));
            }
            return Ok(Endpoint::Unix(PathBuf::from(path)));
        }
        let url = Url::parse(text).map_err(|_| bad("it is not a URL"))?;
        match url.scheme() {
            "http" => {}
            "https" => return Err(bad("the API speaks plain HTTP")),
            _ => return Err(bad("its scheme is neither http nor unix")),
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(bad("it names no host"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it has a path, and the API's paths are fixed"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("it holds credentials; use a token"));
        }
        Ok(Endpoint::Http(url))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bearer token. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A text that cannot be sent in an `Authorization` header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a token is 1 to {max} printable ASCII characters without blanks", max = Token::MAX)]
pub struct BadToken;

impl Token {
    /// Longest token that is accepted, in bytes: far above any real one, far below a header limit.
    pub const MAX: usize = 1024;

    /// The token's text, for the header.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Token, BadToken> {
        let fits = (1..=Token::MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Token(text.to_owned())) } else { Err(BadToken) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_prints_as_it_is_written() {
        for text in ["http://127.0.0.1:31220", "http://[::1]:31220", "http://db.internal", "unix:/run/kith/kith.sock"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        assert_eq!("unix:///run/k.sock".parse(), Ok(Endpoint::unix("/run/k.sock")));
    }

    #[test]
    fn what_is_no_endpoint_says_why() {
        for (text, why) in [
            ("127.0.0.1:31220", "not a URL"),
            ("localhost:31220", "neither http nor unix"),
            ("https://db:1", "plain HTTP"),
            ("http://db:1/v1", "has a path"),
            ("http://me:secret@db:1", "credentials"),
            ("unix:kith.sock", "not absolute"),
            ("", "not a URL"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_token_never_shows_itself() {
        let token: Token = "s3cret".parse().unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert_eq!("a b".parse::<Token>(), Err(BadToken));
        assert_eq!("".parse::<Token>(), Err(BadToken));
    }
}
