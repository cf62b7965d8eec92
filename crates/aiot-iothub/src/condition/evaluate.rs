//! Does a device match?
//!
//! As in the hub's query language, a comparison with something missing is neither true nor false: `tags.a != 'x'`
//! does not match a device without the tag, and neither does `NOT tags.a = 'x'`. The same holds between values of
//! different kinds. (The docs give `is_defined` for the first; the second is inferred from the query language that
//! the hub's is a subset of.)

use serde_json::Value;

use super::{Condition, Literal, Operator, Path};

impl Condition {
    /// True if the hub would target the device. `tags`: the `tags` object of its device twin.
    pub fn matches(&self, device_id: &str, tags: &Value) -> bool {
        self.evaluate(device_id, tags) == Some(true)
    }

    /// None: undefined.
    fn evaluate(&self, device_id: &str, tags: &Value) -> Option<bool> {
        match self {
            Condition::All => Some(true),
            Condition::Compare {
                path,
                operator,
                value,
            } => compare(&path.value(device_id, tags)?, *operator, value),
            Condition::In {
                path,
                negated,
                values,
            } => {
                let found = path.value(device_id, tags)?;
                let contained = values
                    .iter()
                    .any(|value| compare(&found, Operator::Equal, value) == Some(true));
                Some(contained != *negated)
            }
            Condition::IsDefined(path) => Some(path.value(device_id, tags).is_some()),
            Condition::Not(inner) => inner.evaluate(device_id, tags).map(|value| !value),
            Condition::And(parts) => decide(parts, false, device_id, tags),
            Condition::Or(parts) => decide(parts, true, device_id, tags),
        }
    }
}

/// `deciding` if one part is it, undefined if one is undefined, the opposite otherwise.
fn decide(parts: &[Condition], deciding: bool, device_id: &str, tags: &Value) -> Option<bool> {
    let mut result = Some(!deciding);
    for part in parts {
        match part.evaluate(device_id, tags) {
            Some(value) if value == deciding => return Some(deciding),
            Some(_) => {}
            None => result = None,
        }
    }
    result
}

fn compare(found: &Value, operator: Operator, wanted: &Literal) -> Option<bool> {
    let ordering = match (found, wanted) {
        (Value::String(found), Literal::Text(wanted)) => found.as_str().cmp(wanted.as_str()),
        (Value::Number(found), Literal::Number(wanted)) => found.as_f64()?.partial_cmp(wanted)?,
        (Value::Bool(found), Literal::Flag(wanted)) => found.cmp(wanted),
        _ => return None,
    };
    Some(match operator {
        Operator::Equal => ordering.is_eq(),
        Operator::NotEqual => ordering.is_ne(),
        Operator::Less => ordering.is_lt(),
        Operator::Greater => ordering.is_gt(),
        Operator::LessOrEqual => ordering.is_le(),
        Operator::GreaterOrEqual => ordering.is_ge(),
    })
}

impl Path {
    fn value(&self, device_id: &str, tags: &Value) -> Option<Value> {
        match self {
            Path::DeviceId => Some(Value::String(device_id.to_owned())),
            Path::Tag(keys) => keys
                .iter()
                .try_fold(tags, |value, key| value.get(key))
                .filter(|value| !value.is_null())
                .cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices() {
        let tags = json!({
            "class": "rpi", "ring": "canary", "wave": 7, "lab": true, "site": {"plant": "a"}, "none": null
        });
        let check = |text: &str, expected: bool| {
            let condition: Condition = text.parse().unwrap();
            assert_eq!(condition.matches("dev1", &tags), expected, "{text}");
        };
        check("*", true);
        check("deviceId = 'dev1'", true);
        check("deviceId IN ['dev2', 'dev3']", false);
        check("tags.class = 'rpi'", true);
        check("tags.class = 'RPI'", false);
        check("tags.site.plant = 'a' AND tags.wave < 10", true);
        check(
            "tags.wave <= 7 AND tags.wave >= 7 AND NOT tags.wave > 7 AND NOT tags.wave < 7",
            true,
        );
        check("tags.wave != 7", false);
        check("tags.lab = true", true);
        check("tags.ring NIN ['canary', 'early']", false);
        check("tags.ring NIN ['early', 1]", true);
        check("is_defined(tags.site.plant)", true);
        check("is_defined(tags.none)", false);
        check("NOT is_defined(tags.gone)", true);
        check("tags.class = 'x' OR tags.ring = 'canary'", true);
        check(
            "tags.class = 'x' AND tags.ring = 'canary' OR tags.lab = true",
            true,
        );
        check(
            "tags.class = 'x' AND (tags.ring = 'canary' OR tags.lab = true)",
            false,
        );
        // Undefined is neither.
        check("tags.gone != 'x'", false);
        check("NOT tags.gone = 'x'", false);
        check("tags.gone NIN ['x']", false);
        check("tags.gone = 'x' OR tags.lab = true", true);
        check("NOT (tags.gone = 'x' AND tags.lab = false)", true);
        check("NOT (tags.gone = 'x' OR tags.lab = false)", false);
        check("tags.wave != 'x'", false);
        check("tags.site.plant.deeper = 1", false);
    }
}
