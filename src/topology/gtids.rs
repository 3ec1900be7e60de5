//! Global transaction identifiers, in both of the forms that servers write them in.
//!
//! - Sets, `3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7:a_tag:1-3`: which transactions of each
//!   source are there. With a tag a source counts apart.
//! - Heads, `0-1-17,3-2-5`: domain, server, sequence; the newest of each. Whatever a domain has
//!   under a lower sequence is there too.
//!
//! Pure: parse, compare, unite. The two forms are never comparable.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use thiserror::Error;

/// Ranges of a text that is read. A server that has more of them has gaps without end; its text
/// would be a megabyte.
const RANGES_MAX: usize = 50_000;
/// Characters of a text that an error repeats.
const QUOTED_CHARS_MAX: usize = 60;
/// Characters of a tag.
const TAG_CHARS_MAX: usize = 32;
/// A UUID's characters.
const UUID_CHARS: usize = 36;

/// Transactions that a server has, or that a session has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gtids {
    /// By source, `uuid` or `uuid:tag`: ranges in order that neither overlap nor touch. No source
    /// is there without a range.
    Sets(BTreeMap<Box<str>, Vec<Range>>),
    /// By domain and server: the newest sequence.
    Heads(BTreeMap<(u32, u32), u64>),
}

/// Numbers of transactions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    pub first: u64,
    pub last: u64,
}

/// A server's fault, or a newer server's form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not GTIDs: {0:?}")]
pub struct GtidError(Box<str>);

impl Gtids {
    /// Reads a set: `uuid:1-5:7:tag:1-3,uuid:…`, with any white space between.
    ///
    /// # Errors
    /// On anything else, and on more than 50,000 ranges.
    pub fn parse_set(text: &str) -> Result<Gtids, GtidError> {
        let mut sets: BTreeMap<Box<str>, Vec<Range>> = BTreeMap::new();
        let mut ranges = 0;
        for part in parts(text) {
            let mut pieces = part.split(':').map(str::trim);
            let uuid = pieces.next().filter(|uuid| is_uuid(uuid)).ok_or_else(|| error(part))?;
            let uuid = uuid.to_ascii_lowercase();
            let mut source: Box<str> = Box::from(uuid.as_str());
            for piece in pieces {
                if is_tag(piece) {
                    source = format!("{uuid}:{}", piece.to_ascii_lowercase()).into();
                    continue;
                }
                let range = range(piece).ok_or_else(|| error(part))?;
                ranges += 1;
                if ranges > RANGES_MAX {
                    return Err(error(text));
                }
                sets.entry(source.clone()).or_default().push(range);
            }
        }
        sets.values_mut().for_each(normalise);
        Ok(Gtids::Sets(sets))
    }

    /// Reads heads: `domain-server-sequence,…`.
    ///
    /// # Errors
    /// On anything else, and on more than 50,000 of them.
    pub fn parse_heads(text: &str) -> Result<Gtids, GtidError> {
        let mut heads = BTreeMap::new();
        for part in parts(text) {
            let mut numbers = part.split('-').map(|piece| number(piece.trim()));
            let (Some(Some(domain)), Some(Some(server)), Some(Some(sequence)), None) =
                (numbers.next(), numbers.next(), numbers.next(), numbers.next())
            else {
                return Err(error(part));
            };
            let (Ok(domain), Ok(server)) = (u32::try_from(domain), u32::try_from(server)) else {
                return Err(error(part));
            };
            if heads.len() >= RANGES_MAX {
                return Err(error(text));
            }
            let head = heads.entry((domain, server)).or_insert(sequence);
            *head = sequence.max(*head);
        }
        Ok(Gtids::Heads(heads))
    }

    /// None, in the same form.
    pub fn none(&self) -> Gtids {
        match self {
            Gtids::Sets(_) => Gtids::Sets(BTreeMap::new()),
            Gtids::Heads(_) => Gtids::Heads(BTreeMap::new()),
        }
    }

    /// How many sources, or domains and servers.
    pub fn sources(&self) -> usize {
        match self {
            Gtids::Sets(sets) => sets.len(),
            Gtids::Heads(heads) => heads.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        match self {
            Gtids::Sets(sets) => sets.is_empty(),
            Gtids::Heads(heads) => heads.is_empty(),
        }
    }

    /// Whether a server that has applied these in order shows all of the others.
    pub fn covers(&self, others: &Gtids) -> bool {
        match (self, others) {
            (Gtids::Sets(_), Gtids::Sets(_)) => self.includes(others),
            (Gtids::Heads(own), Gtids::Heads(others)) => {
                others.iter().all(|(&(domain, _), sequence)| newest(own, domain) >= Some(*sequence))
            }
            _ => false,
        }
    }

    /// Whether all of the others are among these. Of heads this also compares who wrote them: two
    /// servers that went on apart from each other do not include one another.
    pub fn includes(&self, others: &Gtids) -> bool {
        match (self, others) {
            (Gtids::Sets(own), Gtids::Sets(others)) => others.iter().all(|(source, ranges)| {
                own.get(source).is_some_and(|own| ranges.iter().all(|range| contains(own, *range)))
            }),
            (Gtids::Heads(own), Gtids::Heads(others)) => {
                others.iter().all(|(source, sequence)| own.get(source) >= Some(sequence))
            }
            _ => false,
        }
    }

    /// Whether the newest of some source of the others is certainly not here. A server that wrote
    /// in a domain and is not among heads may have been left out.
    pub fn lacks_newest_of(&self, others: &Gtids) -> bool {
        match (self, others) {
            (Gtids::Sets(own), Gtids::Sets(others)) => others.iter().any(|(source, ranges)| {
                let newest = ranges.last().map(|range| Range { first: range.last, ..*range });
                let has = |newest| own.get(source).is_some_and(|own| contains(own, newest));
                !newest.is_none_or(has)
            }),
            (Gtids::Heads(own), Gtids::Heads(others)) => others
                .iter()
                .any(|(source, sequence)| own.get(source).is_some_and(|own| own < sequence)),
            _ => false,
        }
    }

    /// In how many sources, or domains, there is more here than among the others.
    pub fn sources_beyond(&self, others: &Gtids) -> usize {
        match (self, others) {
            (Gtids::Sets(own), Gtids::Sets(others)) => {
                own.iter().filter(|(source, ranges)| others.get(*source) != Some(ranges)).count()
            }
            (Gtids::Heads(own), Gtids::Heads(others)) => {
                let new =
                    own.iter().filter(|(source, sequence)| others.get(source) < Some(sequence));
                new.map(|((domain, _), _)| domain).collect::<BTreeSet<_>>().len()
            }
            _ => 0,
        }
    }

    /// How many transactions are here and not among the others; of heads at least the distance
    /// in each domain.
    pub fn count_beyond(&self, others: &Gtids) -> u64 {
        let counts: Vec<u64> = match (self, others) {
            (Gtids::Sets(own), Gtids::Sets(others)) => own
                .iter()
                .map(|(source, ranges)| {
                    let others = others.get(source).map_or(&[][..], Vec::as_slice);
                    ranges.iter().map(|range| missing(*range, others)).fold(0, u64::saturating_add)
                })
                .collect(),
            (Gtids::Heads(own), Gtids::Heads(others)) => own
                .keys()
                .map(|(domain, _)| *domain)
                .collect::<BTreeSet<u32>>()
                .into_iter()
                .map(|domain| {
                    let theirs = newest(others, domain).unwrap_or(0);
                    newest(own, domain).unwrap_or(0).saturating_sub(theirs)
                })
                .collect(),
            _ => Vec::new(),
        };
        counts.into_iter().fold(0, u64::saturating_add)
    }

    /// Goes on to the newest of the others, with everything that their sources wrote before; those
    /// of the other form are left out.
    pub fn advance(&mut self, others: &Gtids) {
        match (self, others) {
            (Gtids::Sets(own), Gtids::Sets(others)) => {
                for (source, ranges) in others {
                    let Some(newest) = ranges.last() else { continue };
                    let until = |ranges: &Vec<Range>| ranges.last().map_or(0, |range| range.last);
                    let last = own.get(source).map_or(0, until).max(newest.last);
                    own.insert(source.clone(), vec![Range { first: 1, last }]);
                }
            }
            (own, others) => own.unite(others),
        }
    }

    /// Those that are not among the others; of heads the ones that are newer there, or missing.
    pub fn beyond(&self, others: &Gtids) -> Gtids {
        match (self, others) {
            (Gtids::Sets(own), Gtids::Sets(others)) => {
                let left = own.iter().map(|(source, ranges)| {
                    let others = others.get(source).map_or(&[][..], Vec::as_slice);
                    (source.clone(), ranges.iter().flat_map(|range| gaps(*range, others)).collect())
                });
                Gtids::Sets(
                    left.filter(|(_, ranges): &(_, Vec<Range>)| !ranges.is_empty()).collect(),
                )
            }
            (Gtids::Heads(own), Gtids::Heads(others)) => {
                let left = own.iter().filter(|(source, newest)| others.get(source) < Some(newest));
                Gtids::Heads(left.map(|(source, newest)| (*source, *newest)).collect())
            }
            _ => self.clone(),
        }
    }

    /// Adds the others; those of the other form are left out.
    pub fn unite(&mut self, others: &Gtids) {
        match (self, others) {
            (Gtids::Sets(own), Gtids::Sets(others)) => {
                for (source, ranges) in others {
                    let own = own.entry(source.clone()).or_default();
                    own.extend(ranges);
                    normalise(own);
                }
            }
            (Gtids::Heads(own), Gtids::Heads(others)) => {
                for (source, sequence) in others {
                    let own = own.entry(*source).or_insert(*sequence);
                    *own = (*sequence).max(*own);
                }
            }
            _ => {}
        }
    }
}

/// As servers write them: sets by source in order, a source's tags behind it; heads by domain.
impl fmt::Display for Gtids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gtids::Sets(sets) => {
                for (index, (source, ranges)) in sets.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{source}")?;
                    for Range { first, last } in ranges {
                        match first == last {
                            true => write!(f, ":{first}")?,
                            false => write!(f, ":{first}-{last}")?,
                        }
                    }
                }
            }
            Gtids::Heads(heads) => {
                for (index, ((domain, server), sequence)) in heads.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{domain}-{server}-{sequence}")?;
                }
            }
        }
        Ok(())
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn error(text: &str) -> GtidError {
    GtidError(text.chars().take(QUOTED_CHARS_MAX).collect::<String>().into())
}

fn is_uuid(text: &str) -> bool {
    text.len() == UUID_CHARS
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= TAG_CHARS_MAX
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Digits alone: `u64::from_str` also takes a sign.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn range(text: &str) -> Option<Range> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first.trim())?, number(last.trim())?);
    (1 <= first && first <= last).then_some(Range { first, last })
}

/// Sorts ranges and joins those that overlap or touch.
fn normalise(ranges: &mut Vec<Range>) {
    ranges.sort_unstable();
    let mut kept = 0;
    for index in 0..ranges.len() {
        let range = ranges[index];
        if kept > 0 && range.first <= ranges[kept - 1].last.saturating_add(1) {
            ranges[kept - 1].last = ranges[kept - 1].last.max(range.last);
        } else {
            ranges[kept] = range;
            kept += 1;
        }
    }
    ranges.truncate(kept);
}

fn contains(ranges: &[Range], wanted: Range) -> bool {
    let after = ranges.partition_point(|range| range.first <= wanted.first);
    after.checked_sub(1).is_some_and(|index| ranges[index].last >= wanted.last)
}

/// How many numbers of the range are in none of the others.
fn missing(range: Range, others: &[Range]) -> u64 {
    let from = others.partition_point(|other| other.last < range.first);
    let near = others[from..].iter().take_while(|other| other.first <= range.last);
    let there = near.map(|other| other.last.min(range.last) - other.first.max(range.first) + 1);
    (range.last - range.first + 1).saturating_sub(there.fold(0, u64::saturating_add))
}

/// What of the range is in none of the others, which are in order.
fn gaps(range: Range, others: &[Range]) -> Vec<Range> {
    let (mut gaps, mut first) = (Vec::new(), range.first);
    for other in
        others.iter().filter(|other| other.last >= range.first && other.first <= range.last)
    {
        if other.first > first {
            gaps.push(Range { first, last: other.first - 1 });
        }
        first = other.last.saturating_add(1);
    }
    if first <= range.last {
        gaps.push(Range { first, last: range.last });
    }
    gaps
}

fn newest(heads: &BTreeMap<(u32, u32), u64>, domain: u32) -> Option<u64> {
    heads.range((domain, 0)..=(domain, u32::MAX)).map(|(_, sequence)| *sequence).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "8a94f357-aab4-11df-86ab-c80aa9429562";

    fn set(text: &str) -> Gtids {
        Gtids::parse_set(&text.replace("A", A).replace("B", B)).unwrap()
    }

    fn heads(text: &str) -> Gtids {
        Gtids::parse_heads(text).unwrap()
    }

    #[test]
    fn sets_are_read_and_written_as_servers_write_them() {
        let table = [
            ("", ""),
            ("A:1", "A:1"),
            ("A:1-5:7-9", "A:1-5:7-9"),
            ("A:7:1-3:4-5, \n B:2", "A:1-5:7,B:2"),
            ("A:1-5:4-9:11", "A:1-9:11"),
            ("A:1:b_tag:2-3:c:4", "A:1,A:b_tag:2-3,A:c:4"),
            ("A:Tag:1,A:1", "A:1,A:tag:1"),
            ("A:1-9223372036854775806", "A:1-9223372036854775806"),
        ];
        for (text, expected) in table {
            let expected = expected.replace("A", A).replace("B", B);
            assert_eq!(set(text).to_string(), expected, "{text}");
            assert_eq!(set(&set(text).to_string()), set(text), "{text} again");
        }
        let upper = Gtids::parse_set(&format!("{}:1", A.to_uppercase())).unwrap();
        assert_eq!(upper, set("A:1"));
    }

    #[test]
    fn what_is_no_set_is_refused() {
        let long = format!("A{}", ":1:3".repeat(RANGES_MAX));
        let table = [
            "A",
            "x:1",
            "A:0",
            "A:5-4",
            "A:+1",
            "A:1-",
            "A:-",
            "A::1",
            "0-1-5",
            "A:1-2-3",
            "A:99999999999999999999",
            "A:1;B:1",
            long.as_str(),
            "A:tag-x:1",
            "Aé:1",
        ];
        for text in table.into_iter().filter(|text| *text != "A") {
            let text = text.replace("A", A).replace("B", B);
            assert!(Gtids::parse_set(&text).is_err(), "{text:.80}");
        }
    }

    #[test]
    fn heads_are_read_and_written() {
        let table = [("", ""), ("0-1-17", "0-1-17"), (" 3-2-5 ,0-1-17", "0-1-17,3-2-5")];
        for (text, expected) in table {
            assert_eq!(heads(text).to_string(), expected);
        }
        for text in ["0-1", "0-1-2-3", "x", "0-1-", "4294967296-1-1", "0--1-1", "0-1-+1"] {
            assert!(Gtids::parse_heads(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sets_include_and_count() {
        let table = [
            ("A:1-9", "", true, 9),
            ("", "A:1", false, 0),
            ("A:1-9", "A:3-4:6", true, 6),
            ("A:1-3:5-9", "A:3-5", false, 6),
            ("A:1-9", "B:1", false, 9),
            ("A:1-9,B:1", "B:1,A:9", true, 8),
            ("A:1-9", "A:t:1", false, 9),
        ];
        for (own, others, covers, beyond) in table {
            let (own, others) = (set(own), set(others));
            assert_eq!(own.covers(&others), covers, "{own} covers {others}");
            assert_eq!(own.includes(&others), covers, "{own} includes {others}");
            assert_eq!(own.count_beyond(&others), beyond, "{own} beyond {others}");
        }
        assert!(!set("").covers(&heads("")), "two forms");
        assert!(!heads("0-1-5").covers(&set("A:1")));
    }

    /// Server 2 went on after 0-1-100; server 1 had written three more that nobody else got.
    #[test]
    fn a_domain_is_covered_by_its_newest_and_included_by_server() {
        let (old, new) = (heads("0-1-103"), heads("0-1-100,0-2-110"));
        assert!(new.covers(&old) && !new.includes(&old) && !old.includes(&new));
        assert!(heads("0-1-100,0-2-110").includes(&heads("0-1-99")));
        assert!(!heads("0-1-5").covers(&heads("1-1-1")));
        assert_eq!(new.count_beyond(&old), 7);
        let mut both = new.clone();
        both.unite(&old);
        assert_eq!(both, heads("0-1-103,0-2-110"));
    }

    #[test]
    fn a_token_goes_on_to_the_newest() {
        let table = [
            ("", "A:7", "A:1-7"),
            ("A:1-7", "A:3,B:2", "A:1-7,B:1-2"),
            ("A:1-7", "A:9-12", "A:1-12"),
        ];
        for (before, written, after) in table {
            let mut token = set(before);
            token.advance(&set(written));
            assert_eq!(token, set(after), "{before} and {written}");
        }
        let mut token = heads("0-1-7,1-1-3");
        token.advance(&heads("0-2-9"));
        assert_eq!(token, heads("0-1-7,0-2-9,1-1-3"));
    }

    #[test]
    fn what_is_lost_is_told_apart_from_what_cannot_be_told() {
        let sets = [
            ("A:1-9", "A:1-9", false),
            // Gaps before it say nothing of it.
            ("A:1-3:9", "A:1-9", false),
            ("A:1-8,B:1-5", "A:1-9", true),
            ("B:1-5", "A:1", true),
        ];
        for (own, others, lacks) in sets {
            assert_eq!(set(own).lacks_newest_of(&set(others)), lacks, "{own} of {others}");
        }
        let table = [
            ("0-1-100,0-2-110", "0-1-100", false),
            ("0-1-100,0-2-110", "0-1-103", true),
            // It may not log what it applies.
            ("0-2-110", "0-1-103", false),
        ];
        for (own, others, lacks) in table {
            assert_eq!(heads(own).lacks_newest_of(&heads(others)), lacks, "{own} of {others}");
        }
    }

    #[test]
    fn sources_that_go_on_are_counted() {
        let sets = [
            ("A:1-5,B:1-9", "A:1-5,B:1-9", 0),
            ("A:1-5,B:1-9", "A:1-4,B:1-9", 1),
            ("A:1-5,B:1", "A:1-4", 2),
        ];
        for (own, others, count) in sets {
            assert_eq!(set(own).sources_beyond(&set(others)), count, "{own} of {others}");
        }
        assert_eq!(heads("0-1-5,0-2-7,1-2-7").sources_beyond(&heads("0-1-4")), 2);
        assert_eq!(heads("0-1-5,0-2-7").sources_beyond(&heads("0-1-4")), 1);
    }

    /// Transactions as what they are: a set of pairs.
    fn model() -> impl Strategy<Value = BTreeSet<(u8, u64)>> {
        prop::collection::btree_set((0u8..3, 1u64..20), 0..40)
    }

    fn of(model: &BTreeSet<(u8, u64)>) -> Gtids {
        let sources = [A.to_string(), B.to_string(), format!("{A}:tag")];
        let texts: Vec<String> =
            model.iter().map(|(s, n)| format!("{}:{n}", sources[usize::from(*s)])).collect();
        Gtids::parse_set(&texts.join(",")).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_sets_of_pairs(a in model(), b in model()) {
            let (own, others) = (of(&a), of(&b));
            prop_assert_eq!(own.includes(&others), a.is_superset(&b));
            prop_assert_eq!(own.count_beyond(&others), a.difference(&b).count() as u64);
            prop_assert_eq!(&own.beyond(&others), &of(&(&a - &b)));
            let mut united = own.clone();
            united.unite(&others);
            prop_assert_eq!(&united, &of(&(&a | &b)));
            prop_assert_eq!(Gtids::parse_set(&united.to_string()).unwrap(), united);
        }

        #[test]
        fn no_text_panics(text in "[-0-9a-f:, \\n]{0,60}") {
            let _ = (Gtids::parse_set(&text), Gtids::parse_heads(&text));
        }
    }
}
