//! The server's figures for Prometheus, made of its status.

use std::collections::BTreeMap;
use std::fmt;

use kith_dns::Status;
use kith_dns::forward::ForwardStatus;
use kith_dns::status::{BUCKETS, Latency};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// What stands behind all figures of a process.
pub(crate) const END: &str = "# EOF\n";

/// The figures as lines of OpenMetrics, without their end.
pub(crate) fn lines(status: Status) -> String {
    let mut registry = Registry::with_prefix("kith_dns");
    registry.register_collector(Box::new(Reading(status)));
    let mut text = String::new();
    encode(&mut text, &registry).expect("a text takes what is written to it");
    text.truncate(text.strip_suffix(END).map_or(text.len(), str::len));
    text
}

#[derive(Debug)]
struct Reading(Status);

type Labels<'l> = Vec<(&'static str, &'l str)>;

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = &self.0;
        let mut page = Page(&mut encoder);
        page.queries(status)?;
        page.zone(status)?;
        page.losses(status)?;
        status.forward.as_ref().map_or(Ok(()), |forward| page.forward(forward))
    }
}

struct Page<'p, 'e>(&'p mut DescriptorEncoder<'e>);

impl Page<'_, '_> {
    fn queries(&mut self, status: &Status) -> fmt::Result {
        let counts = status.queries.iter().map(|count| {
            (vec![("zone", count.zone.as_str()), ("type", count.qtype), ("rcode", count.rcode)], count.count)
        });
        self.counters("queries", "Answers, by zone, type and response code", counts)?;
        let help =
            "Time to an answer: given at once, from the moment it was read until it was sent, or after asking others";
        let mut times =
            self.0.encode_descriptor("query_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (path, latency) in [("at_once", &status.at_once), ("later", &status.later)] {
            histogram(times.encode_family(&[("path", path)])?, latency)?;
        }
        Ok(())
    }

    fn zone(&mut self, status: &Status) -> fmt::Result {
        self.gauge("zone_generation", "Zones built since the start", status.generation)?;
        self.seconds("zone_age", "Since the zone was built that is answered from", status.age.as_secs_f64())?;
        self.seconds("zone_build", "What building it took", status.build_time.as_secs_f64())?;
        let freshness = format!("{:?}", status.freshness).to_lowercase();
        let states =
            ["loading", "current", "stale"].map(|state| (vec![("state", state)], u64::from(state == freshness)));
        self.gauges("zone_state", "1 for the state that the zone is in", states)?;
        let files = status.files.iter().filter_map(|file| file.zone.as_ref());
        let names: BTreeMap<&str, u64> =
            status.zones.iter().chain(files).map(|zone| (zone.name.as_str(), zone.names as u64)).collect();
        let names = names.into_iter().chain([("reverse", status.reverse_names as u64)]);
        self.gauges("names", "Names by zone", names.map(|(zone, names)| (vec![("zone", zone)], names)))?;
        self.gauge("rows_left_out", "Rows, or parts of rows, that no name is made of", status.problem_count as u64)?;
        let help = "Entries that _apps and _instances have no room for, if they were asked for";
        self.gauge("list_entries_cut", help, status.entries_cut as u64)?;
        let wrong = status.files.iter().filter(|file| file.fault.is_some()).count();
        self.gauge("zone_files_wrong", "Zone files that cannot be read as they are", wrong as u64)
    }

    fn losses(&mut self, status: &Status) -> fmt::Result {
        let reasons = [("malformed", status.dropped), ("access", status.denied), ("rate_limit", status.limited)];
        let reasons = reasons.map(|(reason, count)| (vec![("reason", reason)], count));
        self.counters("dropped", "Packets without an answer, by reason", reasons)?;
        let help = "Answers sent empty and cut, so that who asked comes by TCP";
        self.counter("rate_limit_cut", help, status.limited_cut)?;
        self.counter("send_errors", "Answers that the system did not take", status.send_errors)?;
        let help = "Questions for others that were told SERVFAIL because too many waited";
        self.counter("slow_queue_overflows", help, status.overflows)?;
        let help = "Connections closed at once because there were too many";
        self.counter("connections_refused", help, status.connections_refused)?;
        let help = "Connections for TLS that ended before a question";
        self.counter("tls_handshakes_failed", help, status.handshakes_failed)
    }

    fn forward(&mut self, forward: &ForwardStatus) -> fmt::Result {
        for (name, help, count) in [
            ("cache_hits", "Answers about foreign names that were kept", forward.hits),
            ("cache_misses", "Questions that somebody else had to be asked", forward.misses),
            ("cache_stale", "Answers that had expired, given because no upstream answered", forward.stale),
            ("cache_prefetches", "Answers in use that were asked for again before they expired", forward.prefetches),
            (
                "cache_prefetches_skipped",
                "Answers in use that were not, because too many were",
                forward.prefetches_skipped,
            ),
            ("forward_turned_away", "Questions turned away because too many waited", forward.turned_away),
            ("forward_refused", "Questions refused to whom nothing is forwarded", forward.refused),
            ("forward_loops", "Questions of this server's own that came back", forward.loops),
            ("forward_rebind_dropped", "Records dropped that pointed into the cluster", forward.rebind_dropped),
        ] {
            self.counter(name, help, count)?;
        }
        self.gauge("cache_entries", "Answers kept", forward.entries as u64)?;
        self.gauge("cache_bytes", "Bytes that kept answers take", forward.bytes as u64)?;
        // One server may be asked about several domains: its figures are one series.
        let mut results: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let mut up: BTreeMap<&str, u64> = BTreeMap::new();
        for upstream in &forward.upstreams {
            for (result, count) in &upstream.results {
                *results.entry((&upstream.name, result)).or_default() += count;
            }
            let working = up.entry(&upstream.name).or_insert(1);
            *working = (*working).min(u64::from(upstream.working));
        }
        let results =
            results.into_iter().map(|((name, result), count)| (vec![("upstream", name), ("result", result)], count));
        self.counters("forwards", "What came of asking an upstream", results)?;
        let up = up.into_iter().map(|(name, up)| (vec![("upstream", name)], up));
        self.gauges("upstream_up", "1 if the upstream answered when it was asked last", up)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        ConstGauge::new(value).encode(self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?)
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        all: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        all.into_iter().try_for_each(|(labels, value)| ConstCounter::new(value).encode(family.encode_family(&labels)?))
    }

    fn gauges<'l>(&mut self, name: &str, help: &str, all: impl IntoIterator<Item = (Labels<'l>, u64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        all.into_iter().try_for_each(|(labels, value)| ConstGauge::new(value).encode(family.encode_family(&labels)?))
    }
}

fn histogram(mut encoder: MetricEncoder<'_>, latency: &Latency) -> fmt::Result {
    let ends = BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = ends.zip(latency.counts).collect();
    encoder.encode_histogram::<NoLabelSet>(latency.sum.as_secs_f64(), latency.count(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use kith_dns::forward::UpstreamStatus;
    use kith_dns::status::{QueryCount, ZoneStatus};

    use super::*;

    fn status() -> Status {
        let upstream = |working, timeout| UpstreamStatus {
            name: "tls://1.1.1.1#one".to_owned(),
            working,
            results: vec![("answer", 3), ("timeout", timeout)],
        };
        let forward =
            ForwardStatus { upstreams: vec![upstream(true, 1), upstream(false, 2)], hits: 5, ..Default::default() };
        let mut at_once = Latency::default();
        (at_once.counts[0], at_once.counts[2]) = (8, 2);
        at_once.sum = std::time::Duration::from_micros(150);
        Status {
            zones: vec![ZoneStatus { name: "internal".to_owned(), names: 12 }],
            queries: vec![QueryCount { zone: "internal".to_owned(), qtype: "A", rcode: "NOERROR", count: 10 }],
            at_once,
            denied: 4,
            forward: Some(forward),
            ..Status::default()
        }
    }

    /// Reads lines of OpenMetrics as a scraper does: each sample is of the family described before it.
    fn samples(text: &str) -> BTreeMap<&str, f64> {
        let (mut family, mut kind) = ("", "");
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                (family, kind) = described.split_once(' ').expect("a name and a type");
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let name = series.split('{').next().unwrap_or_default();
                let endings: &[&str] = match kind {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                assert!(endings.iter().any(|ending| name.strip_suffix(ending) == Some(family)), "{line} in {family}");
                assert!(samples.insert(series, value.parse().expect("a number")).is_none(), "{series} twice");
            }
        }
        samples
    }

    #[test]
    fn every_figure_is_of_a_described_family_and_there_once() {
        let text = lines(status());
        let samples = samples(&text);
        for (series, value) in [
            (r#"kith_dns_queries_total{zone="internal",type="A",rcode="NOERROR"}"#, 10.0),
            (r#"kith_dns_query_duration_seconds_bucket{le="0.00001",path="at_once"}"#, 8.0),
            (r#"kith_dns_query_duration_seconds_bucket{le="0.00005",path="at_once"}"#, 10.0),
            (r#"kith_dns_query_duration_seconds_bucket{le="+Inf",path="at_once"}"#, 10.0),
            (r#"kith_dns_query_duration_seconds_count{path="later"}"#, 0.0),
            (r#"kith_dns_dropped_total{reason="access"}"#, 4.0),
            (r#"kith_dns_names{zone="internal"}"#, 12.0),
            (r#"kith_dns_zone_state{state="loading"}"#, 1.0),
            ("kith_dns_cache_hits_total", 5.0),
            (r#"kith_dns_forwards_total{upstream="tls://1.1.1.1#one",result="timeout"}"#, 3.0),
            (r#"kith_dns_upstream_up{upstream="tls://1.1.1.1#one"}"#, 0.0),
        ] {
            assert_eq!(samples.get(series), Some(&value), "{series} in\n{text}");
        }
        assert!(!text.contains(END) && text.ends_with('\n'));
    }
}
