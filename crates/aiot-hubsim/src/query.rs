//! The part of the hub's query language that conditions, metrics and the commands need.
//!
//! `SELECT * | path [AS name], … | COUNT() AS name FROM devices | devices.modules [WHERE condition]`; a condition has
//! `AND OR NOT`, comparisons of a path with a constant or another path, `IN NIN [constants]`, `is_defined(path)`;
//! `[[name]]` quotes one part of a path. A comparison with something missing, or of different kinds, is neither true
//! nor false, as in target conditions.
//!
//! Source: docs "IoT Hub query language"; no GROUP BY, no string functions, no joins.

use serde_json::{Map, Value};

/// Longest query, in bytes.
const LENGTH_LIMIT_BYTES: usize = 16 << 10;
/// Deepest nesting of parentheses and NOT.
const DEPTH_LIMIT: usize = 40;

/// What is asked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// Device twins.
    Devices,
    /// Module twins.
    Modules,
}

/// A parsed query.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// What is given of each match.
    pub selection: Selection,
    /// Over what.
    pub collection: Collection,
    condition: Option<Expression>,
}

/// What a query gives.
#[derive(Clone, Debug, PartialEq)]
pub enum Selection {
    /// The whole twin.
    All,
    /// Parts of it, by name.
    Parts(Vec<(String, Vec<String>)>),
    /// One row with how many match, by name.
    Count(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Expression {
    Compare(Vec<String>, Comparison, Operand),
    In(Vec<String>, bool, Vec<Value>),
    IsDefined(Vec<String>),
    Not(Box<Expression>),
    All(Vec<Expression>),
    Any(Vec<Expression>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Constant(Value),
    Path(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What queries look at, without having to be built as a whole.
pub trait Document {
    /// The value at a path; none: there is nothing.
    fn get(&self, path: &[String]) -> Option<Value>;
    /// All of it.
    fn whole(&self) -> Value;
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Query, String> {
        if text.len() > LENGTH_LIMIT_BYTES {
            return Err(format!("the query is longer than {LENGTH_LIMIT_BYTES} bytes"));
        }
        let mut parser = Parser {
            tokens: tokens(text)?,
            position: 0,
        };
        parser.expect_word("select")?;
        let selection = parser.selection()?;
        parser.expect_word("from")?;
        let collection = match parser.path()?.join(".").to_ascii_lowercase().as_str() {
            "devices" => Collection::Devices,
            "devices.modules" => Collection::Modules,
            other => return Err(format!("there is no collection `{other}` here")),
        };
        let condition = match parser.take_word("where") {
            true => Some(parser.any(0)?),
            false => None,
        };
        match parser.tokens.get(parser.position) {
            None => Ok(Query {
                selection,
                collection,
                condition,
            }),
            Some(token) => Err(format!("`{}` is one too many", token.text())),
        }
    }

    /// Whether a document matches.
    pub fn matches(&self, document: &dyn Document) -> bool {
        match &self.condition {
            Some(condition) => condition.evaluate(document) == Some(true),
            None => true,
        }
    }

    /// The row of a document that matches; parts that it lacks are left out.
    pub fn row(&self, document: &dyn Document) -> Value {
        match &self.selection {
            Selection::Parts(parts) => {
                let found = parts
                    .iter()
                    .filter_map(|(name, path)| Some((name.clone(), document.get(path)?)));
                Value::Object(found.collect::<Map<String, Value>>())
            }
            Selection::All | Selection::Count(_) => document.whole(),
        }
    }
}

impl Expression {
    fn evaluate(&self, document: &dyn Document) -> Option<bool> {
        match self {
            Expression::Compare(path, comparison, operand) => {
                let found = document.get(path)?;
                match operand {
                    Operand::Constant(value) => compare(&found, *comparison, value),
                    Operand::Path(other) => compare(&found, *comparison, &document.get(other)?),
                }
            }
            Expression::In(path, negated, values) => {
                let found = document.get(path)?;
                let contained = values
                    .iter()
                    .any(|value| compare(&found, Comparison::Equal, value) == Some(true));
                Some(contained != *negated)
            }
            Expression::IsDefined(path) => Some(document.get(path).is_some_and(|value| !value.is_null())),
            Expression::Not(inner) => inner.evaluate(document).map(|value| !value),
            Expression::All(parts) => decide(parts, false, document),
            Expression::Any(parts) => decide(parts, true, document),
        }
    }
}

fn decide(parts: &[Expression], deciding: bool, document: &dyn Document) -> Option<bool> {
    let mut result = Some(!deciding);
    for part in parts {
        match part.evaluate(document) {
            Some(value) if value == deciding => return Some(deciding),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

fn compare(found: &Value, comparison: Comparison, wanted: &Value) -> Option<bool> {
    let ordering = match (found, wanted) {
        (Value::String(found), Value::String(wanted)) => found.cmp(wanted),
        (Value::Number(found), Value::Number(wanted)) => found.as_f64()?.partial_cmp(&wanted.as_f64()?)?,
        (Value::Bool(found), Value::Bool(wanted)) => found.cmp(wanted),
        _ => return None,
    };
    Some(match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::NotEqual => ordering.is_ne(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
    })
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    /// `[[…]]`
    Quoted(String),
    Text(String),
    Number(f64),
    Symbol(&'static str),
}

impl Token {
    fn text(&self) -> String {
        match self {
            Token::Word(text) | Token::Quoted(text) | Token::Text(text) => text.clone(),
            Token::Number(number) => number.to_string(),
            Token::Symbol(symbol) => (*symbol).to_owned(),
        }
    }
}

const SYMBOLS: [&str; 13] = [
    "<=", ">=", "!=", "<>", "=", "<", ">", "(", ")", "[", "]", ",", "*",
];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if let Some(inner) = rest.strip_prefix("[[") {
            let (name, after) = inner.split_once("]]").ok_or("`[[` has no `]]`")?;
            tokens.push(Token::Quoted(name.to_owned()));
            rest = after;
        } else if first == '\'' || first == '"' {
            let (value, after) = quoted(&rest[1..], first)?;
            tokens.push(Token::Text(value));
            rest = after;
        } else if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            tokens.push(Token::Symbol(symbol));
            rest = &rest[symbol.len()..];
        } else if let Some(after) = rest.strip_prefix('.') {
            tokens.push(Token::Symbol("."));
            rest = after;
        } else {
            let word = |c: char| c.is_alphanumeric() || "_$-".contains(c);
            let number = first.is_ascii_digit() || first == '-';
            let end = rest
                .find(|c: char| !(word(c) || number && ".+".contains(c)))
                .unwrap_or(rest.len());
            if end == 0 {
                return Err(format!("`{first}` has no meaning here"));
            }
            let text = &rest[..end];
            tokens.push(match text.parse::<f64>() {
                Ok(value) if number && value.is_finite() => Token::Number(value),
                _ => Token::Word(text.to_owned()),
            });
            rest = &rest[end..];
        }
        rest = rest.trim_start();
    }
    Ok(tokens)
}

/// The value of a text after its opening quote, and what follows; a doubled quote is one.
fn quoted(rest: &str, quote: char) -> Result<(String, &str), String> {
    let mut value = String::new();
    let mut from = 0;
    while let Some(found) = rest[from..].find(quote) {
        value.push_str(&rest[from..from + found]);
        from += found + 1;
        if !rest[from..].starts_with(quote) {
            return Ok((value, &rest[from..]));
        }
        value.push(quote);
        from += 1;
    }
    Err("a text has no end".to_owned())
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    fn next(&mut self) -> Result<Token, String> {
        let token = self.tokens.get(self.position).cloned();
        self.position += 1;
        token.ok_or_else(|| "the query ends too early".to_owned())
    }

    fn take(&mut self, symbol: &'static str) -> bool {
        let found = self.tokens.get(self.position) == Some(&Token::Symbol(symbol));
        self.position += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &'static str) -> Result<(), String> {
        match self.take(symbol) {
            true => Ok(()),
            false => Err(format!("expected `{symbol}`{}", self.before())),
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = matches!(self.tokens.get(self.position), Some(Token::Word(text)) if text.eq_ignore_ascii_case(word));
        self.position += usize::from(found);
        found
    }

    fn expect_word(&mut self, word: &str) -> Result<(), String> {
        match self.take_word(word) {
            true => Ok(()),
            false => Err(format!("expected {}{}", word.to_ascii_uppercase(), self.before())),
        }
    }

    fn before(&self) -> String {
        match self.tokens.get(self.position) {
            Some(token) => format!(" before `{}`", token.text()),
            None => " at the end".to_owned(),
        }
    }

    fn selection(&mut self) -> Result<Selection, String> {
        if self.take("*") {
            return Ok(Selection::All);
        }
        if self.take_word("count") {
            self.expect("(")?;
            self.expect(")")?;
            let name = match self.take_word("as") {
                true => self.next()?.text(),
                false => "$1".to_owned(),
            };
            return Ok(Selection::Count(name));
        }
        let mut parts = Vec::new();
        loop {
            let path = self.path()?;
            let name = match self.take_word("as") {
                true => self.next()?.text(),
                false => path[path.len() - 1].clone(),
            };
            parts.push((name, path));
            if !self.take(",") {
                return Ok(Selection::Parts(parts));
            }
        }
    }

    fn path(&mut self) -> Result<Vec<String>, String> {
        let mut parts = Vec::new();
        loop {
            match self.next()? {
                Token::Word(text) | Token::Quoted(text) => parts.push(text),
                other => return Err(format!("`{}` is no name of a property", other.text())),
            }
            if !self.take(".") {
                return Ok(parts);
            }
        }
    }

    fn any(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = vec![self.all(depth)?];
        while self.take_word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Expression::Any(parts)
        })
    }

    fn all(&mut self, depth: usize) -> Result<Expression, String> {
        let mut parts = vec![self.one(depth)?];
        while self.take_word("and") {
            parts.push(self.one(depth)?);
        }
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Expression::All(parts)
        })
    }

    fn one(&mut self, depth: usize) -> Result<Expression, String> {
        if depth > DEPTH_LIMIT {
            return Err(format!("the condition is nested deeper than {DEPTH_LIMIT}"));
        }
        if self.take_word("not") {
            return Ok(Expression::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.take("(") {
            let inner = self.any(depth + 1)?;
            self.expect(")")?;
            return Ok(inner);
        }
        if self.take_word("is_defined") {
            self.expect("(")?;
            let path = self.path()?;
            self.expect(")")?;
            return Ok(Expression::IsDefined(path));
        }
        let path = self.path()?;
        for (word, negated) in [("in", false), ("nin", true)] {
            if self.take_word(word) {
                return Ok(Expression::In(path, negated, self.list()?));
            }
        }
        let comparison = match self.next()? {
            Token::Symbol("=") => Comparison::Equal,
            Token::Symbol("!=" | "<>") => Comparison::NotEqual,
            Token::Symbol("<") => Comparison::Less,
            Token::Symbol("<=") => Comparison::LessOrEqual,
            Token::Symbol(">") => Comparison::Greater,
            Token::Symbol(">=") => Comparison::GreaterOrEqual,
            other => return Err(format!("`{}` is no comparison", other.text())),
        };
        let operand = match self.constant() {
            Some(value) => Operand::Constant(value),
            None => Operand::Path(self.path()?),
        };
        Ok(Expression::Compare(path, comparison, operand))
    }

    fn list(&mut self) -> Result<Vec<Value>, String> {
        self.expect("[")?;
        let mut values = Vec::new();
        loop {
            values.push(
                self.constant()
                    .ok_or_else(|| format!("expected a constant{}", self.before()))?,
            );
            if !self.take(",") {
                self.expect("]")?;
                return Ok(values);
            }
        }
    }

    fn constant(&mut self) -> Option<Value> {
        let value = match self.tokens.get(self.position)? {
            Token::Text(text) => Value::from(text.as_str()),
            Token::Number(number) => Value::from(*number),
            Token::Word(word) if word.eq_ignore_ascii_case("true") => Value::from(true),
            Token::Word(word) if word.eq_ignore_ascii_case("false") => Value::from(false),
            _ => return None,
        };
        self.position += 1;
        Some(value)
    }
}

impl Document for Value {
    fn get(&self, path: &[String]) -> Option<Value> {
        path.iter().try_fold(self, |value, key| value.get(key)).cloned()
    }

    fn whole(&self) -> Value {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn twin() -> Value {
        json!({
            "deviceId": "d'1", "moduleId": "$edgeAgent", "tags": {"ring": "canary", "wave": 7},
            "capabilities": {"iotEdge": true},
            "configurations": {"prod-a.b": {"status": "Applied"}},
            "properties": {"desired": {"$version": 4}, "reported": {"lastDesiredVersion": 4, "n": null,
                "lastDesiredStatus": {"code": 200}, "modules": {"a-b": {"runtimeStatus": "running"}}}},
        })
    }

    #[test]
    fn conditions() {
        let check = |condition: &str, expected: bool| {
            let query = Query::parse(&format!("SELECT * FROM devices WHERE {condition}"))
                .unwrap_or_else(|error| panic!("{condition}: {error}"));
            assert_eq!(query.matches(&twin()), expected, "{condition}");
        };
        check("deviceId = 'd''1'", true);
        check(
            "moduleId = '$edgeAgent' AND configurations.[[prod-a.b]].status = 'Applied'",
            true,
        );
        check("capabilities.iotEdge = true", true);
        check(
            "properties.desired.$version = properties.reported.lastDesiredVersion",
            true,
        );
        check("properties.reported.lastDesiredStatus.code != 200", false);
        check(
            "properties.reported.modules.[[a-b]].runtimeStatus = 'running'",
            true,
        );
        check("tags.wave < 7 OR tags.wave >= 7", true);
        check("tags.ring IN ['early', 'canary']", true);
        check("tags.ring NIN ['early', 'canary']", false);
        check("NOT tags.gone = 'x'", false);
        check("tags.gone = 'x' OR NOT (tags.wave > 9)", true);
        check(
            "is_defined(tags.ring) and not is_defined(properties.reported.n)",
            true,
        );
        check("tags.ring = 7", false);
        check("tags.wave = 7.0", true);
    }

    #[test]
    fn selections() {
        let check = |text: &str, expected: Value| {
            assert_eq!(Query::parse(text).unwrap().row(&twin()), expected, "{text}");
        };
        check(
            "SELECT deviceId, tags.ring AS ring, tags.gone FROM devices",
            json!({"deviceId": "d'1", "ring": "canary"}),
        );
        check("select tags.wave from devices.modules", json!({"wave": 7}));
        let count = Query::parse("SELECT COUNT() AS devices FROM devices WHERE tags.a = 1").unwrap();
        assert_eq!(count.selection, Selection::Count("devices".to_owned()));
    }

    #[test]
    fn mistakes() {
        let check = |text: &str, expected: &str| {
            let error = Query::parse(text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "expected SELECT");
        check("SELECT * FROM jobs", "no collection `jobs`");
        check("SELECT * FROM devices WHERE", "ends too early");
        check("SELECT * FROM devices WHERE tags.a ~ 1", "`~` has no meaning");
        check("SELECT * FROM devices WHERE tags.a = 'x", "has no end");
        check("SELECT * FROM devices WHERE tags.a IN []", "expected a constant");
        check("SELECT * FROM devices WHERE (tags.a = 1", "expected `)`");
        check("SELECT * FROM devices tags", "one too many");
        check("SELECT * FROM devices WHERE configurations.[[a = 1", "no `]]`");
        check(
            &format!("SELECT * FROM devices WHERE {}tags.a = 1", "NOT ".repeat(100)),
            "nested deeper",
        );
        check(&"x".repeat(20_000), "longer than");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "(SELECT|FROM|WHERE|devices|tags\\.a|\\[\\[|\\]\\]|'|=|é|\\(|IN|,|1| ){0,30}") {
            let _ = Query::parse(&text);
        }
    }
}
