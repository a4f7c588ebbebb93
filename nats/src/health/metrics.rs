//! What Prometheus reads of the runner.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::check::Outcome;
use crate::status::{Health, Phase, Status};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    name: String,
}

/// The figures at this moment.
pub(super) fn text(status: &Status, checks: &[Outcome]) -> String {
    let mut registry = Registry::with_prefix("kith_nats");
    let flag = |truth: bool| ConstGauge::new(i64::from(truth));
    registry.register(
        "healthy",
        "nats-server lives, or waits for its first peers",
        flag(status.health == Health::Healthy),
    );
    registry.register("running", "nats-server runs and answers", flag(status.phase == Phase::Running));
    registry.register("crash_looping", "nats-server ended again and again", flag(status.phase == Phase::CrashLooping));
    registry.register("restarts", "Starts of nats-server after the first", ConstCounter::new(status.restarts));
    #[allow(clippy::cast_precision_loss, reason = "to the millisecond for another 200,000 years")]
    let started = status.started_at as f64 / 1e3;
    registry.register_with_unit(
        "started",
        "When nats-server was last started",
        Unit::Seconds,
        ConstGauge::new(started),
    );
    let ok = Family::<Named, Gauge>::default();
    for check in checks {
        ok.get_or_create(&Named { name: check.name.clone() }).set(i64::from(check.ok));
    }
    registry.register("check_ok", "Each check of /checks, 1 if it is well", ok);
    let mut text = String::new();
    encode(&mut text, &registry).expect("a text takes all that is written to it");
    text
}
