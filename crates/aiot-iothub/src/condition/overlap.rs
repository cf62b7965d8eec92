//! Which conditions one device can match at the same time.
//!
//! A device has one value per tag, so `tags.site = 'a'` and `tags.site = 'b'` never meet. Only that is used:
//! equality and `IN`, joined by AND and OR. Everything else may match any device, so the answer errs towards more
//! conditions together, never towards fewer.

use std::collections::BTreeMap;

use super::{Condition, Literal, Operator, Path};

/// Most groups that are told apart; a tag that would make more is not looked at.
const GROUP_LIMIT: usize = 512;

/// Groups of positions in `conditions`: whichever of them a device matches, one group has them all. Each position is
/// in a group, no group is part of another, and the order is fixed.
pub(crate) fn groups(conditions: &[Condition]) -> Vec<Vec<usize>> {
    let mut paths: BTreeMap<String, Vec<Option<Vec<Literal>>>> = BTreeMap::new();
    for path in conditions.iter().flat_map(compared_paths) {
        paths.entry(path.to_string()).or_insert_with(|| {
            conditions
                .iter()
                .map(|condition| values(condition, path))
                .collect()
        });
    }
    // The tags that say most about the most conditions first, so that the limit cuts the others.
    let mut paths: Vec<_> = paths.into_iter().collect();
    paths.sort_by_key(|(name, allowed)| {
        (
            allowed.iter().filter(|values| values.is_none()).count(),
            name.clone(),
        )
    });
    let mut groups: Vec<Vec<usize>> = vec![(0..conditions.len()).collect()];
    for (_, allowed) in &paths {
        let mut finer = Vec::new();
        for group in &groups {
            split(group, allowed, &mut finer);
        }
        finer = maximal(finer);
        if finer.len() <= GROUP_LIMIT {
            groups = finer;
        }
    }
    groups
}

/// `group` by the value of one tag: one part per value that a condition wants, each with those that want no value.
fn split(group: &[usize], allowed: &[Option<Vec<Literal>>], parts: &mut Vec<Vec<usize>>) {
    let mut wanted: Vec<&Literal> = Vec::new();
    for value in group
        .iter()
        .filter_map(|index| allowed[*index].as_ref())
        .flatten()
    {
        if !wanted.iter().any(|known| same(known, value)) {
            wanted.push(value);
        }
    }
    if wanted.is_empty() {
        parts.push(group.to_vec());
    }
    for value in wanted {
        let takes = |index: &&usize| {
            allowed[**index]
                .as_ref()
                .is_none_or(|values| values.iter().any(|allowed| same(allowed, value)))
        };
        parts.push(group.iter().filter(takes).copied().collect());
    }
}

/// The groups that are no part of another.
fn maximal(mut groups: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
    groups.sort();
    groups.dedup();
    let is_part = |small: &[usize], large: &[usize]| {
        small.len() < large.len() && small.iter().all(|index| large.binary_search(index).is_ok())
    };
    let keep: Vec<bool> = groups
        .iter()
        .map(|group| !groups.iter().any(|other| is_part(group, other)))
        .collect();
    let mut keep = keep.into_iter();
    groups.retain(|_| keep.next().unwrap_or(true));
    groups
}

/// The paths whose value a condition compares for equality, outside of `NOT`.
fn compared_paths(condition: &Condition) -> Vec<&Path> {
    match condition {
        Condition::Compare {
            path,
            operator: Operator::Equal,
            ..
        }
        | Condition::In {
            path, negated: false, ..
        } => {
            vec![path]
        }
        Condition::And(parts) | Condition::Or(parts) => parts.iter().flat_map(compared_paths).collect(),
        _ => Vec::new(),
    }
}

/// The values that `path` can have on a device that matches; `None` = any, or none at all.
///
/// Values that contradict each other (`a = 1 AND a = 2`, which no device matches) count as any, so that what is
/// never deployed is still checked.
fn values(condition: &Condition, wanted: &Path) -> Option<Vec<Literal>> {
    match condition {
        Condition::Compare {
            path,
            operator: Operator::Equal,
            value,
        } if path == wanted => Some(vec![value.clone()]),
        Condition::In {
            path,
            negated: false,
            values,
        } if path == wanted => Some(values.clone()),
        Condition::And(parts) => {
            let mut common: Option<Vec<Literal>> = None;
            for values in parts.iter().filter_map(|part| values(part, wanted)) {
                common = Some(match common {
                    None => values,
                    Some(common) => common
                        .into_iter()
                        .filter(|value| values.iter().any(|other| same(other, value)))
                        .collect(),
                });
            }
            common.filter(|values| !values.is_empty())
        }
        Condition::Or(parts) => {
            let all: Option<Vec<Vec<Literal>>> = parts.iter().map(|part| values(part, wanted)).collect();
            all.map(|lists| lists.into_iter().flatten().collect())
        }
        _ => None,
    }
}

/// Whether one tag can be equal to both. Texts that differ only in case count as one: a hub may see them so.
fn same(a: &Literal, b: &Literal) -> bool {
    match (a, b) {
        (Literal::Text(a), Literal::Text(b)) => a.to_lowercase() == b.to_lowercase(),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(conditions: &[&str], expected: &[&[usize]]) {
        let conditions: Vec<Condition> = conditions.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(groups(&conditions), expected);
    }

    #[test]
    fn one_value_per_tag() {
        check(&[], &[&[]]);
        check(&["*"], &[&[0]]);
        check(&["*", "tags.a = 1"], &[&[0, 1]]);
        check(&["tags.a = 1", "tags.a = 2", "*"], &[&[0, 2], &[1, 2]]);
        check(&["tags.a = 1", "tags.b = 2"], &[&[0, 1]]);
        check(
            &["tags.a IN [1, 2]", "tags.a = 2", "tags.a = 3"],
            &[&[0, 1], &[2]],
        );
        check(
            &["tags.a = 1 AND tags.b = 1", "tags.b = 2", "tags.a = 1"],
            &[&[0, 2], &[1, 2]],
        );
        check(
            &["tags.a = 1 OR tags.a = 2", "tags.a = 2", "tags.a = 3"],
            &[&[0, 1], &[2]],
        );
        check(&["deviceId = 'x'", "deviceId = 'y'"], &[&[0], &[1]]);
        check(&["tags.a = 'x'", "tags.a = 1"], &[&[0], &[1]]);
    }

    #[test]
    fn what_is_not_sure_stays_together() {
        check(&["tags.a = 1", "tags.a != 1"], &[&[0, 1]]);
        check(&["tags.a = 1", "NOT tags.a = 1"], &[&[0, 1]]);
        check(&["tags.a < 1", "tags.a > 1"], &[&[0, 1]]);
        check(&["tags.a = 1", "tags.a NIN [1]"], &[&[0, 1]]);
        check(&["tags.a = 1", "tags.a = 2 OR tags.b = 1"], &[&[0, 1]]);
        check(&["tags.a = 'x'", "tags.a = 'X'"], &[&[0, 1]]);
        check(&["tags.a = 1 AND tags.a = 2", "tags.a = 1"], &[&[0, 1]]);
    }

    #[test]
    fn many_values_are_bounded() {
        let sites: Vec<Condition> = (0..40)
            .map(|n| format!("tags.site = 's{n}'").parse().unwrap())
            .collect();
        assert_eq!(groups(&sites).len(), 40);
        // 40 × 40 would be beyond the limit: one of the tags is not looked at, and no condition gets lost.
        let both = sites
            .iter()
            .cloned()
            .chain((0..40).map(|n| format!("tags.line = {n}").parse().unwrap()));
        let groups = groups(&both.collect::<Vec<_>>());
        assert_eq!(groups.len(), 40);
        assert!(groups.iter().all(|group| group.len() == 41), "{groups:?}");
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        let path = prop_oneof![Just("a"), Just("b")].prop_map(|key| Path::Tag(vec![key.to_owned()]));
        let value = (0..3u8).prop_map(|number| Literal::Number(f64::from(number)));
        let operators = prop_oneof![
            Just(Operator::Equal),
            Just(Operator::NotEqual),
            Just(Operator::Less)
        ];
        let leaf = prop_oneof![
            Just(Condition::All),
            (path.clone(), operators, value.clone()).prop_map(|(path, operator, value)| Condition::Compare {
                path,
                operator,
                value
            }),
            (path.clone(), any::<bool>(), prop::collection::vec(value, 1..3)).prop_map(
                |(path, negated, values)| Condition::In {
                    path,
                    negated,
                    values
                }
            ),
            path.prop_map(Condition::IsDefined),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                inner.clone().prop_map(|inner| Condition::Not(Box::new(inner))),
                prop::collection::vec(inner.clone(), 2..4).prop_map(Condition::And),
                prop::collection::vec(inner, 2..4).prop_map(Condition::Or),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever device: all that it matches stands in one group.
        #[test]
        fn no_device_is_forgotten(conditions in prop::collection::vec(any_condition(), 0..6)) {
            let groups = groups(&conditions);
            prop_assert!((0..conditions.len()).all(|index| groups.iter().any(|group| group.contains(&index))));
            for a in [json!(null), json!(0), json!(1), json!(2), json!(3), json!("x")] {
                for b in [json!(null), json!(0), json!(1), json!(2)] {
                    let tags = json!({"a": a, "b": b});
                    let matched: Vec<usize> =
                        (0..conditions.len()).filter(|&index| conditions[index].matches("d", &tags)).collect();
                    let together = groups.iter().any(|group| matched.iter().all(|index| group.contains(index)));
                    prop_assert!(together, "{tags}: {matched:?} in {groups:?}");
                }
            }
        }
    }
}
