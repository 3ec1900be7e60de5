//! From rows to a [`Catalog`]: views, policies and domain checks are classified here, once.
//!
//! Each relation is judged on its own first, as if all that it refers to were safe. Then the
//! verdicts spread along the references until nothing changes, so cycles need no care.

use super::body;
use super::catalog::{
    Catalog, CatalogRows, Function, Persistence, Relation, RelationKind, RelationRow, RoutineRow,
    TypeRow, Verdict, Volatility,
};
use super::found::{EFFECTS_MAX, Found};
use super::statement::{Effect, Pin, SessionEffect};
use super::{mysql, walk};
use std::collections::HashMap;
use std::sync::Arc;

/// Calls of calls are followed this deep.
pub const CALLS_DEEP_MAX: usize = 4;

pub(super) fn build(mut catalog: Catalog, rows: CatalogRows) -> Catalog {
    catalog.loaded = true;
    for row in rows.functions {
        let function = Function {
            schema: Arc::from(row.schema),
            arguments_min: row.arguments_min,
            arguments_max: row.arguments_max,
            volatile: row.volatility == Volatility::Volatile,
            takes_row: row.takes_row,
        };
        catalog.functions.entry(Arc::from(row.name)).or_default().push(function);
    }
    for row in rows.operators {
        *catalog.operators.entry(row.name).or_default() |= row.volatile;
    }
    catalog.implicit_cast = rows.casts.iter().any(|cast| cast.implicit);
    for row in &rows.types {
        catalog.types.insert(Arc::from(row.name.as_str()), Verdict::Safe);
    }
    for row in &rows.relations {
        let relation = Relation {
            schema: Arc::from(row.schema.as_str()),
            verdict: by_kind(row),
            pins: Vec::new(),
        };
        catalog.relations.entry(Arc::from(row.name.as_str())).or_default().push(relation);
    }
    catalog.defaults = rows.defaults;
    catalog.procedures = rows.procedures.iter().map(|name| Arc::from(name.as_str())).collect();
    let traces = traces(&rows.routines, catalog.engine.is_some());
    let mut all_fired: HashMap<Arc<str>, Vec<SessionEffect>> = HashMap::new();
    for (table, routine) in &rows.triggers {
        let effects = traces.get(routine.as_str()).cloned().unwrap_or_default();
        if !effects.is_empty() {
            let fired = all_fired.entry(Arc::from(table.as_str())).or_default();
            add_new(fired, &effects);
        }
    }
    (catalog.traces, catalog.fired) = (Arc::new(traces), Arc::new(all_fired));
    judge_types(&mut catalog, &rows.types);
    for cast in rows.casts {
        let reason = format!("a cast to {} is volatile", cast.target);
        catalog.types.insert(Arc::from(cast.target), refused("cast", reason));
    }
    judge_relations(&mut catalog, &rows.relations);
    catalog
}

/// What each routine may leave behind, by itself and by those that it names.
fn traces(rows: &[RoutineRow], mysql: bool) -> HashMap<Arc<str>, Vec<SessionEffect>> {
    let mut traces: HashMap<Arc<str>, Vec<SessionEffect>> = HashMap::new();
    let words_of = if mysql { mysql::words_of_body } else { body::words };
    let effects_of = if mysql { mysql::effects_of_body } else { body::effects_of_body };
    let words: Vec<_> = rows.iter().map(|row| words_of(row.body.as_bytes())).collect();
    for row in rows {
        let mut effects = effects_of(row.body.as_bytes());
        if !row.volatile {
            effects.retain(is_of_calls);
        }
        add_new(traces.entry(Arc::from(row.name.as_str())).or_default(), &effects);
    }
    // Each round carries them one call further up.
    for _ in 0..CALLS_DEEP_MAX {
        let mut changed = false;
        for (row, words) in rows.iter().zip(&words) {
            let called: Vec<SessionEffect> = words
                .iter()
                .filter(|word| **word != row.name)
                .filter_map(|word| traces.get(word.as_str()))
                .flatten()
                .cloned()
                .collect();
            changed |= add_new(traces.entry(Arc::from(row.name.as_str())).or_default(), &called);
        }
        if !changed {
            break;
        }
    }
    traces.retain(|_, effects| !effects.is_empty());
    traces
}

/// What is not volatile runs no commands, but it may call what leaves something.
fn is_of_calls(effect: &SessionEffect) -> bool {
    match effect {
        SessionEffect::Pin(pin) | SessionEffect::Doubt(pin) => {
            matches!(pin, Pin::AdvisoryLock | Pin::Setting | Pin::Unknown)
        }
        _ => true,
    }
}

/// Whether any was new. One routine's are bounded by what a statement's are.
fn add_new(effects: &mut Vec<SessionEffect>, more: &[SessionEffect]) -> bool {
    let before = effects.len();
    for effect in more {
        if effects.len() < EFFECTS_MAX && !effects.contains(effect) {
            effects.push(effect.clone());
        }
    }
    effects.len() > before
}

fn refused(code: &'static str, reason: String) -> Verdict {
    Verdict::Refused { effect: Effect::Write, code, reason: Arc::from(reason) }
}

/// What the kind and persistence of a relation alone say.
fn by_kind(row: &RelationRow) -> Verdict {
    let name = &row.name;
    match (row.kind, row.persistence) {
        (_, Persistence::Temporary) => {
            refused("temporary_table", format!("{name} is a temporary table"))
        }
        // A standby says "cannot access temporary or unlogged relations during recovery".
        (_, Persistence::Unlogged) => {
            refused("unlogged_table", format!("{name} is unlogged: standbys have no data of it"))
        }
        // What is behind it may have triggers, functions and a freshness of its own.
        (RelationKind::ForeignTable, _) => {
            refused("foreign_table", format!("{name} is a foreign table"))
        }
        // Sequences are logged up to 32 values ahead: a standby shows a last_value that the
        // primary has not reached.
        (RelationKind::Sequence, _) => Verdict::ServerLocal(Arc::from(format!(
            "{name} is a sequence: a standby has its values ahead"
        ))),
        _ => Verdict::Safe,
    }
}

fn judge_types(catalog: &mut Catalog, types: &[TypeRow]) {
    for row in types {
        let mut verdict = Verdict::Safe;
        if row.volatile {
            verdict = refused("type", format!("input or output of {} is volatile", row.name));
        }
        for check in &row.checks {
            let found = walk::fragment(&format!("SELECT ({check})"), catalog);
            verdict = verdict.or(own_verdict(&found, &row.name));
        }
        catalog.types.insert(Arc::from(row.name.as_str()), verdict);
    }
}

/// The verdict of a view or policy by what was found in its text.
fn own_verdict(found: &Found, name: &str) -> Verdict {
    if let Some(problem) = found.problems.first() {
        let reason = format!("{name}: {}", problem.reason);
        return Verdict::Refused {
            effect: problem.effect,
            code: problem.code,
            reason: Arc::from(reason),
        };
    }
    match &found.server_local {
        Some(reason) => Verdict::ServerLocal(Arc::from(format!("{name}: {reason}"))),
        None => Verdict::Safe,
    }
}

/// Where a relation is kept in the catalog.
type Place = (Arc<str>, usize);

fn judge_relations(catalog: &mut Catalog, rows: &[RelationRow]) {
    let mut places: Vec<Place> = Vec::with_capacity(rows.len());
    let mut by_oid: HashMap<u32, usize> = HashMap::new();
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let count = seen.entry(row.name.as_str()).or_default();
        places.push((Arc::from(row.name.as_str()), *count));
        *count += 1;
        by_oid.insert(row.oid, index);
    }
    // Edges from what is referred to, to who refers to it.
    let mut edges: Vec<(usize, usize)> = Vec::new();
    let mut verdicts: Vec<(Verdict, Vec<Pin>)> = Vec::with_capacity(rows.len());
    let names = by_name(rows);
    for (index, row) in rows.iter().enumerate() {
        let mut verdict = by_kind(row);
        let mut pins = Vec::new();
        let policies = row.policies.iter().map(|policy| format!("SELECT ({policy})"));
        for text in row.definition.iter().cloned().chain(policies) {
            let found = walk::fragment(&text, catalog);
            pins.extend(found.pins());
            verdict = verdict.or(own_verdict(&found, &row.name));
            edges.extend(found.tables_read.iter().flat_map(|table| {
                named(&names, rows, table).into_iter().map(move |from| (from, index))
            }));
        }
        let parents = row.parents.iter().filter_map(|oid| by_oid.get(oid));
        edges.extend(parents.map(|parent| (index, *parent)));
        verdicts.push((verdict, pins));
    }
    spread(&edges, &mut verdicts);
    for ((name, at), (verdict, pins)) in places.into_iter().zip(verdicts) {
        if let Some(relation) = catalog.relations.get_mut(&name).and_then(|list| list.get_mut(at)) {
            relation.verdict = verdict;
            relation.pins = pins;
        }
    }
}

fn by_name(rows: &[RelationRow]) -> HashMap<&str, Vec<usize>> {
    let mut names: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        names.entry(row.name.as_str()).or_default().push(index);
    }
    names
}

/// Every relation that a name in a definition may mean.
fn named(names: &HashMap<&str, Vec<usize>>, rows: &[RelationRow], table: &str) -> Vec<usize> {
    let (schema, name) = match table.rsplit_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, table),
    };
    let all = names.get(name).into_iter().flatten().copied();
    all.filter(|index| schema.is_none_or(|schema| schema == rows[*index].schema)).collect()
}

/// Carries verdicts and pins along the edges until nothing changes: a work list, so that the
/// time is linear in the edges however long the chains are.
fn spread(edges: &[(usize, usize)], verdicts: &mut [(Verdict, Vec<Pin>)]) {
    let mut next: HashMap<usize, Vec<usize>> = HashMap::new();
    for (from, to) in edges {
        next.entry(*from).or_default().push(*to);
    }
    let mut work: Vec<usize> = (0..verdicts.len()).collect();
    while let Some(from) = work.pop() {
        let (verdict, pins) = verdicts[from].clone();
        for to in next.get(&from).into_iter().flatten() {
            let (old, old_pins) = &mut verdicts[*to];
            let stricter = old.clone().or(verdict.clone());
            let more = pins.iter().any(|pin| !old_pins.contains(pin));
            if std::mem::discriminant(old) != std::mem::discriminant(&stricter) || more {
                *old = stricter;
                old_pins.extend(
                    pins.iter().filter(|pin| !old_pins.contains(pin)).copied().collect::<Vec<_>>(),
                );
                work.push(*to);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalog::{FunctionRow, FunctionRules};
    use super::*;

    fn view(oid: u32, schema: &str, name: &str, definition: &str) -> RelationRow {
        RelationRow {
            oid,
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind: RelationKind::View,
            persistence: Persistence::Permanent,
            definition: Some(definition.to_owned()),
            policies: Vec::new(),
            parents: Vec::new(),
        }
    }

    fn safe(relations: Vec<RelationRow>, schema: Option<&str>, name: &str) -> bool {
        let functions = vec![FunctionRow {
            schema: "public".to_owned(),
            name: "noisy".to_owned(),
            arguments_min: 0,
            arguments_max: Some(0),
            volatility: Volatility::Volatile,
            takes_row: false,
        }];
        let rows = CatalogRows { functions, relations, ..CatalogRows::default() };
        Catalog::build(rows, FunctionRules::default()).relation(schema, name).0 == Verdict::Safe
    }

    #[test]
    fn views_that_refer_to_each_other_are_judged_and_the_build_ends() {
        let quiet = || vec![view(1, "a", "x", "SELECT * FROM y"), view(2, "a", "y", "TABLE x")];
        assert!(safe(quiet(), None, "x"));
        let mut noisy = quiet();
        noisy.push(view(3, "a", "z", "SELECT * FROM x"));
        noisy.push(view(4, "b", "y", "SELECT noisy()"));
        for name in ["x", "y", "z"] {
            assert!(!safe(noisy.clone(), None, name), "{name}");
        }
    }

    #[test]
    fn a_long_chain_of_views_carries_its_end() {
        let mut chain: Vec<RelationRow> = (1..2_000)
            .map(|n| view(n, "a", &format!("v{n}"), &format!("SELECT * FROM a.v{}", n - 1)))
            .collect();
        assert!(!safe(chain.clone(), None, "v1999"), "v0 is not known");
        chain.push(view(9_999, "a", "v0", "SELECT 1"));
        assert!(safe(chain.clone(), None, "v1999"));
        chain.pop();
        chain.push(view(9_999, "a", "v0", "SELECT noisy()"));
        assert!(!safe(chain, None, "v1999"));
    }

    #[test]
    fn a_name_in_two_schemas_is_as_safe_as_the_worse_of_the_two() {
        let both = || vec![view(1, "a", "x", "SELECT 1"), view(2, "b", "x", "SELECT noisy()")];
        assert!(safe(both(), Some("a"), "x"));
        assert!(!safe(both(), Some("b"), "x"));
        assert!(!safe(both(), None, "x"));
        assert!(!safe(vec![view(1, "a", "x", "no query at all")], None, "x"));
    }

    #[test]
    fn no_two_catalogs_share_a_version() {
        assert_ne!(Catalog::empty().version, Catalog::empty().version);
    }
}
