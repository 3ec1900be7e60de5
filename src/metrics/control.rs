//! Events of the control plane, through the `metrics` crate: probes, failovers, catalog, reloads.
//!
//! The recorder is a value and not the process' global one; whoever counts is given a handle.
//! These events come a few times a second, so a handle's locked add costs nothing that matters.

use super::Kind;
use super::histogram::BOUNDS_NS;
use super::table::{Name, TABLE};
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The recorder keeps each sample of a histogram until this often somebody calls
/// [`ControlMetrics::upkeep`] (or renders).
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const METADATA: Metadata<'static> = Metadata::new("tiffin", Level::INFO, None);

/// Hands out the handles and renders what they counted.
pub struct ControlMetrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    started: Instant,
    uptime: Gauge,
    reloads_ok: Counter,
    reloads_refused: Counter,
    config_loaded: Gauge,
}

/// What the monitor counts of one node.
#[derive(Debug, Clone)]
pub struct NodeEvents {
    ok: Counter,
    failed: Counter,
    seconds: Histogram,
}

/// What the control plane counts of one cluster.
#[derive(Debug, Clone)]
pub struct ClusterEvents {
    failovers: Counter,
    failover_seconds: Histogram,
    failover_last: Gauge,
    catalog_ok: Counter,
    catalog_failed: Counter,
    catalog_loaded: Gauge,
}

impl ControlMetrics {
    /// Starts the clock of the uptime; `loaded_at` is when the configuration was read.
    pub fn new(loaded_at: SystemTime) -> ControlMetrics {
        let bounds = BOUNDS_NS.map(|bound| Duration::from_nanos(bound).as_secs_f64());
        let builder = PrometheusBuilder::new().set_buckets(&bounds);
        let recorder = builder.expect("the list of bounds is not empty").build_recorder();
        describe(&recorder);
        let control = ControlMetrics {
            handle: recorder.handle(),
            started: Instant::now(),
            uptime: gauge(&recorder, Name::UptimeSeconds, &[]),
            reloads_ok: counter(&recorder, Name::ConfigReloads, &["ok"]),
            reloads_refused: counter(&recorder, Name::ConfigReloads, &["refused"]),
            config_loaded: gauge(&recorder, Name::ConfigLoaded, &[]),
            recorder,
        };
        gauge(&control.recorder, Name::BuildInfo, &[env!("CARGO_PKG_VERSION")]).set(1.0);
        control.config_loaded.set(seconds_since_1970(loaded_at));
        control
    }

    /// Handles for a node; asking again for the same node gives the same counters.
    pub fn node(&self, cluster: &str, node: &str) -> NodeEvents {
        NodeEvents {
            ok: counter(&self.recorder, Name::Probes, &[cluster, node, "ok"]),
            failed: counter(&self.recorder, Name::Probes, &[cluster, node, "failed"]),
            seconds: histogram(&self.recorder, Name::ProbeSeconds, &[cluster, node]),
        }
    }

    /// Handles for a cluster; asking again for the same cluster gives the same counters.
    pub fn cluster(&self, cluster: &str) -> ClusterEvents {
        let recorder = &self.recorder;
        ClusterEvents {
            failovers: counter(recorder, Name::Failovers, &[cluster]),
            failover_seconds: histogram(recorder, Name::FailoverSeconds, &[cluster]),
            failover_last: gauge(recorder, Name::FailoverLast, &[cluster]),
            catalog_ok: counter(recorder, Name::CatalogLoads, &[cluster, "ok"]),
            catalog_failed: counter(recorder, Name::CatalogLoads, &[cluster, "failed"]),
            catalog_loaded: gauge(recorder, Name::CatalogLoaded, &[cluster]),
        }
    }

    /// The configuration was loaded again and is in force since `at`.
    pub fn reload_ok(&self, at: SystemTime) {
        self.reloads_ok.increment(1);
        self.config_loaded.set(seconds_since_1970(at));
    }

    /// A configuration file was refused; the one before stays in force.
    pub fn reload_refused(&self) {
        self.reloads_refused.increment(1);
    }

    /// Empties the recorder's buffers of samples. Must run every [`UPKEEP_INTERVAL`], or memory
    /// grows with each probe while nobody scrapes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The page of these metrics.
    pub fn render(&self) -> String {
        self.uptime.set(self.started.elapsed().as_secs_f64());
        self.handle.render()
    }
}

impl std::fmt::Debug for ControlMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlMetrics").field("started", &self.started).finish_non_exhaustive()
    }
}

impl NodeEvents {
    pub fn probe_ok(&self, took: Duration) {
        self.ok.increment(1);
        self.seconds.record(took);
    }

    /// Errors and timeouts alike.
    pub fn probe_failed(&self, took: Duration) {
        self.failed.increment(1);
        self.seconds.record(took);
    }
}

impl ClusterEvents {
    /// The cluster has another primary since `at`; `without` is how long there was none, as far as
    /// that is known.
    pub fn failover(&self, at: SystemTime, without: Option<Duration>) {
        self.failovers.increment(1);
        self.failover_last.set(seconds_since_1970(at));
        if let Some(without) = without {
            self.failover_seconds.record(without);
        }
    }

    pub fn catalog_loaded(&self, at: SystemTime) {
        self.catalog_ok.increment(1);
        self.catalog_loaded.set(seconds_since_1970(at));
    }

    pub fn catalog_failed(&self) {
        self.catalog_failed.increment(1);
    }
}

/// Zero for a clock that is set before 1970.
fn seconds_since_1970(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn describe(recorder: &PrometheusRecorder) {
    for metric in TABLE {
        let (name, help) = (metric.name.into(), SharedString::const_str(metric.help));
        match metric.kind {
            Kind::Counter => recorder.describe_counter(name, None, help),
            Kind::Gauge => recorder.describe_gauge(name, None, help),
            Kind::Histogram => recorder.describe_histogram(name, None, help),
        }
    }
}

fn counter(recorder: &PrometheusRecorder, name: Name, labels: &[&str]) -> Counter {
    recorder.register_counter(&key(name, labels), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, name: Name, labels: &[&str]) -> Gauge {
    recorder.register_gauge(&key(name, labels), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, name: Name, labels: &[&str]) -> Histogram {
    recorder.register_histogram(&key(name, labels), &METADATA)
}

/// `values` are in the order of the table's label names.
fn key(name: Name, values: &[&str]) -> Key {
    let metric = name.metric();
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels: Vec<Label> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(label, value)| Label::new(*label, Arc::<str>::from(*value)))
        .collect();
    Key::from_parts(metric.name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, line: &str) {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }

    #[test]
    fn events_are_on_the_page_under_their_names() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let control = ControlMetrics::new(at(100));
        let node = control.node("main", "pg-a");
        node.probe_ok(Duration::from_micros(700));
        // The same counters, asked for again.
        control.node("main", "pg-a").probe_failed(Duration::from_secs(1));
        let cluster = control.cluster("main");
        cluster.failover(at(200), Some(Duration::from_millis(300)));
        cluster.catalog_loaded(at(300));
        cluster.catalog_failed();
        control.reload_ok(at(400));
        control.reload_refused();

        let text = control.render();
        has(&text, r#"tiffin_probes_total{cluster="main",node="pg-a",outcome="ok"} 1"#);
        has(&text, r#"tiffin_probes_total{cluster="main",node="pg-a",outcome="failed"} 1"#);
        has(&text, r#"tiffin_probe_seconds_bucket{cluster="main",node="pg-a",le="0.001"} 1"#);
        has(&text, r#"tiffin_probe_seconds_count{cluster="main",node="pg-a"} 2"#);
        has(&text, r#"tiffin_failovers_total{cluster="main"} 1"#);
        has(&text, r#"tiffin_failover_seconds_sum{cluster="main"} 0.3"#);
        has(&text, r#"tiffin_failover_last_timestamp_seconds{cluster="main"} 200"#);
        has(&text, r#"tiffin_catalog_loads_total{cluster="main",outcome="failed"} 1"#);
        has(&text, r#"tiffin_catalog_loaded_timestamp_seconds{cluster="main"} 300"#);
        has(&text, r#"tiffin_config_reloads_total{outcome="ok"} 1"#);
        has(&text, r#"tiffin_config_reloads_total{outcome="refused"} 1"#);
        has(&text, "tiffin_config_loaded_timestamp_seconds 400");
        has(&text, concat!(r#"tiffin_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#));
        has(&text, "# TYPE tiffin_probe_seconds histogram");
        has(&text, "# HELP tiffin_probes_total Probes of a node, ok or failed.");
    }

    #[test]
    fn upkeep_keeps_the_counts() {
        let control = ControlMetrics::new(SystemTime::UNIX_EPOCH);
        let node = control.node("main", "pg-a");
        for _ in 0..10_000 {
            node.probe_ok(Duration::from_millis(1));
        }
        control.upkeep();
        node.probe_ok(Duration::from_millis(1));
        has(&control.render(), r#"tiffin_probe_seconds_count{cluster="main",node="pg-a"} 10001"#);
    }
}
