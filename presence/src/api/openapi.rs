//! `GET /openapi.json`: the API, described for programs; and the table of its routes, which the router is held to.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::{Map, Value, json};

use super::App;

/// A route, and all that a client must know of it.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) method: &'static str,
    summary: &'static str,
    /// Of the query string and headers: name, where, meaning.
    parameters: &'static [(&'static str, &'static str, &'static str)],
    /// What the body is, as JSON; empty for none.
    body: &'static str,
    answer: &'static str,
    statuses: &'static [(u16, &'static str)],
}

const RECORD: &str = "application/json";
const FILLED: (u16, &str) =
    (503, "the node has not read its users yet, or is too busy; Retry-After says when to ask again");
/// Of every route.
const HEAD: (u16, &str) = (431, "the head of the request, with its token, is over 16 KiB");
const LISTED: (&str, &str, &str) = ("sessions", "query", "1: with the sessions");
const WRITTEN: (&str, &str, &str) =
    ("durability", "query", "center: answer once the center keeps it, or 503 with what is kept here");
const MATCH: (&str, &str, &str) = ("If-Match", "header", "the ETag that the user must have");

/// Every route.
pub(crate) const ROUTES: [Route; 13] = [
    Route {
        path: "/api/v2/presence/{user_id}",
        method: "get",
        summary: "How a user is",
        parameters: &[("strict", "query", "1: 404 for a user of whom nothing is known"), LISTED],
        body: "",
        answer: RECORD,
        statuses: &[(400, "no user id"), (404, "nothing is known of the user, and strict=1"), FILLED],
    },
    Route {
        path: "/api/v2/presence/{user_id}",
        method: "put",
        summary: "A user is here, for ttl seconds after the last heartbeat",
        parameters: &[WRITTEN, MATCH],
        body: "{\"status\": online, busy, away or offline, \"message\"?, \"ttl\"?, \"session\"?}",
        answer: RECORD,
        statuses: WRITES,
    },
    Route {
        path: "/api/v2/presence/{user_id}",
        method: "delete",
        summary: "A user is gone: from one session, or from all",
        parameters: &[("session", "query", "this one alone"), WRITTEN, MATCH],
        body: "",
        answer: RECORD,
        statuses: WRITES,
    },
    Route {
        path: "/api/v2/presence",
        method: "get",
        summary: "How users are",
        parameters: &[
            ("users", "query", "at most 200 ids, with commas between"),
            ("online", "query", "1: those who are here instead, at most 200 of them"),
            LISTED,
        ],
        body: "",
        answer: RECORD,
        statuses: &[(400, "no users, or no user id"), (413, "more than 200 users"), FILLED],
    },
    Route {
        path: "/api/v2/presence/batch",
        method: "post",
        summary: "How many users are",
        parameters: &[],
        body: "{\"user_ids\": [at most 1,000 ids]}",
        answer: RECORD,
        statuses: &[(400, "no JSON, or no user id"), (413, "more than 1,000 users, or 1 MiB"), FILLED],
    },
    Route {
        path: "/api/v2/presence/heartbeat",
        method: "post",
        summary: "Sessions live on",
        parameters: &[],
        body: "{\"sessions\": [at most 1,000 of {\"user_id\", \"session\"?}]}",
        answer: RECORD,
        statuses: &[
            (400, "no JSON, or no id"),
            (401, "no good token"),
            (403, "another user's"),
            (413, "more than 1,000"),
            (429, "too often"),
            FILLED,
        ],
    },
    Route {
        path: "/api/v2/presence/stream",
        method: "get",
        summary: "A snapshot, then every change, as server-sent events",
        parameters: &[
            ("users", "query", "at most 200 ids, with commas between"),
            ("Last-Event-ID", "header", "go on after this event"),
        ],
        body: "",
        answer: "text/event-stream",
        statuses: &[(400, "no users, or no user id"), (413, "more than 200 users"), FILLED],
    },
    Route {
        path: "/api/v2/presence/ws",
        method: "get",
        summary: "A WebSocket: subscribe and unsubscribe, snapshots and changes",
        parameters: &[],
        body: "",
        answer: "",
        statuses: &[(400, "no WebSocket"), (426, "no WebSocket"), FILLED],
    },
    Route {
        path: "/health/liveness",
        method: "get",
        summary: "The process is alive",
        parameters: &[],
        body: "",
        answer: RECORD,
        statuses: &[],
    },
    Route {
        path: "/health/readiness",
        method: "get",
        summary: "Reads are answered",
        parameters: &[],
        body: "",
        answer: RECORD,
        statuses: &[FILLED],
    },
    Route {
        path: "/metrics",
        method: "get",
        summary: "Figures, as Prometheus reads them",
        parameters: &[],
        body: "",
        answer: "application/openmetrics-text",
        statuses: &[],
    },
    Route {
        path: "/openapi.json",
        method: "get",
        summary: "This",
        parameters: &[],
        body: "",
        answer: "application/json",
        statuses: &[],
    },
    Route {
        path: "/",
        method: "get",
        summary: "A page for people that follows users, if the node serves it",
        parameters: &[],
        body: "",
        answer: "text/html",
        statuses: &[(404, "the node does not serve it")],
    },
];

const WRITES: &[(u16, &str)] = &[
    (400, "no JSON, or no id, status, message, ttl or session"),
    (401, "no good token"),
    (403, "another user's, and without the scope presence:write:any"),
    (409, "one more session than a node holds of a user"),
    (412, "the user was changed since"),
    (413, "the body is over 1 MiB"),
    (429, "too often; Retry-After says when to come again"),
    (503, "the local nats-server is down, or the node has not begun or is too busy"),
];

/// The description.
pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], describe(&app.release).to_string()).into_response()
}

fn describe(release: &str) -> Value {
    let mut paths = Map::new();
    for route in &ROUTES {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Kith presence", "version": release},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}},
    })
}

fn operation(route: &Route) -> Value {
    let path = route.path.contains("{user_id}").then_some(("user_id", "path", "1 to 128 bytes of any text"));
    let parameters = path.iter().chain(route.parameters).map(|(name, place, meaning)| {
        json!({"name": name, "in": place, "required": *place == "path", "description": meaning, "schema": {"type": "string"}})
    });
    let mut responses = Map::new();
    let good = if route.answer.is_empty() { "101" } else { "200" };
    responses.insert(good.to_owned(), json!({"description": "done"}));
    if !route.answer.is_empty() {
        responses[good]["content"] = json!({route.answer: {}});
    }
    for (status, meaning) in route.statuses.iter().chain([&HEAD]) {
        responses.insert(status.to_string(), json!({"description": meaning}));
    }
    let mut operation =
        json!({"summary": route.summary, "parameters": parameters.collect::<Vec<_>>(), "responses": responses});
    if !route.body.is_empty() {
        operation["requestBody"] =
            json!({"description": route.body, "required": true, "content": {"application/json": {}}});
    }
    if route.statuses.iter().any(|(status, _)| *status == 401) {
        operation["security"] = json!([{"token": []}]);
    }
    operation
}
