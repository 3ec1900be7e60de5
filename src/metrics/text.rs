//! Writes the Prometheus text exposition format, version 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use super::histogram::{BOUNDS_NS, Histogram};
use super::table::{Metric, Name};
use std::time::Duration;

/// The `Content-Type` of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

const NANOSECONDS_PER_SECOND: f64 = 1e9;

/// A page that grows family by family.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
}

/// The samples of one metric. The head is written with the first sample: a metric without one is
/// not on the page.
#[derive(Debug)]
pub struct Family<'page> {
    text: &'page mut String,
    metric: &'static Metric,
    has_head: bool,
}

/// The value of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Whole(number)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Value {
        Value::Real(number)
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Value {
        Value::Whole(u64::from(flag))
    }
}

impl From<Duration> for Value {
    fn from(duration: Duration) -> Value {
        Value::Real(duration.as_secs_f64())
    }
}

impl Page {
    /// Starts a metric. A metric must be started once on a page, with all of its samples.
    pub fn family(&mut self, name: Name) -> Family<'_> {
        Family { text: &mut self.text, metric: name.metric(), has_head: false }
    }

    /// A metric with one sample and no labels.
    pub fn single(&mut self, name: Name, value: impl Into<Value>) {
        self.family(name).sample(&[], value);
    }

    /// Adds a page that somebody else has written; it must not have a metric of this one.
    pub fn append(&mut self, other: &str) {
        self.text.push_str(other);
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// One sample. `labels` are the values in the order of the table's label names.
    pub fn sample(&mut self, labels: &[&str], value: impl Into<Value>) {
        self.line("", labels, None, value.into());
    }

    /// The samples of a histogram of durations.
    pub fn histogram(&mut self, labels: &[&str], histogram: &Histogram) {
        let cumulative = histogram.cumulative();
        let bounds = BOUNDS_NS.iter().map(|bound| *bound as f64 / NANOSECONDS_PER_SECOND);
        for (bound, count) in bounds.chain([f64::INFINITY]).zip(cumulative) {
            self.line("_bucket", labels, Some(bound), Value::Whole(count));
        }
        self.line("_sum", labels, None, histogram.sum().into());
        self.line("_count", labels, None, Value::Whole(cumulative[BOUNDS_NS.len()]));
    }

    fn line(&mut self, suffix: &str, labels: &[&str], bound: Option<f64>, value: Value) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "{}", self.metric.name);
        self.head();
        let text = &mut *self.text;
        text.push_str(self.metric.name);
        text.push_str(suffix);
        let mut separator = '{';
        for (name, value) in self.metric.labels.iter().zip(labels) {
            text.push(separator);
            separator = ',';
            text.push_str(name);
            text.push_str("=\"");
            push_escaped(text, value);
            text.push('"');
        }
        if let Some(bound) = bound {
            text.push(separator);
            separator = ',';
            text.push_str("le=\"");
            push_real(text, bound);
            text.push('"');
        }
        if separator == ',' {
            text.push('}');
        }
        text.push(' ');
        match value {
            Value::Whole(number) => text.push_str(&number.to_string()),
            Value::Real(number) => push_real(text, number),
        }
        text.push('\n');
    }

    fn head(&mut self) {
        if self.has_head {
            return;
        }
        self.has_head = true;
        let Metric { name, kind, help, .. } = self.metric;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let head = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.as_str());
        self.text.push_str(&head);
    }
}

/// A label's value: backslash, quote and line feed are escaped, everything else is as it is.
fn push_escaped(text: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

fn push_real(text: &mut String, number: f64) {
    if number.is_nan() {
        text.push_str("NaN");
    } else if number.is_infinite() {
        text.push_str(if number > 0.0 { "+Inf" } else { "-Inf" });
    } else {
        text.push_str(&number.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tally::Sum;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.family(Name::ClusterEpoch).sample(&["a\\b\"c\nd é"], 3u64);
        let text = page.into_text();
        assert_eq!(text.lines().last(), Some(r#"tiffin_cluster_epoch{cluster="a\\b\"c\nd é"} 3"#));
    }

    #[test]
    fn special_numbers_are_spelled_as_the_format_wants() {
        let cases: &[(Value, &str)] = &[
            (Value::Real(f64::INFINITY), "+Inf"),
            (Value::Real(f64::NEG_INFINITY), "-Inf"),
            (Value::Real(f64::NAN), "NaN"),
            (Value::Real(0.25), "0.25"),
            (Value::Whole(u64::MAX), "18446744073709551615"),
            (true.into(), "1"),
            (Duration::from_micros(1500).into(), "0.0015"),
        ];
        for (value, expected) in cases {
            let mut page = Page::default();
            page.single(Name::UptimeSeconds, *value);
            let text = page.into_text();
            assert_eq!(
                text.lines().last(),
                Some(format!("tiffin_uptime_seconds {expected}").as_str())
            );
        }
    }

    #[test]
    fn a_metric_without_a_sample_leaves_no_trace() {
        let mut page = Page::default();
        page.family(Name::Routed);
        assert_eq!(page.into_text(), "");
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_infinity() {
        let histogram = Histogram::zero();
        for milliseconds in [1, 1, 3, 20_000] {
            histogram.record(Duration::from_millis(milliseconds));
        }
        let mut page = Page::default();
        page.family(Name::GateWaitSeconds).histogram(&["main"], &histogram);
        let text = page.into_text();
        for line in [
            r#"tiffin_gate_wait_seconds_bucket{cluster="main",le="0.0005"} 0"#,
            r#"tiffin_gate_wait_seconds_bucket{cluster="main",le="0.001"} 2"#,
            r#"tiffin_gate_wait_seconds_bucket{cluster="main",le="0.005"} 3"#,
            r#"tiffin_gate_wait_seconds_bucket{cluster="main",le="10"} 3"#,
            r#"tiffin_gate_wait_seconds_bucket{cluster="main",le="+Inf"} 4"#,
            r#"tiffin_gate_wait_seconds_sum{cluster="main"} 20.005"#,
            r#"tiffin_gate_wait_seconds_count{cluster="main"} 4"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
