//! A strict reader of the Prometheus text format 0.0.4, for the tests:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details>.
//! It also demands what the format only recommends, and that every metric is the table's.

use crate::metrics::{Kind, Metric, TABLE};
use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// The metrics of a page by name.
pub(super) type Families = BTreeMap<String, Family>;

#[derive(Debug, Default)]
pub(super) struct Family {
    help: Option<String>,
    kind: Option<String>,
    /// Suffix (`_bucket`, `_sum`, `_count` or nothing), labels and value, in the page's order.
    pub(super) samples: Vec<(String, Labels, f64)>,
}

/// Reads a page. The error says which line is wrong, and how.
pub(super) fn read(page: &str) -> Result<Families, String> {
    let mut families = Families::new();
    let mut current = String::new();
    if !page.ends_with('\n') {
        return Err("the last line does not end".to_owned());
    }
    for line in page.lines().filter(|line| !line.is_empty()) {
        let fail = |what: &str| format!("{what}: {line}");
        let name = family_name(line).ok_or_else(|| fail("no known metric"))?;
        if name != current {
            if families.contains_key(name) {
                return Err(fail("the lines of a metric are not together"));
            }
            current = name.to_owned();
        }
        let family = families.entry(name.to_owned()).or_default();
        add_line(family, name, line).map_err(|what| fail(&what))?;
    }
    for (name, family) in &families {
        check_family(name, family).map_err(|what| format!("{name}: {what}"))?;
    }
    Ok(families)
}

/// The metric that a line belongs to.
fn family_name(line: &str) -> Option<&'static str> {
    let body = line.strip_prefix("# HELP ").or(line.strip_prefix("# TYPE ")).unwrap_or(line);
    let name = body.split([' ', '{']).next().unwrap_or_default();
    let is_named = |metric: &&Metric| match metric.kind {
        _ if metric.name == name => true,
        Kind::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(metric.name)),
        Kind::Counter | Kind::Gauge => false,
    };
    TABLE.iter().find(is_named).map(|metric| metric.name)
}

fn add_line(family: &mut Family, name: &str, line: &str) -> Result<(), String> {
    if let Some(comment) = line.strip_prefix("# ") {
        let (keyword, rest) = comment.split_once(' ').ok_or("an empty comment")?;
        let text = rest.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
        let text = text.ok_or("a comment on another metric")?.to_owned();
        if !family.samples.is_empty() {
            return Err("HELP or TYPE after a sample".to_owned());
        }
        let slot = match keyword {
            "HELP" => &mut family.help,
            "TYPE" => &mut family.kind,
            _ => return Err("neither HELP nor TYPE".to_owned()),
        };
        return match slot.replace(text) {
            None => Ok(()),
            Some(_) => Err("HELP or TYPE twice".to_owned()),
        };
    }
    let rest = line.strip_prefix(name).ok_or("another metric's sample")?;
    let end = rest.find([' ', '{']).ok_or("no value")?;
    let (suffix, rest) = rest.split_at(end);
    let (labels, rest) = read_labels(rest)?;
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let value = read_value(value).ok_or("not a number")?;
    family.samples.push((suffix.to_owned(), labels, value));
    Ok(())
}

/// The labels and what follows them.
fn read_labels(text: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Ok((labels, text)) };
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("no label")?;
        let word = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        if name.is_empty() || !name.bytes().all(word) {
            return Err(format!("bad label name {name:?}"));
        }
        let (value, after) = read_quoted(after)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("label {name} twice"));
        }
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok((labels, after.strip_prefix('}').ok_or("no closing brace")?)),
        }
    }
}

fn read_quoted(text: &str) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match characters.next() {
                Some((_, '\\')) => '\\',
                Some((_, '"')) => '"',
                Some((_, 'n')) => '\n',
                _ => return Err("a bad escape".to_owned()),
            }),
            other => value.push(other),
        }
    }
    Err("no closing quote".to_owned())
}

fn read_value(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        // Rust reads `inf` and `nan` in any case, the format does not.
        number if number.contains(|c: char| c.is_alphabetic() && c != 'e') => None,
        number => number.parse().ok(),
    }
}

fn check_family(name: &str, family: &Family) -> Result<(), String> {
    let metric = TABLE.iter().find(|metric| metric.name == name).ok_or("not in the table")?;
    if family.kind.as_deref() != Some(metric.kind.as_str()) {
        return Err(format!("the type is {:?}", family.kind));
    }
    if family.help.as_deref() != Some(metric.help) {
        return Err(format!("the help is {:?}", family.help));
    }
    if family.samples.is_empty() {
        return Err("no sample".to_owned());
    }
    let mut seen = BTreeSet::new();
    let expected: BTreeSet<&str> = metric.labels.iter().copied().collect();
    for (suffix, labels, value) in &family.samples {
        if !seen.insert((suffix, labels)) {
            return Err(format!("{suffix}{labels:?} twice"));
        }
        let found: BTreeSet<&str> = labels.keys().map(String::as_str).collect();
        let with_bound: BTreeSet<&str> = expected.iter().copied().chain(["le"]).collect();
        let wanted = if suffix == "_bucket" { &with_bound } else { &expected };
        if found != *wanted {
            return Err(format!("the labels are {found:?}"));
        }
        let is_count = metric.kind == Kind::Counter || !suffix.is_empty();
        if is_count && !(*value >= 0.0 && value.is_finite()) {
            return Err(format!("{value} is not a count"));
        }
    }
    match metric.kind {
        Kind::Histogram => check_histograms(family),
        Kind::Counter | Kind::Gauge => Ok(()),
    }
}

/// Each histogram has growing bounds up to infinity, cumulative counts, a sum and a count.
fn check_histograms(family: &Family) -> Result<(), String> {
    let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let mut counts: BTreeMap<Labels, f64> = BTreeMap::new();
    let mut sums: BTreeSet<Labels> = BTreeSet::new();
    for (suffix, labels, value) in &family.samples {
        let mut labels = labels.clone();
        let bound = labels.remove("le");
        match suffix.as_str() {
            "_bucket" => {
                let bound = bound.as_deref().and_then(read_value).ok_or("a bad bound")?;
                buckets.entry(labels).or_default().push((bound, *value));
            }
            "_sum" => drop(sums.insert(labels)),
            "_count" => drop(counts.insert(labels, *value)),
            _ => return Err("a bare sample of a histogram".to_owned()),
        }
    }
    let has_all = buckets.keys().eq(counts.keys()) && buckets.keys().eq(sums.iter());
    if !has_all {
        return Err("a histogram without buckets, sum or count".to_owned());
    }
    for (labels, series) in &buckets {
        if !series.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1) {
            return Err(format!("the buckets of {labels:?} do not grow"));
        }
        let last = series.last().copied();
        if last != Some((f64::INFINITY, counts[labels])) {
            return Err(format!("the last bucket of {labels:?} is not the count"));
        }
    }
    Ok(())
}

/// The checker finds what it is there for.
#[test]
fn broken_pages_are_refused() {
    let head = "# HELP tiffin_cluster_epoch Grows each time the primary changes.\n\
                # TYPE tiffin_cluster_epoch gauge\n";
    let good = format!("{head}tiffin_cluster_epoch{{cluster=\"a\\\"b\"}} 1\n");
    let families = read(&good).expect("a good page");
    assert_eq!(families["tiffin_cluster_epoch"].samples[0].1["cluster"], "a\"b");

    let bad = [
        "tiffin_cluster_epoch{cluster=\"a\"} 1",
        "tiffin_cluster_epoch{cluster=\"a\"} 1 \n",
        "tiffin_cluster_epoch{cluster=\"a\"} inf\n",
        "tiffin_cluster_epoch{cluster=\"a\"}\n",
        "tiffin_cluster_epoch{cluster=\"a} 1\n",
        "tiffin_cluster_epoch{cluster=\"a\\x\"} 1\n",
        "tiffin_cluster_epoch{cluster=\"a\",} 1\n",
        "tiffin_cluster_epoch{cluster=\"a\",cluster=\"a\"} 1\n",
        "tiffin_cluster_epoch{node=\"a\"} 1\n",
        "tiffin_cluster_epoch 1\n",
        "tiffin_cluster_epoch_sum{cluster=\"a\"} 1\n",
        "tiffin_cluster_epoch{cluster=\"a\"} 1\ntiffin_cluster_epoch{cluster=\"a\"} 1\n",
        "tiffin_cluster_epoch{cluster=\"a\"} 1\n# TYPE tiffin_cluster_epoch gauge\n",
        "tiffin_unheard_of 1\n",
        "",
    ];
    for samples in bad {
        assert!(read(&format!("{head}{samples}")).is_err(), "{samples}");
    }
    assert!(read("tiffin_cluster_epoch{cluster=\"a\"} 1\n").is_err(), "no head");

    let head = "# HELP tiffin_gate_wait_seconds Time that requests waited for a primary.\n\
                # TYPE tiffin_gate_wait_seconds histogram\n";
    let rows = |rows: &[&str]| {
        let lines: String =
            rows.iter().map(|row| format!("tiffin_gate_wait_seconds_{row}\n")).collect();
        read(&format!("{head}{lines}"))
    };
    let (low, high) = ("bucket{cluster=\"a\",le=\"1\"} 2", "bucket{cluster=\"a\",le=\"+Inf\"} 3");
    let (sum, count) = ("sum{cluster=\"a\"} 4.5", "count{cluster=\"a\"} 3");
    assert!(rows(&[low, high, sum, count]).is_ok());
    assert!(rows(&[high, low, sum, count]).is_err(), "bounds out of order");
    assert!(rows(&[low, sum, count]).is_err(), "no infinity");
    assert!(rows(&[low, high, count]).is_err(), "no sum");
    assert!(rows(&[low, high, sum, "count{cluster=\"a\"} 4"]).is_err(), "another count");
}
