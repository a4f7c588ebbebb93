//! Counters and histograms for Prometheus. What others count (the store, replication, subscriptions) is read from them when
//! it is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::membership::{Certificate, Count, MemberState, ReplicationFigures};
use super::routes::App;
use crate::store::StoreState;
use crate::subscriptions::SubscriptionFigures;

/// Upper ends of the buckets of answering times, in seconds: from a cached read to a time-out.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What stands behind all figures.
const END: &str = "# EOF\n";

type ByRoute<const N: usize> = [(&'static str, String); N];

/// What the API counts itself.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: Family<ByRoute<2>, Counter>,
    seconds: Family<ByRoute<1>, Histogram>,
    transactions: Family<ByRoute<1>, Counter>,
    queries: Family<ByRoute<1>, Counter>,
    unauthorized: Counter,
    connections_closed: Counter,
}

/// How a transaction or query went.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Done,
    Failed,
}

impl Outcome {
    fn label(self) -> ByRoute<1> {
        let outcome = match self {
            Self::Done => "done",
            Self::Failed => "failed",
        };
        [("outcome", outcome.to_owned())]
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            transactions: Family::default(),
            queries: Family::default(),
            unauthorized: Counter::default(),
            connections_closed: Counter::default(),
        }
    }
}

impl Metrics {
    /// An answer's head is sent.
    pub(super) fn answered(&self, route: &'static str, status: StatusCode, time: Duration) {
        self.requests.get_or_create(&[("route", route.to_owned()), ("status", status.as_str().to_owned())]).inc();
        self.seconds.get_or_create(&[("route", route.to_owned())]).observe(time.as_secs_f64());
    }

    /// A transaction was tried.
    pub(super) fn transaction(&self, outcome: Outcome) {
        self.transactions.get_or_create(&outcome.label()).inc();
    }

    /// A query was tried.
    pub(super) fn query(&self, outcome: Outcome) {
        self.queries.get_or_create(&outcome.label()).inc();
    }

    /// A request came without a token, or with a wrong one.
    pub(super) fn unauthorized(&self) {
        self.unauthorized.inc();
    }

    /// Where connections that made way for others are counted.
    pub(super) fn connections_closed(&self) -> Counter {
        self.connections_closed.clone()
    }

    /// Everything, as Prometheus reads it: of the node itself, and of its other parts as they reported it.
    pub(super) fn text(&self, app: &App) -> Result<String, fmt::Error> {
        let mut text = self.own(app)?;
        text.truncate(text.strip_suffix(END).map_or(text.len(), str::len));
        text.push_str(&app.reports.figures());
        text.push_str(END);
        Ok(text)
    }

    /// What is of the node itself.
    pub(super) fn own(&self, app: &App) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("kith");
        registry.register("http_requests", "Answers, by route and status", self.requests.clone());
        let help = "Time to an answer's head, by route";
        registry.register_with_unit("http_request", help, Unit::Seconds, self.seconds.clone());
        registry.register("transactions", "Transactions tried", self.transactions.clone());
        registry.register("queries", "Queries tried", self.queries.clone());
        let help = "Requests without a token or with a wrong one";
        registry.register("http_unauthorized", help, self.unauthorized.clone());
        let help = "Connections without a request that were closed to make room for others";
        registry.register("http_connections_closed", help, self.connections_closed.clone());
        registry.register_collector(Box::new(Reading::of(app)));
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// What others count, read once.
#[derive(Debug)]
struct Reading {
    store: Arc<StoreState>,
    replication: ReplicationFigures,
    counts: Vec<Count>,
    subscriptions: SubscriptionFigures,
    members: [(&'static str, u64); 3],
    certificate: Option<Certificate>,
    alarms: BTreeMap<String, u64>,
}

impl Reading {
    fn of(app: &App) -> Self {
        let members = app.membership.members().borrow().clone();
        let states = [MemberState::Up, MemberState::Silent, MemberState::Removed];
        let count = |state| members.iter().filter(|member| member.state == state).count() as u64;
        let mut alarms = BTreeMap::new();
        app.alarms().into_iter().for_each(|(name, _)| *alarms.entry(name).or_default() += 1);
        Self {
            certificate: app.membership.certificate(),
            alarms,
            store: app.store.state(),
            replication: app.membership.figures(),
            counts: app.membership.counts(),
            subscriptions: app.subscriptions.figures(),
            members: states.map(|state| (state.as_str(), count(state))),
        }
    }
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters = [
            ("store_commits", "Commits of the store, own and of peers", self.store.commits),
            ("replication_applied", "Versions of other sites applied", self.replication.applied),
            ("replication_pushed", "Versions sent to peers, once per peer", self.replication.pushed),
            ("replication_pulls", "Pulls asked for", self.replication.pulls),
            ("replication_pulls_failed", "Pulls that failed", self.replication.pulls_failed),
            ("subscription_looks", "Times a live query was run again", self.subscriptions.looks),
            ("subscription_looks_whole", "Times of these that all its rows were read", self.subscriptions.looks_whole),
            ("subscription_events", "Change events of live queries", self.subscriptions.events),
            ("subscription_cut", "Listeners cut off for being slow", self.subscriptions.cut),
            ("subscription_damaged", "Live queries ended because the database is damaged", self.subscriptions.damaged),
        ];
        let counts = self.counts.iter().map(|count| (count.name, count.help, count.value));
        for (name, help, value) in counters.into_iter().chain(counts) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauges = [
            ("store_sites", "Sites whose versions are known", self.store.heads.len() as u64),
            ("store_set_aside_cells", "Cells that no table here can take", self.store.set_aside),
            (
                "store_sites_given_up",
                "Times this store took another site id: as a copy, set back, or after its clock was far ahead",
                self.store.renounced,
            ),
            ("replication_behind", "Versions that peers have and this node has not", self.replication.behind),
            ("replication_queued", "Versions received and not yet applied", self.replication.queued),
            ("subscription_queries", "Live queries", self.subscriptions.queries),
            ("subscription_bytes", "Bytes that live queries hold", self.subscriptions.bytes),
            ("subscription_listeners", "Listeners of live queries", self.subscriptions.listeners),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let lag = ConstGauge::new(self.replication.lag_p99.as_secs_f64());
        let help = "From a version's arrival to the synced store, 99th percentile";
        lag.encode(encoder.encode_descriptor("replication_lag_p99", help, Some(&Unit::Seconds), lag.metric_type())?)?;
        if let Some((day, _)) = self.store.digests.days().next() {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let age = ConstGauge::new(now.saturating_sub(Duration::from_millis(day.ms())).as_secs());
            let help = "Since the day of the oldest deletion that is remembered";
            age.encode(encoder.encode_descriptor(
                "store_oldest_deletion",
                help,
                Some(&Unit::Seconds),
                age.metric_type(),
            )?)?;
        }
        if let Some(certificate) = self.certificate {
            let left = ConstGauge::new(certificate.left.as_secs());
            let help = "Until the node's certificate ends";
            left.encode(encoder.encode_descriptor(
                "certificate_left",
                help,
                Some(&Unit::Seconds),
                left.metric_type(),
            )?)?;
        }
        self.encode_labelled(encoder)
    }
}

impl Reading {
    /// The figures that are one for each of several things.
    fn encode_labelled(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sample = ConstGauge::new(0u64);
        let mut alarms =
            encoder.encode_descriptor("alarms", "What somebody has to look at", None, sample.metric_type())?;
        for (alarm, count) in &self.alarms {
            ConstGauge::new(*count).encode(alarms.encode_family(&[("alarm", alarm.as_str())])?)?;
        }
        let mut members = encoder.encode_descriptor("members", "Members by state", None, sample.metric_type())?;
        for (state, count) in self.members {
            ConstGauge::new(count).encode(members.encode_family(&[("state", state)])?)?;
        }
        Ok(())
    }
}
