//! TOML text → spanned structs, with every error of the file instead of the first only.
//!
//! serde stops at the first error. So the entry at fault is taken out of the parsed document and the rest is tried
//! again, until nothing is left to complain about. What comes out then is the file without the entities (a model, a
//! target) that had an error, so that mistakes in the meaning of the others are told in the same run.

use std::collections::BTreeSet;
use std::ops::Range;

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use crate::diagnose::nearest;

/// More errors than this in one file help nobody.
const MAX_ERRORS: usize = 50;

/// Each entry that is taken out costs another pass over the file.
const MAX_REMOVED: usize = 200;

/// One error of the text's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// What serde or the parser said.
    pub message: String,
    /// Where.
    pub span: Range<usize>,
}

/// What could be read of a file.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The file without its broken entities; `None` where nothing of it can be read.
    pub value: Option<T>,
    /// All errors of form: TOML syntax, or unknown keys, wrong types and missing keys.
    pub errors: Vec<SyntaxError>,
    /// Names of entities (`x` of `[model.x]`) that had an error.
    pub broken: BTreeSet<String>,
}

/// Parses `text` as `T`, a struct of maps from names to entities.
pub fn parse<T: DeserializeOwned>(text: &str) -> Parsed<T> {
    let mut parsed = Parsed {
        value: None,
        errors: Vec::new(),
        broken: BTreeSet::new(),
    };
    let (table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        parsed.errors = syntax.iter().take(MAX_ERRORS).map(error).collect();
        return parsed;
    }
    let mut rest = table.clone();
    let mut removed: Vec<Removed> = Vec::new();
    let mut entities: BTreeSet<KeyPath> = BTreeSet::new();
    let value = loop {
        let failure = match T::deserialize(Deserializer::from(rest.clone())) {
            Ok(value) => break value,
            Err(failure) => error(&failure),
        };
        let path = find(rest.get_ref(), &failure.span);
        if !is_consequence(&failure, &removed) {
            parsed.errors.push(failure);
        }
        let Some(path) = path else { return parsed };
        if parsed.errors.len() >= MAX_ERRORS || removed.len() >= MAX_REMOVED {
            return parsed;
        }
        match remove(rest.get_mut(), 0..0, &path) {
            Some(entry) => removed.push(entry),
            None => return parsed,
        }
        entities.extend(path.get(..2).map(<[String]>::to_vec));
    };
    parsed.broken = entities.iter().map(|path| path[1].clone()).collect();
    // What is left of a broken entity is not what anybody wrote.
    for path in &entities {
        remove(rest.get_mut(), 0..0, path);
    }
    parsed.value = match entities.is_empty() {
        true => Some(value),
        false => T::deserialize(Deserializer::from(rest)).ok(),
    };
    parsed
}

/// Keys from the root to an entry; an element of an array counts by its number.
type KeyPath = Vec<String>;

/// An entry that was taken out.
struct Removed {
    key: String,
    /// Where its table is.
    table: Range<usize>,
}

/// Whether a table only fails because something was taken out of it before.
fn is_consequence(failure: &SyntaxError, removed: &[Removed]) -> bool {
    let mut gone = removed
        .iter()
        .filter(|entry| entry.table == failure.span)
        .map(|entry| entry.key.as_str());
    match failure
        .message
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
    {
        // Gone, or misspelt and told already.
        Some(missing) => gone.any(|key| nearest(key, [missing].into_iter()).is_some()),
        // An enum whose only key was wrong.
        None => failure.message.starts_with("wanted exactly 1 element") && gone.next().is_some(),
    }
}

fn error(error: &toml::de::Error) -> SyntaxError {
    SyntaxError {
        message: error.message().trim().to_owned(),
        span: error.span().unwrap_or(0..0),
    }
}

/// The entry at fault: the outermost whose key or value is exactly at `span` (a table that is only implied by the
/// header of another lies within that one's span), else the innermost that covers it.
fn find(table: &DeTable<'_>, span: &Range<usize>) -> Option<KeyPath> {
    if span.is_empty() {
        return None;
    }
    let exact = |entry: &Range<usize>| entry == span;
    let covers = |entry: &Range<usize>| entry.start <= span.start && span.end <= entry.end;
    find_in_table(table, &exact, true).or_else(|| find_in_table(table, &covers, false))
}

fn find_in_table(
    table: &DeTable<'_>,
    fits: &dyn Fn(&Range<usize>) -> bool,
    outermost: bool,
) -> Option<KeyPath> {
    table.iter().find_map(|(key, value)| {
        let own = || (fits(&key.span()) || fits(&value.span())).then(Vec::new);
        let mut path = search(value, fits, outermost, &own)?;
        path.insert(0, key.get_ref().to_string());
        Some(path)
    })
}

fn search(
    value: &Spanned<DeValue<'_>>,
    fits: &dyn Fn(&Range<usize>) -> bool,
    outermost: bool,
    own: &dyn Fn() -> Option<KeyPath>,
) -> Option<KeyPath> {
    let inner = || match value.get_ref() {
        DeValue::Table(table) => find_in_table(table, fits, outermost),
        DeValue::Array(array) => array.iter().enumerate().find_map(|(index, item)| {
            let mut path = search(item, fits, outermost, &|| fits(&item.span()).then(Vec::new))?;
            path.insert(0, index.to_string());
            Some(path)
        }),
        _ => None,
    };
    if outermost {
        own().or_else(inner)
    } else {
        inner().or_else(own)
    }
}

/// Takes out the entry at `path`; `span` is where `table` is.
fn remove(table: &mut DeTable<'_>, span: Range<usize>, path: &[String]) -> Option<Removed> {
    let (key, rest) = path.split_first()?;
    let found = table
        .keys()
        .find(|known| known.get_ref() == key.as_str())
        .cloned()?;
    if !rest.is_empty() {
        return remove_in_value(table.get_mut(&found)?, rest);
    }
    table.remove(&found);
    Some(Removed {
        key: key.clone(),
        table: span,
    })
}

fn remove_in_value(value: &mut Spanned<DeValue<'_>>, path: &[String]) -> Option<Removed> {
    let span = value.span();
    match value.get_mut() {
        DeValue::Table(table) => remove(table, span, path),
        DeValue::Array(array) => {
            let (key, rest) = path.split_first()?;
            let index: usize = key.parse().ok()?;
            if !rest.is_empty() {
                return remove_in_value(array.get_mut(index)?, rest);
            }
            *array = array
                .iter()
                .enumerate()
                .filter(|(n, _)| *n != index)
                .map(|(_, item)| item.clone())
                .collect();
            Some(Removed {
                key: key.clone(),
                table: span,
            })
        }
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
        #[serde(default)]
        item: BTreeMap<Spanned<String>, Inner>,
        #[serde(default)]
        list: Vec<Inner>,
    }

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let errors = parse::<File>(text).errors;
        let found: Vec<String> = errors
            .iter()
            .map(|error| {
                format!(
                    "{} @ {}",
                    error.message.split(',').next().unwrap(),
                    &text[error.span.clone()]
                )
            })
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
        check(
            "[item.x]\nb = 'b'\n[item.y]\nz = 1",
            &[
                "missing field `a` @ [item.x]",
                "unknown field `z` @ z",
                "missing field `a` @ [item.y]",
            ],
        );
        // One mistake is told once: what follows from it is not.
        check(
            "[item.x]\na = 1\nc = 2\n[item.y]\naa = 1\n[item.z]\nb = ''",
            &[
                "unknown field `c` @ c",
                "unknown field `aa` @ aa",
                "missing field `a` @ [item.z]",
            ],
        );
        check(
            "[item.x.q]\n[item]\ny.a = 1",
            &["unknown field `q` @ q", "missing field `a` @ x"],
        );
        check(
            "list = [{ a = 1 }, { a = '' }, { q = 1 }]",
            &[
                "invalid type: string \"\" @ ''",
                "unknown field `q` @ q",
                "missing field `a` @ { q = 1 }",
            ],
        );
        check(
            "[[list]]\na = 1\n[[list]]\nA = 1\n[[list]]\naa = 2\n",
            &[
                "unknown field `A` @ A",
                "missing field `a` @ [[list]]",
                "unknown field `aa` @ aa",
            ],
        );
        check(
            "list = [1, { a = 1 }, 2]",
            &["invalid type: integer `1` @ 1", "invalid type: integer `2` @ 2"],
        );
        check("a = = 1", &["extra `=` @ =", "unexpected key or value @ "]);
    }

    #[test]
    fn what_is_right_remains() {
        let left = |text: &str| {
            let parsed = parse::<File>(text);
            let names: Option<Vec<String>> = parsed
                .value
                .map(|file| file.item.keys().map(|name| name.get_ref().clone()).collect());
            (names, parsed.broken.into_iter().collect::<Vec<_>>())
        };
        let some = |names: &[&str]| Some(names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        assert_eq!(left("[item.x]\na = 1"), (some(&["x"]), vec![]));
        assert_eq!(
            left("[item.x]\na = 1\nb = 2\nq = 1\n[item.y]\na = 1\n[other]\n"),
            (some(&["y"]), vec!["x".to_owned()])
        );
        assert_eq!(
            left("[item.x]\n[item.y]\na = 1"),
            (some(&["y"]), vec!["x".to_owned()])
        );
        assert_eq!(left("item = 3"), (some(&[]), vec![]));
        assert_eq!(left("a = = 1"), (None, vec![]));
    }
}
