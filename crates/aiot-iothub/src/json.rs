//! JSON with one spelling per value: keys sorted, two spaces, final newline.
//!
//! Keys are sorted here and not left to the map type, since another crate of a build may switch serde_json's maps
//! to insertion order.

use serde_json::{Map, Value};

/// Readable form for committed files, with a final newline.
pub fn pretty(value: &Value) -> Vec<u8> {
    let mut bytes = format!("{:#}", sorted(value)).into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Shortest form, as it goes into createOptions.
pub fn minified(value: &Value) -> String {
    sorted(value).to_string()
}

/// The same value with the keys of all objects in byte order.
///
/// Recursion is bounded by the value: serde_json reads at most 128 levels.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.clone(), sorted(value)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_sorted_at_every_level_and_lists_are_not() {
        let value = json!({"b": [{"d": 1, "c": "ü"}, 0], "a": {}});
        assert_eq!(minified(&value), r#"{"a":{},"b":[{"c":"ü","d":1},0]}"#);
        assert_eq!(
            String::from_utf8(pretty(&json!({"b": 1, "a": true}))).unwrap(),
            "{\n  \"a\": true,\n  \"b\": 1\n}\n"
        );
    }
}
