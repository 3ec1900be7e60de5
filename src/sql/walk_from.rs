//! The walk over FROM: tables, joins, table functions, samples.

use super::walk::{Node, ScopeId, Walk, qualified};
use sqlparser::ast::{
    FunctionArg, Join, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableFactor,
    TableSample, TableSampleKind, TableSampleQuantity, TableWithJoins,
};

impl Walk<'_> {
    pub(super) fn table(&mut self, table: TableWithJoins, scope: ScopeId) {
        let TableWithJoins { relation, joins } = table;
        self.push(Node::Factor(Box::new(relation)), scope);
        for Join { relation, global, join_operator } in joins {
            self.refuse(global, "GLOBAL JOIN");
            self.push(Node::Factor(Box::new(relation)), scope);
            self.join(join_operator, scope);
        }
    }

    fn join(&mut self, operator: JoinOperator, scope: ScopeId) {
        let constraint = match operator {
            JoinOperator::StraightJoin(constraint) => {
                self.foreign(true, "STRAIGHT_JOIN");
                constraint
            }
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint)
            | JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint)
            | JoinOperator::CrossJoin(constraint) => constraint,
            _ => return self.found.unknown("a join of another dialect"),
        };
        match constraint {
            JoinConstraint::On(expr) => self.expr(expr, scope),
            JoinConstraint::Using(_) | JoinConstraint::Natural => self.operator("="),
            JoinConstraint::None => {}
        }
    }

    pub(super) fn factor(&mut self, factor: TableFactor, scope: ScopeId) {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality: _,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                self.alias(alias);
                self.foreign(!partitions.is_empty(), "PARTITION of a table");
                self.foreign(!index_hints.is_empty(), "an index hint");
                let foreign = !with_hints.is_empty() || version.is_some() || json_path.is_some();
                self.refuse(foreign, "a table clause of another dialect");
                self.sample(sample, scope);
                match args {
                    Some(args) => {
                        self.refuse(args.settings.is_some(), "SETTINGS");
                        self.table_function(&name, args.args, scope);
                    }
                    None => match qualified(&name) {
                        Some((schema, name)) => self.relation(schema.as_deref(), &name, scope),
                        None => self.found.unknown("the name of a table"),
                    },
                }
            }
            TableFactor::Derived { lateral: _, subquery, alias, sample } => {
                self.alias(alias);
                self.sample(sample, scope);
                self.push(Node::Query(subquery), scope);
            }
            TableFactor::Function { lateral: _, name, args, with_ordinality: _, alias } => {
                self.alias(alias);
                self.table_function(&name, args, scope);
            }
            TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset,
                with_offset_alias,
                with_ordinality: _,
            } => {
                self.alias(alias);
                self.refuse(with_offset || with_offset_alias.is_some(), "UNNEST … WITH OFFSET");
                self.call(None, "unnest", None);
                self.exprs(array_exprs, scope);
            }
            TableFactor::JsonTable { json_expr, json_path: _, columns: _, alias } => {
                self.foreign(true, "JSON_TABLE");
                self.alias(alias);
                self.expr(json_expr, scope);
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                self.alias(alias);
                self.table(*table_with_joins, scope);
            }
            _ => self.found.unknown("this kind of table"),
        }
    }

    fn table_function(&mut self, name: &ObjectName, args: Vec<FunctionArg>, scope: ScopeId) {
        match qualified(name) {
            Some((schema, name)) => self.call(schema.as_deref(), &name, Some(args.len())),
            None => self.found.unknown("the name of a function"),
        }
        self.arguments(args, scope);
    }

    /// An alias names no relation, but its columns may have types.
    pub(super) fn alias(&mut self, alias: Option<TableAlias>) {
        let Some(TableAlias { explicit: _, name: _, columns, at }) = alias else { return };
        self.refuse(at.is_some(), "AT in an alias");
        for column in columns {
            if let Some(data_type) = column.data_type {
                self.data_type(data_type);
            }
        }
    }

    fn sample(&mut self, sample: Option<TableSampleKind>, scope: ScopeId) {
        let sample = match sample {
            Some(
                TableSampleKind::BeforeTableAlias(sample)
                | TableSampleKind::AfterTableAlias(sample),
            ) => *sample,
            None => return,
        };
        let TableSample { modifier: _, name: _, quantity, seed: _, bucket, offset } = sample;
        self.refuse(bucket.is_some() || offset.is_some(), "a sample of another dialect");
        if let Some(TableSampleQuantity { parenthesized: _, value, unit: _ }) = quantity {
            self.expr(value, scope);
        }
    }
}
