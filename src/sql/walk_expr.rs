//! The walk over expressions, calls and type names.

use super::functions;
use super::statement::Effect;
use super::walk::{Node, ScopeId, Walk, fold, join_name, qualified};
use sqlparser::ast::{
    AccessExpr, Array, ArrayElemTypeDef, BinaryOperator, CaseWhen, CeilFloorKind, DataType, Expr,
    Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, Interval, MemberOf, Subscript, TypedString, UnaryOperator, WindowFrame,
    WindowFrameBound, WindowSpec, WindowType,
};

impl Walk<'_> {
    pub(super) fn one_expr(&mut self, expr: Expr, scope: ScopeId) {
        match expr {
            Expr::Identifier(_) | Expr::Value(_) | Expr::Wildcard(_) => {}
            Expr::QualifiedWildcard(..) => {}
            Expr::CompoundIdentifier(parts) => {
                if let Some(last) = parts.last() {
                    self.found.verdict(self.catalog.attribute(&fold(last)), false);
                }
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.expr(*root, scope);
                for access in access_chain {
                    self.access(access, scope);
                }
            }
            Expr::IsFalse(one)
            | Expr::IsNotFalse(one)
            | Expr::IsTrue(one)
            | Expr::IsNotTrue(one)
            | Expr::IsNull(one)
            | Expr::IsNotNull(one)
            | Expr::IsUnknown(one)
            | Expr::IsNotUnknown(one)
            | Expr::Nested(one) => self.expr(*one, scope),
            Expr::IsJson { expr, kind: _, unique_keys: _, negated: _ }
            | Expr::IsNormalized { expr, form: _, negated: _ } => self.expr(*expr, scope),
            Expr::Exists { subquery, negated: _ } | Expr::Subquery(subquery) => {
                self.push(Node::Query(subquery), scope);
            }
            Expr::Tuple(list) => self.exprs(list, scope),
            Expr::Array(Array { elem, named: _ }) => self.exprs(elem, scope),
            Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => {
                self.exprs(sets.into_iter().flatten(), scope);
            }
            Expr::Case { case_token: _, end_token: _, operand, conditions, else_result } => {
                if operand.is_some() {
                    self.operator("=");
                }
                self.exprs(operand.map(|one| *one), scope);
                for CaseWhen { condition, result } in conditions {
                    self.expr(condition, scope);
                    self.expr(result, scope);
                }
                self.exprs(else_result.map(|one| *one), scope);
            }
            Expr::Function(function) => self.function(function, scope),
            Expr::Cast { kind: _, expr, data_type, format } => {
                self.refuse(format.is_some(), "CAST … FORMAT");
                self.expr(*expr, scope);
                self.data_type(data_type);
            }
            Expr::TypedString(TypedString { data_type, value: _, uses_odbc_syntax: _ }) => {
                self.data_type(data_type);
            }
            Expr::Interval(interval) => {
                let Interval {
                    value,
                    leading_field: _,
                    leading_precision: _,
                    last_field: _,
                    fractional_seconds_precision: _,
                } = interval;
                self.expr(*value, scope);
            }
            other => self.operation(other, scope),
        }
    }

    /// Expressions that are operators.
    fn operation(&mut self, expr: Expr, scope: ScopeId) {
        match expr {
            Expr::BinaryOp { left, op, right } => {
                self.binary_operator(op);
                self.pair(left, right, scope);
            }
            Expr::UnaryOp { op, expr } => {
                if op != UnaryOperator::Not {
                    self.operator(&op.to_string());
                }
                self.expr(*expr, scope);
            }
            Expr::AnyOp { left, compare_op, right, is_some: _ }
            | Expr::AllOp { left, compare_op, right } => {
                self.binary_operator(compare_op);
                self.pair(left, right, scope);
            }
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                self.operator("=");
                self.pair(left, right, scope);
            }
            Expr::InList { expr, list, negated: _ } => {
                self.equality();
                self.expr(*expr, scope);
                self.exprs(list, scope);
            }
            Expr::InSubquery { expr, subquery, negated: _ } => {
                self.equality();
                self.expr(*expr, scope);
                self.push(Node::Query(subquery), scope);
            }
            Expr::Between { expr, negated: _, low, high } => {
                for operator in ["<", ">", "<=", ">="] {
                    self.operator(operator);
                }
                self.expr(*expr, scope);
                self.pair(low, high, scope);
            }
            // `any`: LIKE ANY (array), the same operator on each element.
            Expr::Like { negated: _, any: _, expr, pattern, escape_char }
            | Expr::ILike { negated: _, any: _, expr, pattern, escape_char } => {
                for operator in ["~~", "!~~", "~~*", "!~~*"] {
                    self.operator(operator);
                }
                self.pair(expr, pattern, scope);
                self.exprs(escape_char.map(|one| *one), scope);
            }
            Expr::SimilarTo { negated: _, expr, pattern, escape_char } => {
                self.operator("~");
                self.operator("!~");
                self.pair(expr, pattern, scope);
                self.exprs(escape_char.map(|one| *one), scope);
            }
            other => self.grammar(other, scope),
        }
    }

    /// Expressions that the grammar turns into a call of a built-in function that is safe.
    fn grammar(&mut self, expr: Expr, scope: ScopeId) {
        match expr {
            Expr::AtTimeZone { timestamp, time_zone } => self.pair(timestamp, time_zone, scope),
            Expr::Extract { field: _, syntax: _, expr } => self.expr(*expr, scope),
            Expr::Ceil { expr, field } | Expr::Floor { expr, field } => {
                use sqlparser::ast::DateTimeField::NoDateTime;
                let plain = matches!(field, CeilFloorKind::DateTimeField(NoDateTime));
                self.refuse(!plain, "CEIL … TO");
                self.expr(*expr, scope);
            }
            Expr::Position { expr, r#in } => self.pair(expr, r#in, scope),
            Expr::Substring { expr, substring_from, substring_for, special: _, shorthand: _ } => {
                self.expr(*expr, scope);
                self.exprs(substring_from.map(|one| *one), scope);
                self.exprs(substring_for.map(|one| *one), scope);
            }
            Expr::Trim { trim_where: _, trim_what, expr, trim_characters } => {
                self.expr(*expr, scope);
                self.exprs(trim_what.map(|one| *one), scope);
                self.exprs(trim_characters.into_iter().flatten(), scope);
            }
            Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                self.pair(expr, overlay_what, scope);
                self.expr(*overlay_from, scope);
                self.exprs(overlay_for.map(|one| *one), scope);
            }
            Expr::Collate { expr, collation: _ } => self.expr(*expr, scope),
            Expr::Named { expr, name: _ } => self.expr(*expr, scope),
            other if self.mysql => self.grammar_of_mysql(other, scope),
            _ => self.found.unknown("this kind of expression"),
        }
    }

    /// Expressions that only MySQL and MariaDB have.
    fn grammar_of_mysql(&mut self, expr: Expr, scope: ScopeId) {
        match expr {
            Expr::RLike { negated: _, expr, pattern, regexp: _ } => {
                self.pair(expr, pattern, scope);
            }
            Expr::Convert { is_try, expr, data_type, charset: _, target_before_value, styles } => {
                let foreign = is_try || target_before_value || !styles.is_empty();
                self.refuse(foreign, "CONVERT of another dialect");
                self.expr(*expr, scope);
                data_type.into_iter().for_each(|data_type| self.data_type(data_type));
            }
            Expr::Prefixed { prefix: _, value } => self.expr(*value, scope),
            Expr::MatchAgainst { columns: _, match_value: _, opt_search_modifier: _ } => {}
            Expr::MemberOf(MemberOf { value, array }) => self.pair(value, array, scope),
            _ => self.found.unknown("this kind of expression"),
        }
    }

    fn pair(&mut self, left: Box<Expr>, right: Box<Expr>, scope: ScopeId) {
        self.expr(*left, scope);
        self.expr(*right, scope);
    }

    fn equality(&mut self) {
        self.operator("=");
        self.operator("<>");
    }

    fn binary_operator(&mut self, operator: BinaryOperator) {
        match operator {
            BinaryOperator::And | BinaryOperator::Or | BinaryOperator::Overlaps => {}
            BinaryOperator::PGCustomBinaryOperator(parts) => {
                self.operator(parts.last().map_or("", String::as_str));
            }
            BinaryOperator::Custom(name) => self.operator(&name),
            BinaryOperator::Assignment => self.found.unknown("an assignment in an expression"),
            BinaryOperator::NotEq => self.operator("<>"),
            other => self.operator(&other.to_string()),
        }
    }

    fn access(&mut self, access: AccessExpr, scope: ScopeId) {
        match access {
            AccessExpr::Dot(Expr::Identifier(field)) => {
                self.found.verdict(self.catalog.attribute(&fold(&field)), false);
            }
            AccessExpr::Dot(expr) => self.expr(expr, scope),
            AccessExpr::Subscript(Subscript::Index { index }) => self.expr(index, scope),
            AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                self.refuse(stride.is_some(), "a slice with a stride");
                self.exprs(lower_bound, scope);
                self.exprs(upper_bound, scope);
            }
        }
    }

    pub(super) fn function(&mut self, function: Function, scope: ScopeId) {
        let Function {
            name,
            uses_odbc_syntax,
            parameters,
            args,
            within_group,
            filter,
            null_treatment: _,
            over,
        } = function;
        self.refuse(uses_odbc_syntax, "{fn …}");
        self.refuse(!matches!(parameters, FunctionArguments::None), "parameters of a function");
        let count = match &args {
            FunctionArguments::None => Some(0),
            FunctionArguments::Subquery(_) => Some(1),
            // An ordered-set aggregate counts the values of its ORDER BY as arguments.
            FunctionArguments::List(list) if within_group.is_empty() => Some(list.args.len()),
            FunctionArguments::List(_) => None,
        };
        match qualified(&name) {
            Some((schema, name)) => {
                // What its constant arguments say is decided on the tokens.
                if !self.mysql
                    && functions::reads_setting(schema.as_deref(), &name)
                    && !self.catalog.has_function(&name)
                {
                    self.found.calls(join_name(schema.as_deref(), &name));
                } else {
                    self.call(schema.as_deref(), &name, count);
                }
            }
            None => self.found.unknown("the name of a function"),
        }
        match args {
            FunctionArguments::None => {}
            FunctionArguments::Subquery(query) => self.push(Node::Query(query), scope),
            FunctionArguments::List(list) => self.argument_list(list, scope),
        }
        self.order_by(within_group, scope);
        self.exprs(filter.map(|one| *one), scope);
        match over {
            None | Some(WindowType::NamedWindow(_)) => {}
            Some(WindowType::WindowSpec(window)) => self.window(window, scope),
        }
    }

    fn argument_list(&mut self, list: FunctionArgumentList, scope: ScopeId) {
        let FunctionArgumentList { duplicate_treatment: _, args, clauses } = list;
        self.arguments(args, scope);
        for clause in clauses {
            match clause {
                FunctionArgumentClause::OrderBy(list) => self.order_by(list, scope),
                FunctionArgumentClause::JsonNullClause(_) => {}
                FunctionArgumentClause::Separator(_) if self.mysql => {}
                FunctionArgumentClause::Limit(expr) if self.mysql => self.expr(expr, scope),
                FunctionArgumentClause::JsonReturningClause(returning) => {
                    self.data_type(returning.data_type);
                }
                _ => self.found.unknown("a clause in the arguments of a function"),
            }
        }
    }

    pub(super) fn arguments(&mut self, args: Vec<FunctionArg>, scope: ScopeId) {
        for arg in args {
            let value = match arg {
                FunctionArg::Named { name: _, arg, operator: _ } => arg,
                FunctionArg::ExprNamed { name, arg, operator: _ } => {
                    self.expr(name, scope);
                    arg
                }
                FunctionArg::Unnamed(arg) => arg,
            };
            match value {
                FunctionArgExpr::Expr(expr) => self.expr(expr, scope),
                FunctionArgExpr::QualifiedWildcard(_) | FunctionArgExpr::Wildcard => {}
                FunctionArgExpr::WildcardWithOptions(options) => self.wildcard(options),
            }
        }
    }

    pub(super) fn window(&mut self, window: WindowSpec, scope: ScopeId) {
        let WindowSpec { window_name: _, partition_by, order_by, window_frame } = window;
        self.exprs(partition_by, scope);
        self.order_by(order_by, scope);
        let Some(WindowFrame { units: _, start_bound, end_bound }) = window_frame else { return };
        for bound in [Some(start_bound), end_bound].into_iter().flatten() {
            match bound {
                WindowFrameBound::CurrentRow => {}
                WindowFrameBound::Preceding(expr) | WindowFrameBound::Following(expr) => {
                    self.exprs(expr.map(|one| *one), scope);
                }
            }
        }
    }

    /// The name of a type: PostgreSQL's own are enumerated, the rest is asked of the catalog.
    pub(super) fn data_type(&mut self, data_type: DataType) {
        // MySQL and MariaDB have no types of users, and casts call nothing.
        if self.mysql {
            return;
        }
        let mut data_type = data_type;
        loop {
            match data_type {
                DataType::Array(
                    ArrayElemTypeDef::SquareBracket(element, _)
                    | ArrayElemTypeDef::Qualified(element, _)
                    | ArrayElemTypeDef::AngleBracket(element),
                ) => data_type = *element,
                DataType::Custom(name, _modifiers) => {
                    match qualified(&name) {
                        Some((schema, name)) => {
                            let verdict = self.catalog.type_name(schema.as_deref(), &name);
                            self.found.verdict(verdict, true);
                        }
                        None => self.found.unknown("the name of a type"),
                    }
                    return;
                }
                other => {
                    // Users may have made a cast to a built-in type; its name as the catalog has it.
                    match built_in_name(&other) {
                        Some("") => {}
                        Some(name) => {
                            self.found.verdict(self.catalog.type_name(None, name), true);
                        }
                        None => {
                            let what = format!("the type {other}");
                            self.found.problem(Effect::Unknown, "unknown_type", what);
                        }
                    }
                    return;
                }
            }
        }
    }
}

/// The catalog's name of a type that sqlparser knows and PostgreSQL has.
fn built_in_name(data_type: &DataType) -> Option<&'static str> {
    use DataType::*;
    let name = match data_type {
        Character(_) | Char(_) => "bpchar",
        CharacterVarying(_) | CharVarying(_) | Varchar(_) => "varchar",
        Uuid => "uuid",
        Numeric(_) | Decimal(_) | Dec(_) => "numeric",
        Float(_) | Double(_) | DoublePrecision | Float8 => "float8",
        Float4 | Real => "float4",
        Int2(_) | SmallInt(_) => "int2",
        Int(_) | Integer(_) | Int4(_) => "int4",
        Int8(_) | BigInt(_) => "int8",
        Bool | Boolean => "bool",
        Date => "date",
        Time(_, _) => "time",
        Timestamp(_, _) => "timestamp",
        Interval { .. } => "interval",
        JSON => "json",
        JSONB => "jsonb",
        Regclass => "regclass",
        Text => "text",
        Bytea => "bytea",
        Bit(_) => "bit",
        BitVarying(_) | VarBit(_) => "varbit",
        TsVector => "tsvector",
        TsQuery => "tsquery",
        GeometricType(_) | Unspecified | AnyType => "",
        _ => return None,
    };
    Some(name)
}
