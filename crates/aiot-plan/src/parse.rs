//! TOML text → spanned structs, with every error of the file instead of the first only.
//!
//! serde stops at the first error. So the entry at fault is taken out of the parsed document and the rest is tried
//! again, until nothing is left to complain about. A value comes out only where there was no error at all.

use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

/// More errors than this in one file help nobody.
const MAX_ERRORS: usize = 50;

/// One error of the text's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// What serde or the parser said.
    pub message: String,
    /// Where.
    pub span: Range<usize>,
}

/// Parses `text` as `T`.
///
/// # Errors
/// All errors of form: TOML syntax, or unknown keys, wrong types and missing keys.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, Vec<SyntaxError>> {
    let (mut table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        return Err(syntax.iter().take(MAX_ERRORS).map(error).collect());
    }
    let mut errors: Vec<SyntaxError> = Vec::new();
    let mut removed: Vec<String> = Vec::new();
    loop {
        let failure = match T::deserialize(Deserializer::from(table.clone())) {
            Ok(value) if errors.is_empty() => return Ok(value),
            Ok(_) => return Err(errors),
            Err(failure) => error(&failure),
        };
        let missing = failure.message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        // A key that is missing because it was taken out is no news.
        if !missing.is_some_and(|name| removed.iter().any(|key| key == name)) {
            errors.push(failure.clone());
        }
        let taken = remove_at(table.get_mut(), &failure.span);
        match taken {
            Some(key) if errors.len() < MAX_ERRORS => removed.push(key),
            _ => return Err(errors),
        }
    }
}

fn error(error: &toml::de::Error) -> SyntaxError {
    SyntaxError { message: error.message().trim().to_owned(), span: error.span().unwrap_or(0..0) }
}

/// Takes out the innermost entry whose key or value covers `span`; returns its key.
fn remove_at(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let covers = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end && !span.is_empty();
    let mut hit = None;
    for (key, value) in table.iter_mut() {
        let inside = remove_in_value(value, span);
        if inside.is_some() {
            return inside;
        }
        if covers(key.span()) || covers(value.span()) {
            hit = Some(key.clone());
            break;
        }
    }
    let key = hit?;
    table.remove(&key);
    Some(key.get_ref().to_string())
}

fn remove_in_value(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => remove_at(table, span),
        DeValue::Array(array) => array.iter_mut().find_map(|item| remove_in_value(item, span)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        a: i32,
        b: Option<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct File {
        item: BTreeMap<Spanned<String>, Inner>,
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let errors = parse::<File>(text).map_or_else(|errors| errors, |_| Vec::new());
        let found: Vec<String> = errors
            .iter()
            .map(|error| format!("{} @ {}", error.message.split(',').next().unwrap(), &text[error.span.clone()]))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn finds_all() {
        check("[item.x]\na = 1", &[]);
        check(
            "[item.x]\na = 1\nq = 2\n[item.y]\na = 'no'\nr = 3\n[other]\n",
            &[
                "unknown field `q` @ q",
                "invalid type: string \"no\" @ 'no'",
                "unknown field `r` @ r",
                "unknown field `other` @ other",
            ],
        );
        check("[item.x]\nb = 'b'\n[item.y]\nz = 1", &[
            "missing field `a` @ [item.x]",
            "unknown field `z` @ z",
            "missing field `a` @ [item.y]",
        ]);
        check("a = = 1", &["extra `=` @ =", "unexpected key or value @ "]);
    }
}
