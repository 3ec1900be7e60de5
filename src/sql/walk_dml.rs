//! The walk over INSERT, UPDATE, DELETE and MERGE: they are writes whatever they contain, so only
//! the names are of interest here, and unknown parts are passed over.

use super::statement::Effect;
use super::walk::{Node, ScopeId, Walk, join_name, qualified};
use sqlparser::ast::{
    Delete, FromTable, Insert, Merge, ObjectName, OnConflictAction, OnInsert, Statement,
    TableFactor, TableObject, TableWithJoins, Update, UpdateTableFromKind,
};

impl Walk<'_> {
    pub(super) fn statement(&mut self, statement: Statement, scope: ScopeId) {
        match statement {
            Statement::Query(query) => self.push(Node::Query(query), scope),
            Statement::Insert(insert) => self.insert(insert, scope),
            Statement::Update(update) => self.update(update, scope),
            Statement::Delete(delete) => self.delete(delete, scope),
            Statement::Merge(merge) => self.merge(merge, scope),
            _ => self.found.unknown("this kind of statement"),
        }
    }

    fn changes(&mut self, word: &str) {
        self.found.problem(Effect::Write, "dml", format!("{word} changes data"));
    }

    fn target(&mut self, name: &ObjectName) {
        if let Some((schema, name)) = qualified(name) {
            // For EXPLAIN: planning a change of an unlogged table fails on a standby.
            let (verdict, _) = self.catalog.relation(schema.as_deref(), &name);
            self.found.verdict(verdict, true);
            self.found.writes(join_name(schema.as_deref(), &name));
        }
    }

    fn target_table(&mut self, table: TableWithJoins, scope: ScopeId) {
        self.target_factor(table.relation);
        for join in table.joins {
            self.push(Node::Factor(Box::new(join.relation)), scope);
        }
    }

    fn target_factor(&mut self, factor: TableFactor) {
        if let TableFactor::Table { name, .. } = &factor {
            self.target(name);
        }
    }

    fn insert(&mut self, insert: Insert, scope: ScopeId) {
        self.changes(if insert.replace_into { "REPLACE" } else { "INSERT" });
        if let TableObject::TableName(name) = &insert.table {
            self.target(name);
        }
        if let Some(query) = insert.source {
            self.push(Node::Query(query), scope);
        }
        if let Some(OnInsert::OnConflict(conflict)) = insert.on
            && let OnConflictAction::DoUpdate(update) = conflict.action
        {
            self.exprs(update.assignments.into_iter().map(|one| one.value), scope);
            self.exprs(update.selection, scope);
        }
        for item in insert.returning.into_iter().flatten() {
            self.item(item, scope);
        }
    }

    fn update(&mut self, update: Update, scope: ScopeId) {
        self.changes("UPDATE");
        self.target_table(update.table, scope);
        self.exprs(update.assignments.into_iter().map(|one| one.value), scope);
        match update.from {
            Some(UpdateTableFromKind::BeforeSet(list) | UpdateTableFromKind::AfterSet(list)) => {
                list.into_iter().for_each(|table| self.table(table, scope));
            }
            None => {}
        }
        self.exprs(update.selection, scope);
        for item in update.returning.into_iter().flatten() {
            self.item(item, scope);
        }
    }

    fn delete(&mut self, delete: Delete, scope: ScopeId) {
        self.changes("DELETE");
        delete.tables.iter().for_each(|name| self.target(name));
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = delete.from;
        from.into_iter().for_each(|table| self.target_table(table, scope));
        for table in delete.using.into_iter().flatten() {
            self.table(table, scope);
        }
        self.exprs(delete.selection, scope);
        for item in delete.returning.into_iter().flatten() {
            self.item(item, scope);
        }
    }

    fn merge(&mut self, merge: Merge, scope: ScopeId) {
        self.changes("MERGE");
        self.target_factor(merge.table);
        self.push(Node::Factor(Box::new(merge.source)), scope);
        self.expr(*merge.on, scope);
    }
}
