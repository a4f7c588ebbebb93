//! Which route is answered by whom.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post, put};
use http::StatusCode;
use kith_gossip_proto::NodeId;
use tokio_util::sync::CancellationToken;

use super::config::Tokens;
use super::error::ApiError;
use super::gate::{Door, RouteLimit, check_scope, check_token, limit};
use super::membership::{MemberState, Membership};
use super::metrics::Metrics;
use super::{backup, migrations, openapi, queries, reports, status, subscribe, transactions, updates};
use crate::store::{Other, Store};
use crate::subscriptions::Subscriptions;

/// What answers are made of.
#[derive(Debug)]
pub(super) struct App {
    pub(super) node: NodeId,
    pub(super) release: String,
    pub(super) store: Store,
    pub(super) subscriptions: Subscriptions,
    pub(super) membership: Arc<dyn Membership>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) reports: reports::Reports,
    pub(super) started: Instant,
    /// Cancelled when the server stops: streams end.
    pub(super) stopping: CancellationToken,
}

impl App {
    /// What somebody has to see to, as name and text: the node's own alarms, and those of its other parts.
    pub(super) fn alarms(&self) -> Vec<(String, String)> {
        let own = self.membership.alarms().into_iter().map(|alarm| (alarm.name.to_owned(), alarm.text));
        own.chain(self.reports.alarms()).collect()
    }

    /// How many other nodes belong to the cluster, up or silent.
    pub(super) fn others(&self) -> usize {
        let members = self.membership.members();
        let members = members.borrow();
        members.iter().filter(|member| member.state != MemberState::Removed && member.server != self.node).count()
    }

    /// Lets SQL see the other nodes as they are now.
    pub(super) fn show_others(&self) {
        let members = self.membership.members();
        let members = members.borrow();
        let others = members.iter().filter(|member| member.server != self.node).filter_map(|member| {
            let state = if member.state == MemberState::Up { "Alive" } else { "Down" };
            let rtt_ms = member.rtt.map(|rtt| u64::try_from(rtt.as_millis()).unwrap_or(u64::MAX));
            // One that has not said yet which store it has is nobody that Corrosion could name.
            Some(Other { site: member.site?.to_string(), addr: member.addr.to_string(), state, rtt_ms })
        });
        self.store.show_others(&others.collect::<Vec<_>>());
    }

    /// How many other nodes are up.
    pub(super) fn others_up(&self) -> usize {
        let members = self.membership.members();
        let members = members.borrow();
        members.iter().filter(|member| member.state == MemberState::Up && member.server != self.node).count()
    }
}

/// All routes, behind the token, and each behind its scope and its limit.
pub(super) fn router(app: Arc<App>, tokens: Option<Tokens>) -> Router {
    let metrics = Arc::clone(&app.metrics);
    let mut router = Router::new();
    for (path, route) in openapi::ROUTES.iter().map(|route| (route.path, route)) {
        // The limit is outside, because it also counts what the scope refuses.
        let scoped = handler(path).layer(from_fn_with_state(route.scope, check_scope));
        router = router.route(path, scoped.layer(from_fn_with_state(RouteLimit::new(path, &metrics), limit)));
    }
    router
        .fallback(async |request: Request| {
            ApiError::new(StatusCode::NOT_FOUND, format!("there is no {} {}", request.method(), request.uri().path()))
        })
        .method_not_allowed_fallback(async |request: Request| {
            let message = format!("{} is not for {}", request.uri().path(), request.method());
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
        })
        .layer(from_fn_with_state(Door { tokens, metrics }, check_token))
        .with_state(app)
}

/// Who answers. The table of `openapi` says everything else of a route.
fn handler(path: &str) -> MethodRouter<Arc<App>> {
    match path {
        "/v1/transactions" => post(transactions::post),
        "/v1/queries" => post(queries::post),
        "/v1/subscriptions" => post(subscribe::post),
        "/v1/subscriptions/{id}" => get(subscribe::get),
        "/v1/updates/{table}" => post(updates::post),
        "/v1/migrations" => post(migrations::post),
        "/v1/table_stats" => post(status::table_stats),
        "/v1/health" => get(status::health),
        "/v1/members" => get(status::members),
        "/v1/digest" => get(status::digest),
        "/v1/status" => get(status::status),
        "/v1/status/{part}" => put(reports::put),
        "/v1/metrics/{part}" => put(reports::put_figures),
        "/v1/backup" => get(backup::get),
        "/v1/verify" => get(backup::verify),
        "/live" => get(status::live),
        "/ready" => get(status::ready),
        "/metrics" => get(status::metrics),
        "/openapi.json" => get(openapi::get),
        _ => get(async || ApiError::new(StatusCode::NOT_FOUND, "this is kith: see /openapi.json")),
    }
}
