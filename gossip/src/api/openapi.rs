//! `GET /openapi.json`: the API, described for programs; and the table of its routes, which the router is made of.

use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Value, json};

use super::config::Scope;
use super::error::JSON;

/// A route, and all that a client must know of it.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) method: &'static str,
    pub(super) scope: Scope,
    summary: &'static str,
    /// Of the query string: name, JSON type, meaning.
    parameters: &'static [(&'static str, &'static str, &'static str)],
    /// What the body is, as JSON; empty for none.
    body: &'static str,
    answer: Answer,
    /// Status codes beside 200 and those that every route has.
    statuses: &'static [(u16, &'static str)],
}

/// What a good answer is.
#[derive(Clone, Copy)]
enum Answer {
    Json,
    /// One JSON value a line.
    Lines,
    /// Prometheus' text.
    Text,
    /// A SQLite database.
    File,
}

/// What every route may answer.
const ALWAYS: [(u16, &str); 3] = [
    (401, "no token, or a wrong one; the body is empty"),
    (403, "the token may do less than this needs"),
    (503, "more requests of this route are in work than are taken, or the server is shutting down"),
];

/// What every route may answer that reads a body.
const WITH_BODY: [(u16, &str); 5] = [
    (400, "not JSON, or a parameter or statement that cannot be"),
    (408, "the body took longer than 30 s"),
    (413, "the body is over 1 MiB"),
    (415, "the body is not said to be JSON, or is compressed"),
    (422, "JSON of another shape"),
];

const STATEMENT: &str = "a statement: \"SQL\", [\"SQL\", [values]], [\"SQL\", {\":name\": value}] or {\"query\", \"params\", \"named_params\"}";

/// What every stream may be asked for that goes on.
const ALIVE: (&str, &str, &str) =
    ("alive", "boolean", "a line {\"alive\":{}} where nothing else comes for as long as the header kith-alive-ms says");

/// Every route.
pub(super) const ROUTES: [Route; 20] = [
    Route {
        path: "/v1/transactions",
        method: "post",
        scope: Scope::Write,
        summary: "Runs statements as one transaction, all or none",
        parameters: &[
            ("timeout", "number", "seconds, 0 for none; 60 if left out"),
            ("replicas", "integer", "answer once so many other nodes have it stored and synced"),
        ],
        body: "a list of statements",
        answer: Answer::Json,
        statuses: &[
            (500, "a statement failed: nothing was kept"),
            (504, "kept, and not held by as many other nodes in time"),
            (507, "the disk is full"),
        ],
    },
    Route {
        path: "/v1/queries",
        method: "post",
        scope: Scope::Read,
        summary: "Runs one read-only statement",
        parameters: &[("timeout", "number", "seconds, 0 for none; 60 if left out")],
        body: STATEMENT,
        answer: Answer::Lines,
        statuses: &[(500, "the statement failed")],
    },
    Route {
        path: "/v1/subscriptions",
        method: "post",
        scope: Scope::Read,
        summary: "Follows a query: its rows, then its changes",
        parameters: &[
            ("from", "integer", "changes after this one only"),
            ("skip_rows", "boolean", "begin with the next change"),
            ("commits", "boolean", "say behind which change a transaction ends"),
            ALIVE,
        ],
        body: STATEMENT,
        answer: Answer::Lines,
        statuses: &[(500, "the query could not be run")],
    },
    Route {
        path: "/v1/subscriptions/{id}",
        method: "get",
        scope: Scope::Read,
        summary: "Attaches to a followed query again",
        parameters: &[
            ("from", "integer", "changes after this one only"),
            ("skip_rows", "boolean", "begin with the next change"),
            ("commits", "boolean", "say behind which change a transaction ends"),
            ALIVE,
        ],
        body: "",
        answer: Answer::Lines,
        statuses: &[(400, "not a UUID, or a wrong parameter"), (404, "no query has this id any more")],
    },
    Route {
        path: "/v1/updates/{table}",
        method: "post",
        scope: Scope::Read,
        summary: "Tells the primary keys of rows that change, from now on",
        parameters: &[],
        body: "",
        answer: Answer::Lines,
        statuses: &[(400, "there is no such table")],
    },
    Route {
        path: "/v1/migrations",
        method: "post",
        scope: Scope::Admin,
        summary: "Adds the tables, columns and indexes that texts of schema declare, all or none",
        parameters: &[("dry_run", "boolean", "only say what would be added")],
        body: "a list of texts",
        answer: Answer::Json,
        statuses: &[(500, "SQLite failed"), (507, "the disk is full")],
    },
    Route {
        path: "/v1/table_stats",
        method: "post",
        scope: Scope::Read,
        summary: "Counts the rows of some tables together",
        parameters: &[],
        body: "{\"tables\": [names]}",
        answer: Answer::Json,
        statuses: &[(500, "the tables could not be read")],
    },
    Route {
        path: "/v1/health",
        method: "get",
        scope: Scope::Read,
        summary: "Figures of health, against thresholds if any are given",
        parameters: &[
            ("gaps", "integer", "at most so many versions that peers have and this node has not"),
            ("p99_lag", "number", "at most so many seconds"),
            ("max_queue", "integer", "at most so many versions that wait"),
            ("failure_status", "integer", "the status beyond a threshold; 503 if left out"),
        ],
        body: "",
        answer: Answer::Json,
        statuses: &[(400, "a wrong parameter")],
    },
    Route {
        path: "/v1/members",
        method: "get",
        scope: Scope::Read,
        summary: "The members of the cluster, as this node sees them",
        parameters: &[("watch", "boolean", "go on with every change"), ALIVE],
        body: "",
        answer: Answer::Lines,
        statuses: &[(400, "a wrong parameter")],
    },
    simple("/v1/digest", "Fingerprints of state, heads and schema", Answer::Json),
    simple("/v1/status", "How this node is doing, every part of it", Answer::Json),
    Route {
        path: "/v1/status/{part}",
        method: "put",
        scope: Scope::Write,
        summary: "Leaves what a part says of itself beside the node's own status",
        parameters: &[],
        body: "any JSON",
        answer: Answer::Json,
        statuses: &[],
    },
    Route {
        path: "/v1/metrics/{part}",
        method: "put",
        scope: Scope::Write,
        summary: "Leaves figures of a part beside the node's own, for 15 s",
        parameters: &[],
        body: "a text of OpenMetrics lines without # EOF, all of which begin with kith_{part}_",
        answer: Answer::Json,
        statuses: &[],
    },
    Route {
        path: "/v1/backup",
        method: "get",
        scope: Scope::Admin,
        summary: "A copy of the store as of one commit, as a database file",
        parameters: &[],
        body: "",
        answer: Answer::File,
        statuses: &[(500, "the store could not be copied"), (503, "it is being copied as often as it may be at once")],
    },
    Route {
        path: "/v1/verify",
        method: "get",
        scope: Scope::Admin,
        summary: "Makes log and digest anew from the rows, and says where they differ from what is kept",
        parameters: &[],
        body: "",
        answer: Answer::Json,
        statuses: &[(500, "the store could not be read")],
    },
    simple("/live", "Whether the process works", Answer::Json),
    Route {
        statuses: &[(503, "not ready: what is waited for")],
        ..simple("/ready", "Whether answers are complete", Answer::Json)
    },
    simple("/metrics", "Figures for Prometheus", Answer::Text),
    simple("/openapi.json", "This description", Answer::Json),
    Route { statuses: &[(404, "always: there is nothing here")], ..simple("/", "Says where to look", Answer::Json) },
];

const fn simple(path: &'static str, summary: &'static str, answer: Answer) -> Route {
    Route { path, method: "get", scope: Scope::Read, summary, parameters: &[], body: "", answer, statuses: &[] }
}

pub(super) async fn get() -> Response {
    let body = serde_json::to_vec(&document()).expect("it is made of texts");
    ([(header::CONTENT_TYPE, JSON)], body).into_response()
}

fn document() -> Value {
    let mut paths = serde_json::Map::new();
    for route in &ROUTES {
        paths.insert(route.path.to_owned(), json!({ route.method: route.describe() }));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Kith", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "Apache-2.0" } },
        "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } },
        "paths": paths,
    })
}

impl Route {
    fn describe(&self) -> Value {
        let in_path = self
            .path
            .split(['{', '}'])
            .skip(1)
            .step_by(2)
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
        let in_query = self.parameters.iter().map(|(name, kind, meaning)| {
            json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": kind } })
        });
        let kind = match self.answer {
            Answer::Json => "application/json",
            Answer::Lines => "application/x-ndjson",
            Answer::Text => "application/openmetrics-text",
            Answer::File => "application/vnd.sqlite3",
        };
        let mut responses = serde_json::Map::new();
        responses.insert("200".to_owned(), json!({ "description": "done", "content": { kind: {} } }));
        let with_body = WITH_BODY.iter().filter(|_| !self.body.is_empty());
        // What the route itself says of a status is more than what all say.
        for (status, meaning) in ALWAYS.iter().chain(with_body).chain(self.statuses) {
            responses.insert(status.to_string(), json!({ "description": meaning }));
        }
        let mut described = json!({
            "summary": self.summary,
            "security": [{ "token": [self.scope.as_str()] }],
            "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
            "responses": responses,
        });
        if !self.body.is_empty() {
            let content = json!({ "application/json": {} });
            described["requestBody"] = json!({ "description": self.body, "required": true, "content": content });
        }
        described
    }
}
