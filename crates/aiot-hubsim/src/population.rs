//! Devices that a release is for: made from its target conditions, so that a simulated fleet fits any workspace.

use aiot_iothub::Condition;
use aiot_iothub::condition::{Literal, Operator, Path};
use aiot_iothub::rollout::Declared;
use serde_json::{Map, Value, json};

use crate::fleet::{Behaviour, Fleet};

/// One device in so many is also in the next of the rings that tags define.
const RING_SHARE: usize = 10;

/// A fleet of `count` devices, spread over the declared deployments, some of them in each ring that tags define.
///
/// A condition that cannot be met by tags alone (`deviceId = …`, a `NOT`) gets no devices of its own.
pub fn population(declared: &Declared, count: usize) -> Fleet {
    let list = declared.list();
    let parsed = |text: &str| text.parse::<Condition>().ok();
    let mut kinds: Vec<(String, Value)> = Vec::new();
    for deployment in &list.deployments {
        if let Some(tags) = parsed(&deployment.devices).and_then(|condition| meeting(&condition))
            && !kinds.iter().any(|(_, known)| *known == tags)
        {
            kinds.push((deployment.target.clone(), tags));
        }
    }
    let rings: Vec<Value> = list
        .rings
        .iter()
        .filter_map(|ring| meeting(&parsed(ring.condition.as_deref()?)?))
        .collect();
    let mut fleet = Fleet::default();
    for number in 0..count {
        let Some((target, tags)) = kinds.get(number % kinds.len().max(1)) else {
            break;
        };
        let mut tags = tags.clone();
        // Rounds over all kinds, so that each ring has devices of each kind.
        let round = number / kinds.len();
        if let Some(ring) = rings.get(round % RING_SHARE) {
            lay_over(&mut tags, ring);
        }
        fleet.add(&format!("{target}-{number:05}"), tags, Behaviour::GOOD);
    }
    fleet
}

/// Tags that a condition is true for; none: it takes more than tags, or needs something to be missing.
fn meeting(condition: &Condition) -> Option<Value> {
    let mut tags = json!({});
    meet(condition, &mut tags)?;
    // A later part may have overwritten an earlier one.
    condition.matches("", &tags).then_some(tags)
}

fn meet(condition: &Condition, tags: &mut Value) -> Option<()> {
    match condition {
        Condition::All => Some(()),
        Condition::Compare {
            path: Path::Tag(keys),
            operator,
            value,
        } => {
            let value = match (operator, value) {
                (Operator::Equal | Operator::LessOrEqual | Operator::GreaterOrEqual, value) => plain(value),
                (Operator::Less, Literal::Number(number)) => json!(number - 1.0),
                (Operator::Greater, Literal::Number(number)) => json!(number + 1.0),
                (Operator::NotEqual, Literal::Text(text)) => json!(format!("not-{text}")),
                _ => return None,
            };
            set(tags, keys, value)
        }
        Condition::In {
            path: Path::Tag(keys),
            negated: false,
            values,
        } => set(tags, keys, plain(values.last()?)),
        Condition::IsDefined(Path::Tag(keys)) => set(tags, keys, json!(true)),
        Condition::And(parts) => parts.iter().try_for_each(|part| meet(part, tags)),
        Condition::Or(parts) => parts.iter().find_map(|part| {
            let mut tried = tags.clone();
            meet(part, &mut tried)?;
            *tags = tried;
            Some(())
        }),
        _ => None,
    }
}

fn plain(value: &Literal) -> Value {
    match value {
        Literal::Text(text) => json!(text),
        Literal::Number(number) => json!(number),
        Literal::Flag(flag) => json!(flag),
    }
}

fn set(tags: &mut Value, keys: &[String], value: Value) -> Option<()> {
    let (last, parents) = keys.split_last()?;
    let mut place = tags;
    for key in parents {
        place = place
            .as_object_mut()?
            .entry(key.clone())
            .or_insert_with(|| Value::Object(Map::new()));
    }
    place.as_object_mut()?.insert(last.clone(), value);
    Some(())
}

fn lay_over(tags: &mut Value, ring: &Value) {
    for (key, value) in ring.as_object().into_iter().flatten() {
        if let Some(tags) = tags.as_object_mut() {
            tags.insert(key.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_meet_conditions() {
        let check = |text: &str, expected: Option<Value>| {
            let condition: Condition = text.parse().expect(text);
            assert_eq!(meeting(&condition), expected, "{text}");
        };
        check("*", Some(json!({})));
        check(
            "tags.a = 'x' AND tags.b.c = true",
            Some(json!({"a": "x", "b": {"c": true}})),
        );
        check("tags.ring IN ['canary', 'early']", Some(json!({"ring": "early"})));
        check("deviceId = 'd' OR tags.wave < 5", Some(json!({"wave": 4.0})));
        check("tags.plant != 'b'", Some(json!({"plant": "not-b"})));
        check("is_defined(tags.lab)", Some(json!({"lab": true})));
        check("tags.a = 1 AND tags.a = 2", None);
        check("NOT is_defined(tags.a)", None);
    }
}
