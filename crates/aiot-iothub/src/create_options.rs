//! createOptions: the body of the container engine's create call, an object to people, string pieces in a manifest.
//!
//! In a manifest it is minified JSON, cut into `createOptions`, `createOptions01`, `createOptions02`, …, since a
//! twin value was once limited to 512 bytes. The edge agent sorts the pieces by name and joins them; a gap makes
//! it refuse the whole deployment. The official tools write and read at most eight pieces.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use thiserror::Error;

use crate::json::minified;

/// Largest piece in bytes.
pub const PIECE_LIMIT_BYTES: usize = 512;

/// Most pieces that every tool reads.
pub const PIECE_COUNT_LIMIT: usize = 8;

/// Why pieces cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CreateOptionsError {
    /// More than [`PIECE_COUNT_LIMIT`] pieces.
    #[error(
        "createOptions are {size_bytes} bytes of JSON, {pieces} pieces of {PIECE_LIMIT_BYTES} bytes; \
             at most {PIECE_COUNT_LIMIT} pieces are read by all tools: shorten them"
    )]
    TooLong {
        /// Length of the minified JSON in bytes.
        size_bytes: usize,
        /// Pieces that it would take.
        pieces: usize,
    },
    /// Number n does not follow n - 1, or the name is no piece's name.
    #[error("expected `{expected}`, found `{found}`: the edge agent refuses pieces with a gap")]
    Gap {
        /// The key that should come here.
        expected: String,
        /// The key that is there.
        found: String,
    },
    /// The joined text is not a JSON object.
    #[error("the joined pieces are not a JSON object: {0}")]
    NotAnObject(String),
}

/// Name of piece `index`, counted from 0.
fn piece_name(index: usize) -> String {
    if index == 0 {
        "createOptions".to_owned()
    } else {
        format!("createOptions{index:02}")
    }
}

/// Cuts `text` into pieces of at most [`PIECE_LIMIT_BYTES`] bytes that are valid UTF-8 each; at least one.
fn cut(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > PIECE_LIMIT_BYTES {
        let (piece, tail) = rest.split_at(rest.floor_char_boundary(PIECE_LIMIT_BYTES));
        pieces.push(piece);
        rest = tail;
    }
    if pieces.is_empty() || !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// The manifest's keys and values for `options`; `{}` for an empty object, which every tool takes.
///
/// # Errors
/// [`CreateOptionsError::TooLong`].
pub fn split(options: &Map<String, Value>) -> Result<BTreeMap<String, String>, CreateOptionsError> {
    let text = minified(&Value::Object(options.clone()));
    let pieces = cut(&text);
    if pieces.len() > PIECE_COUNT_LIMIT {
        return Err(CreateOptionsError::TooLong {
            size_bytes: text.len(),
            pieces: pieces.len(),
        });
    }
    Ok(pieces
        .into_iter()
        .enumerate()
        .map(|(index, piece)| (piece_name(index), piece.to_owned()))
        .collect())
}

/// The object that `pieces` (all keys of a module's settings that begin with createOptions) stand for.
///
/// No pieces, an empty text and `null` mean none, as for the edge agent; names are compared without case, as it does.
///
/// # Errors
/// [`CreateOptionsError::Gap`] and [`CreateOptionsError::NotAnObject`].
pub fn join(pieces: &BTreeMap<String, String>) -> Result<Map<String, Value>, CreateOptionsError> {
    let mut text = String::new();
    for (index, (name, piece)) in pieces.iter().enumerate() {
        let expected = piece_name(index);
        if !name.eq_ignore_ascii_case(&expected) {
            return Err(CreateOptionsError::Gap {
                expected,
                found: name.clone(),
            });
        }
        text.push_str(piece);
    }
    if text.is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(Value::Object(options)) => Ok(options),
        Ok(Value::Null) => Ok(Map::new()),
        Ok(_) => Err(CreateOptionsError::NotAnObject(
            "another kind of value".to_owned(),
        )),
        Err(error) => Err(CreateOptionsError::NotAnObject(error.to_string())),
    }
}

/// A module's options over its target's.
///
/// Objects are merged key by key. Lists are joined, the target's items first, without repetition: binds and devices
/// of the target stay although a module adds its own. For everything else the module's value stands.
pub fn overlay(target: &Map<String, Value>, module: &Map<String, Value>) -> Map<String, Value> {
    let mut result = target.clone();
    for (key, above) in module {
        match (result.get_mut(key), above) {
            (Some(Value::Object(below)), Value::Object(above)) => *below = overlay(below, above),
            (Some(Value::Array(below)), Value::Array(above)) => {
                for item in above {
                    if !below.contains(item) {
                        below.push(item.clone());
                    }
                }
            }
            _ => {
                result.insert(key.clone(), above.clone());
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => panic!("the test wants an object"),
        }
    }

    #[track_caller]
    fn check_overlay(target: Value, module: Value, expected: Value) {
        assert_eq!(overlay(&object(target), &object(module)), object(expected));
    }

    #[test]
    fn overlays() {
        check_overlay(json!({}), json!({}), json!({}));
        check_overlay(json!({"a": 1}), json!({"a": 2, "b": 3}), json!({"a": 2, "b": 3}));
        check_overlay(
            json!({"HostConfig": {"Runtime": "nvidia", "Binds": ["/a:/a", "/b:/b"]}}),
            json!({"HostConfig": {"Memory": 1, "Binds": ["/c:/c", "/a:/a"]}}),
            json!({"HostConfig": {"Runtime": "nvidia", "Memory": 1, "Binds": ["/a:/a", "/b:/b", "/c:/c"]}}),
        );
        check_overlay(json!({"a": {"b": 1}}), json!({"a": [1]}), json!({"a": [1]}));
    }

    #[test]
    fn an_overlay_twice_is_once() {
        let target = object(json!({"l": [1, 2], "o": {"x": 1}}));
        let module = object(json!({"l": [3], "o": {"y": 1}}));
        let once = overlay(&target, &module);
        assert_eq!(overlay(&target, &once), once);
    }

    #[test]
    fn nothing_is_an_empty_object() {
        assert_eq!(
            split(&Map::new()).unwrap(),
            BTreeMap::from([("createOptions".into(), "{}".into())])
        );
    }

    #[test]
    fn pieces_are_full_and_numbered() {
        // {"a":"…"} is 8 bytes around the text.
        for (length, count) in [(504, 1), (505, 2), (1016, 2), (1017, 3), (8 * 512 - 8, 8)] {
            let pieces = split(&object(json!({"a": "x".repeat(length)}))).unwrap();
            assert_eq!(pieces.len(), count, "{length}");
            let names: Vec<_> = (0..count).map(piece_name).collect();
            assert_eq!(pieces.keys().cloned().collect::<Vec<_>>(), names);
            assert!(pieces.values().rev().skip(1).all(|piece| piece.len() == 512));
        }
    }

    #[test]
    fn nine_pieces_are_one_too_many() {
        let error = split(&object(json!({"a": "x".repeat(8 * 512 - 7)}))).unwrap_err();
        assert_eq!(
            error,
            CreateOptionsError::TooLong {
                size_bytes: 4097,
                pieces: 9
            }
        );
    }

    #[test]
    fn joining_finds_gaps_and_other_values() {
        let pieces = |pairs: &[(&str, &str)]| {
            join(
                &pairs
                    .iter()
                    .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
                    .collect(),
            )
        };
        assert_eq!(pieces(&[]).unwrap(), Map::new());
        assert_eq!(pieces(&[("createOptions", "")]).unwrap(), Map::new());
        assert_eq!(pieces(&[("createOptions", "null")]).unwrap(), Map::new());
        assert_eq!(
            pieces(&[("createoptions", "{\"a\""), ("createoptions01", ":1}")]).unwrap()["a"],
            1
        );
        assert!(matches!(
            pieces(&[("createOptions01", "{}")]),
            Err(CreateOptionsError::Gap { .. })
        ));
        assert!(matches!(
            pieces(&[("createOptions", "{"), ("createOptions02", "}")]),
            Err(CreateOptionsError::Gap { expected, .. }) if expected == "createOptions01"
        ));
        assert!(matches!(
            pieces(&[("createOptions", "[]")]),
            Err(CreateOptionsError::NotAnObject(_))
        ));
        assert!(matches!(
            pieces(&[("createOptions", "{")]),
            Err(CreateOptionsError::NotAnObject(_))
        ));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_survives_cutting_and_joining(key in ".{0,20}", text in ".{0,900}") {
            let options = object(json!({ key: text }));
            if let Ok(pieces) = split(&options) {
                prop_assert!(pieces.values().all(|piece| piece.len() <= PIECE_LIMIT_BYTES));
                prop_assert_eq!(join(&pieces).unwrap(), options);
            }
        }

        #[test]
        fn cutting_loses_nothing(text in "(\\PC|[äß€😀]){0,1500}") {
            let pieces = cut(&text);
            prop_assert_eq!(pieces.concat(), text.clone());
            prop_assert!(pieces.iter().all(|piece| piece.len() <= PIECE_LIMIT_BYTES));
            // A boundary moves by three bytes at most.
            prop_assert!(pieces.len() <= text.len() / (PIECE_LIMIT_BYTES - 3) + 1);
        }
    }
}
