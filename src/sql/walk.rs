//! The walk over a parsed statement: it enumerates what is a read.
//!
//! Whatever is not named here makes the statement unknown: each struct is taken apart field by
//! field, so that a field that a newer sqlparser adds does not compile until somebody has decided
//! about it. The tree is consumed from a work list; no recursion, however deep it is.
//!
//! Queries are here, FROM in `walk_from.rs`, expressions in `walk_expr.rs`, changes of data in
//! `walk_dml.rs`.

use super::catalog::Catalog;
use super::found::Found;
use super::lex::{Lexer, Token};
use super::statement::{Effect, SessionEffect};
use super::{calls, mysql, parse, scan};
use sqlparser::ast::{
    Cte, Distinct, Expr, Fetch, GroupByExpr, GroupByWithModifier, Ident, LimitClause,
    NamedWindowExpr, ObjectName, ObjectNamePart, Offset, OrderBy, OrderByExpr, OrderByKind,
    OrderByOptions, OrderBySort, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, Statement, Table, TableFactor, Values, WildcardAdditionalOptions, With,
};
use std::sync::Arc;

/// Names that WITH defines; a scope sees its parents.
struct Scope {
    parent: Option<usize>,
    name: String,
}

/// The scope in which a node stands: the innermost WITH name that it sees.
pub(super) type ScopeId = Option<usize>;

#[expect(clippy::large_enum_variant, reason = "most nodes are expressions, and move only once")]
pub(super) enum Node {
    Query(Box<Query>),
    Set(Box<SetExpr>),
    Expr(Expr),
    Factor(Box<TableFactor>),
    Statement(Box<Statement>),
}

pub(super) struct Walk<'a> {
    pub catalog: &'a Catalog,
    /// Whether the text is MySQL's or MariaDB's, which have clauses that PostgreSQL has not.
    pub mysql: bool,
    pub found: Found,
    /// Whether arguments cannot be counted.
    pub variadic: bool,
    scopes: Vec<Scope>,
    work: Vec<(Node, ScopeId)>,
}

/// Everything that the tree of a query or of a change of data says.
pub(super) fn walk(parsed: parse::Parsed, catalog: &Catalog) -> Found {
    let mut walk = Walk {
        catalog,
        mysql: catalog.engine.is_some(),
        found: Found::default(),
        variadic: parsed.variadic,
        scopes: Vec::new(),
        work: Vec::new(),
    };
    walk.push(Node::Statement(Box::new(parsed.statement)), None);
    walk.run();
    if !walk.found.tables_read.is_empty() {
        walk.found.verdict(catalog.database(), true);
    }
    walk.found
}

/// Classifies a text that comes from the catalog: a view's definition, a policy's expression.
pub(super) fn fragment(text: &str, catalog: &Catalog) -> Found {
    let bytes = text.trim().trim_end_matches(';').as_bytes();
    if let Some(engine) = catalog.engine {
        return mysql::classify::fragment(bytes, engine, catalog);
    }
    let tokens: Vec<Token> = Lexer::new(bytes, true).collect();
    query(bytes, &tokens, catalog)
}

/// Classifies one query by its words and its tree.
pub(super) fn query(text: &[u8], tokens: &[Token], catalog: &Catalog) -> Found {
    let mut found = tree(text, tokens, catalog);
    if let Some(word) = scan::forbidden(text, tokens) {
        found.forbidden(word);
    }
    calls::trace(text, tokens, catalog, &mut found);
    found
}

/// What the tree of one query says.
pub(super) fn tree(text: &[u8], tokens: &[Token], catalog: &Catalog) -> Found {
    match parse::parse(text, tokens, catalog.engine.is_some()) {
        Ok(parsed) => walk(parsed, catalog),
        Err(refusal) => {
            let mut found = Found::default();
            found.unparsed(refusal.code, refusal.reason);
            found
        }
    }
}

impl Walk<'_> {
    pub(super) fn push(&mut self, node: Node, scope: ScopeId) {
        self.work.push((node, scope));
    }

    pub(super) fn expr(&mut self, expr: Expr, scope: ScopeId) {
        self.push(Node::Expr(expr), scope);
    }

    pub(super) fn exprs(&mut self, list: impl IntoIterator<Item = Expr>, scope: ScopeId) {
        for expr in list {
            self.expr(expr, scope);
        }
    }

    /// Notes a form that the server does not have, or that nobody has decided about.
    pub(super) fn refuse(&mut self, present: bool, what: &str) {
        if present {
            self.found.unknown(what);
        }
    }

    /// Notes a form that only MySQL and MariaDB have.
    pub(super) fn foreign(&mut self, present: bool, what: &str) {
        self.refuse(present && !self.mysql, what);
    }

    fn run(&mut self) {
        while let Some((node, scope)) = self.work.pop() {
            match node {
                Node::Query(query) => self.query(*query, scope),
                Node::Set(set) => self.set(*set, scope),
                Node::Expr(expr) => self.one_expr(expr, scope),
                Node::Factor(factor) => self.factor(*factor, scope),
                Node::Statement(statement) => self.statement(*statement, scope),
            }
        }
    }

    fn query(&mut self, query: Query, scope: ScopeId) {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        let scope = match with {
            Some(with) => self.with(with, scope),
            None => scope,
        };
        self.push(Node::Set(body), scope);
        if let Some(OrderBy { kind, interpolate }) = order_by {
            self.refuse(interpolate.is_some(), "INTERPOLATE");
            match kind {
                OrderByKind::Expressions(list) => self.order_by(list, scope),
                OrderByKind::All(_) => self.found.unknown("ORDER BY ALL"),
            }
        }
        match limit_clause {
            Some(LimitClause::LimitOffset { limit, offset, limit_by }) => {
                self.exprs(limit, scope);
                if let Some(Offset { value, rows: _ }) = offset {
                    self.expr(value, scope);
                }
                self.refuse(!limit_by.is_empty(), "LIMIT BY");
            }
            Some(LimitClause::OffsetCommaLimit { offset, limit }) => {
                self.foreign(true, "LIMIT a, b");
                self.exprs([offset, limit], scope);
            }
            None => {}
        }
        if let Some(Fetch { with_ties: _, percent, quantity }) = fetch {
            self.refuse(percent, "FETCH … PERCENT");
            self.exprs(quantity, scope);
        }
        if !locks.is_empty() {
            self.found.problem(Effect::Write, "locking_clause", "it has a locking clause");
        }
        self.refuse(for_clause.is_some(), "FOR XML or JSON");
        self.refuse(settings.is_some(), "SETTINGS");
        self.refuse(format_clause.is_some(), "FORMAT");
        self.refuse(!pipe_operators.is_empty(), "a pipe operator");
    }

    /// The scope that sees the names of a WITH. Without RECURSIVE a query sees only the names
    /// before its own; a table of the same name is meant otherwise.
    fn with(&mut self, with: With, outer: ScopeId) -> ScopeId {
        let With { with_token: _, recursive, cte_tables } = with;
        let mut scope = outer;
        let mut queries = Vec::new();
        for Cte { alias, query, from, materialized: _, closing_paren_token: _ } in cte_tables {
            self.refuse(from.is_some(), "WITH … FROM");
            let name = fold(&alias.name);
            self.alias(Some(alias));
            let before = scope;
            self.scopes.push(Scope { parent: scope, name });
            scope = Some(self.scopes.len() - 1);
            queries.push((query, before));
        }
        for (query, before) in queries {
            self.push(Node::Query(query), if recursive { scope } else { before });
        }
        scope
    }

    /// Whether WITH defined the name.
    fn is_cte(&self, name: &str, scope: ScopeId) -> bool {
        let mut next = scope;
        while let Some(scope) = next.and_then(|at| self.scopes.get(at)) {
            if scope.name == name {
                return true;
            }
            next = scope.parent;
        }
        false
    }

    fn set(&mut self, set: SetExpr, scope: ScopeId) {
        match set {
            SetExpr::Select(select) => self.select(*select, scope),
            SetExpr::Query(query) => self.push(Node::Query(query), scope),
            SetExpr::SetOperation { left, op: _, set_quantifier, right } => {
                use sqlparser::ast::SetQuantifier::{All, Distinct, None};
                self.refuse(!matches!(set_quantifier, All | Distinct | None), "UNION BY NAME");
                self.push(Node::Set(left), scope);
                self.push(Node::Set(right), scope);
            }
            SetExpr::Values(Values { explicit_row, value_keyword: _, rows }) => {
                self.foreign(explicit_row, "VALUES ROW");
                for row in rows {
                    self.exprs(row.content, scope);
                }
            }
            SetExpr::Insert(statement)
            | SetExpr::Update(statement)
            | SetExpr::Delete(statement)
            | SetExpr::Merge(statement) => self.push(Node::Statement(Box::new(statement)), scope),
            SetExpr::Table(table) => {
                let Table { table_name, schema_name } = *table;
                match table_name {
                    Some(name) => self.relation(schema_name.as_deref(), &name, scope),
                    None => self.found.unknown("TABLE without a name"),
                }
            }
        }
    }

    fn select(&mut self, select: Select, scope: ScopeId) {
        let Select {
            select_token: _,
            optimizer_hints: _,
            distinct,
            select_modifiers,
            top,
            top_before_distinct,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        if into.is_some() {
            let reason = match self.mysql {
                true => "SELECT INTO writes variables or a file",
                false => "SELECT INTO makes a table",
            };
            self.found.problem(Effect::Write, "select_into", reason);
        }
        match distinct {
            None | Some(Distinct::All | Distinct::Distinct) => {}
            Some(Distinct::On(list)) => self.exprs(list, scope),
        }
        for item in projection {
            self.item(item, scope);
        }
        for table in from {
            self.table(table, scope);
        }
        self.exprs(selection, scope);
        self.exprs(having, scope);
        self.group_by(group_by, scope);
        for definition in named_window {
            match definition.1 {
                NamedWindowExpr::NamedWindow(_) => {}
                NamedWindowExpr::WindowSpec(window) => self.window(window, scope),
            }
        }
        // None of MySQL's modifiers changes anything but the answer to FOUND_ROWS().
        self.foreign(select_modifiers.is_some(), "a modifier of SELECT");
        let foreign = top.is_some()
            || top_before_distinct
            || exclude.is_some()
            || !lateral_views.is_empty()
            || prewhere.is_some()
            || !connect_by.is_empty()
            || !cluster_by.is_empty()
            || !distribute_by.is_empty()
            || !sort_by.is_empty()
            || qualify.is_some()
            || value_table_mode.is_some()
            || flavor != sqlparser::ast::SelectFlavor::Standard;
        self.refuse(foreign, "a clause of another dialect");
    }

    pub(super) fn item(&mut self, item: SelectItem, scope: ScopeId) {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, alias: _ } => {
                self.expr(expr, scope);
            }
            SelectItem::ExprWithAliases { .. } => self.found.unknown("a list of aliases"),
            SelectItem::QualifiedWildcard(kind, options) => {
                match kind {
                    SelectItemQualifiedWildcardKind::ObjectName(_) => {}
                    SelectItemQualifiedWildcardKind::Expr(expr) => self.expr(expr, scope),
                }
                self.wildcard(options);
            }
            SelectItem::Wildcard(options) => self.wildcard(options),
        }
    }

    pub(super) fn wildcard(&mut self, options: WildcardAdditionalOptions) {
        let WildcardAdditionalOptions {
            wildcard_token: _,
            opt_ilike,
            opt_exclude,
            opt_except,
            opt_replace,
            opt_rename,
            opt_alias: _,
        } = options;
        let foreign = opt_ilike.is_some()
            || opt_exclude.is_some()
            || opt_except.is_some()
            || opt_replace.is_some()
            || opt_rename.is_some();
        self.refuse(foreign, "an option of *");
    }

    fn group_by(&mut self, group_by: GroupByExpr, scope: ScopeId) {
        match group_by {
            GroupByExpr::Expressions(list, modifiers) => {
                self.exprs(list, scope);
                for modifier in modifiers {
                    match modifier {
                        GroupByWithModifier::GroupingSets(expr) => self.expr(expr, scope),
                        GroupByWithModifier::Rollup if self.mysql => {}
                        _ => self.found.unknown("GROUP BY … WITH"),
                    }
                }
            }
            GroupByExpr::All(_) => self.found.unknown("GROUP BY ALL"),
        }
    }

    pub(super) fn order_by(&mut self, list: Vec<OrderByExpr>, scope: ScopeId) {
        for OrderByExpr { expr, options, with_fill } in list {
            self.expr(expr, scope);
            let OrderByOptions { sort, nulls_first: _ } = options;
            if let Some(OrderBySort::Using(name)) = sort {
                let operator = name.0.last().map(ToString::to_string).unwrap_or_default();
                self.operator(&operator);
            }
            self.refuse(with_fill.is_some(), "WITH FILL");
        }
    }

    pub(super) fn relation(&mut self, schema: Option<&str>, name: &str, scope: ScopeId) {
        if schema.is_none() && self.is_cte(name, scope) {
            return;
        }
        let (verdict, pins) = self.catalog.relation(schema, name);
        self.found.verdict(verdict, true);
        for pin in pins {
            self.found.effect(SessionEffect::Pin(pin));
            self.found.effect(SessionEffect::Doubt(pin));
        }
        self.found.reads(join_name(schema, name));
    }

    /// A call of a function.
    pub(super) fn call(&mut self, schema: Option<&str>, name: &str, arguments: Option<usize>) {
        let arguments = if self.variadic { None } else { arguments };
        self.found.verdict(self.catalog.function(schema, name, arguments), false);
        self.found.calls(join_name(schema, name));
    }

    pub(super) fn operator(&mut self, name: &str) {
        self.found.verdict(self.catalog.operator(name), false);
    }
}

pub(super) fn join_name(schema: Option<&str>, name: &str) -> Arc<str> {
    match schema {
        Some(schema) => Arc::from(format!("{schema}.{name}")),
        None => Arc::from(name),
    }
}

/// The name as the server folds it. Unquoted names are in lower case already.
pub(super) fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

/// Schema and name; a database name in front may only be the connection's own, so it is dropped.
pub(super) fn qualified(name: &ObjectName) -> Option<(Option<String>, String)> {
    let mut parts = Vec::with_capacity(name.0.len());
    for part in &name.0 {
        match part {
            ObjectNamePart::Identifier(ident) => parts.push(fold(ident)),
            ObjectNamePart::Function(_) => return None,
        }
    }
    if parts.len() > 3 {
        return None;
    }
    let last = parts.pop()?;
    Some((parts.pop(), last))
}
