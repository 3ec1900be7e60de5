//! Alerts, dashboard and documentation speak of metrics that exist, with labels and words that
//! exist. A rule on a misspelled metric never fires, and nobody notices.

use crate::metrics::{Kind, Metric, TABLE};
use serde_json::Value;

/// Labels that Prometheus adds to each sample of a scrape.
const SCRAPE_LABELS: [&str; 3] = ["instance", "job", "le"];

/// Each use of a metric: its name and what stands between the braces after it.
fn uses(expression: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = ["tiffin_", "process_"].iter().filter_map(|head| rest.find(head)).min() {
        let is_inside = rest[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        rest = &rest[at..];
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let inner = after.strip_prefix('{').and_then(|after| after.split_once('}'));
        if !is_inside {
            found.push((name, inner.map_or("", |(inner, _)| inner)));
        }
        rest = after;
    }
    found
}

fn metric(name: &str) -> Option<&'static Metric> {
    TABLE.iter().find(|metric| match metric.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(metric.name)),
        Kind::Counter | Kind::Gauge => metric.name == name,
    })
}

/// What is wrong with an expression.
fn problem(expression: &str) -> Option<String> {
    let page = include_str!("../../../docs/metrics.md");
    for (name, matchers) in uses(expression) {
        let Some(metric) = metric(name) else { return Some(format!("no metric {name}")) };
        for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
            let (label, value) = matcher.split_once('=').unwrap_or((matcher, ""));
            if !metric.labels.contains(&label) && !SCRAPE_LABELS.contains(&label) {
                return Some(format!("{name} has no label {label}"));
            }
            let words = value.trim_start_matches('~').trim_matches('"').split('|');
            for word in words.filter(|word| !word.starts_with('$')) {
                let is_known = page.contains(&format!("`{word}`")) || label == "job";
                if !is_known {
                    return Some(format!("{name} has no {label} {word}"));
                }
            }
        }
    }
    None
}

#[test]
fn the_alerts_are_rules_on_metrics_that_exist() {
    let text = include_str!("../../../docs/alerts.yml");
    let alerts: Value = serde_yaml::from_str(text).expect("YAML");
    let rules = alerts["groups"][0]["rules"].as_array().expect("a list of rules");
    assert!(rules.len() >= 10);
    for rule in rules {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&rule["alert"]);
        assert!(name.starts_with("Tiffin"), "{name}");
        let severity = text(&rule["labels"]["severity"]);
        assert!(["critical", "warning", "info"].contains(&severity.as_str()), "{name}");
        for annotation in ["summary", "description"] {
            assert!(!text(&rule["annotations"][annotation]).is_empty(), "{name}: no {annotation}");
        }
        let expression = text(&rule["expr"]);
        assert!(!uses(&expression).is_empty() || expression.starts_with("up{"), "{name}");
        assert_eq!(problem(&expression), None, "{name}");
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let text = include_str!("../../../grafana/dashboard.json");
    let dashboard: Value = serde_json::from_str(text).expect("JSON");
    let mut seen = 0;
    let mut open = vec![&dashboard];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(values) => open.extend(values),
            Value::Object(fields) => {
                open.extend(fields.values());
                let expression = fields.get("expr").or(fields.get("definition"));
                if let Some(Value::String(expression)) = expression {
                    assert_ne!(uses(expression), [], "{expression}");
                    assert_eq!(problem(expression), None, "{expression}");
                    seen += 1;
                }
            }
            _ => {}
        }
    }
    assert!(seen >= 20, "{seen} expressions");
}

#[test]
fn the_documentation_shows_expressions_on_metrics_that_exist() {
    let page = include_str!("../../../docs/metrics.md");
    let blocks: Vec<_> = page.split("```promql\n").skip(1).collect();
    assert!(blocks.len() >= 6);
    for block in blocks {
        let (block, _) = block.split_once("```").expect("the block ends");
        assert_ne!(uses(block), [], "{block}");
        assert_eq!(problem(block), None, "{block}");
    }
}

#[test]
fn wrong_expressions_are_found() {
    let cases = [
        ("tiffin_cluster_epoch > 0", None),
        ("x_tiffin_nothing + tiffin_cluster_epoch{cluster=\"$cluster\"}", None),
        ("rate(tiffin_query_seconds_bucket{node=~\"$node\"}[5m])", None),
        ("tiffin_nothing", Some("no metric tiffin_nothing")),
        ("tiffin_query_seconds", Some("no metric tiffin_query_seconds")),
        ("tiffin_clients{node=\"$n\"}", Some("tiffin_clients has no label node")),
        (
            "tiffin_config_reloads_total{outcome=\"reffused\"}",
            Some("tiffin_config_reloads_total has no outcome reffused"),
        ),
    ];
    for (expression, expected) in cases {
        assert_eq!(problem(expression).as_deref(), expected, "{expression}");
    }
}
