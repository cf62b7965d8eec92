//! Dependency fields: `a (>= 1), b | c:any` → alternatives of relations.
//!
//! Used for `Depends`, `Pre-Depends` and `Provides`. Build profiles and architecture lists do not occur in binary
//! packages and are refused. Source: Debian Policy 7.1.

use std::cmp::Ordering;
use std::fmt;

use crate::version::compare_versions;

/// How a version must relate to the one in the constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=` (and the old `<`)
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=` (and the old `>`)
    LaterOrEqual,
    /// `>>`
    Later,
}

/// `(>= 2.38)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    /// The relation.
    pub operator: Operator,
    /// The version on its right side.
    pub version: String,
}

impl Constraint {
    /// Whether `version` satisfies the constraint.
    pub fn accepts(&self, version: &str) -> bool {
        let ordering = compare_versions(version, &self.version);
        match self.operator {
            Operator::Earlier => ordering == Ordering::Less,
            Operator::EarlierOrEqual => ordering != Ordering::Greater,
            Operator::Equal => ordering == Ordering::Equal,
            Operator::LaterOrEqual => ordering != Ordering::Less,
            Operator::Later => ordering == Ordering::Greater,
        }
    }
}

/// One package name with what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// A package or a virtual package.
    pub name: String,
    /// `any`, `native` or an architecture, where the field has one.
    pub qualifier: Option<String>,
    /// The versions that will do; none = all.
    pub constraint: Option<Constraint>,
}

/// Relations of which one must hold: `a | b`.
pub type Alternatives = Vec<Relation>;

/// A dependency field that does not follow the policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{relation}` is not a package relation: {reason}")]
pub struct DependencyError {
    /// The relation as written.
    pub relation: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Parses a dependency field. Empty elements (a trailing comma) are skipped, as dpkg does.
///
/// # Errors
/// [`DependencyError`], with the first relation that is not one.
pub fn parse_dependencies(field: &str) -> Result<Vec<Alternatives>, DependencyError> {
    field
        .split(',')
        .filter(|group| !group.trim().is_empty())
        .map(|group| group.split('|').map(parse_relation).collect())
        .collect()
}

fn parse_relation(text: &str) -> Result<Relation, DependencyError> {
    let text = text.trim();
    let error = |reason| DependencyError {
        relation: text.chars().take(200).collect(),
        reason,
    };
    let (left, constraint) = match text.split_once('(') {
        None => (text, None),
        Some((left, rest)) => {
            let inner = rest
                .strip_suffix(')')
                .ok_or_else(|| error("text after the version or no `)`"))?;
            (
                left.trim_end(),
                Some(parse_constraint(inner.trim()).map_err(error)?),
            )
        }
    };
    let (name, qualifier) = match left.split_once(':') {
        None => (left, None),
        Some((name, qualifier)) => (name, Some(qualifier)),
    };
    if !is_package_name(name) {
        return Err(error("not a package name"));
    }
    if qualifier.is_some_and(|qualifier| !is_package_name(qualifier)) {
        return Err(error("not an architecture after the `:`"));
    }
    Ok(Relation {
        name: name.to_string(),
        qualifier: qualifier.map(str::to_string),
        constraint,
    })
}

fn parse_constraint(text: &str) -> Result<Constraint, &'static str> {
    // Longest first: `>` is a prefix of `>=`.
    let operators = [
        ("<<", Operator::Earlier),
        ("<=", Operator::EarlierOrEqual),
        (">=", Operator::LaterOrEqual),
        (">>", Operator::Later),
        ("=", Operator::Equal),
        ("<", Operator::EarlierOrEqual),
        (">", Operator::LaterOrEqual),
    ];
    let (operator, version) = operators
        .into_iter()
        .find_map(|(sign, operator)| Some((operator, text.strip_prefix(sign)?.trim())))
        .ok_or("no operator before the version")?;
    if version.is_empty() || version.contains(char::is_whitespace) {
        return Err("not one version in the parentheses");
    }
    Ok(Constraint {
        operator,
        version: version.to_string(),
    })
}

/// Letters, digits, `+ - .`, beginning with a letter or digit. Upper case never occurs in Debian.
pub(crate) fn is_package_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte))
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(qualifier) = &self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some(constraint) = &self.constraint {
            let sign = match constraint.operator {
                Operator::Earlier => "<<",
                Operator::EarlierOrEqual => "<=",
                Operator::Equal => "=",
                Operator::LaterOrEqual => ">=",
                Operator::Later => ">>",
            };
            write!(f, " ({sign} {})", constraint.version)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parses `field` and shows it again in the normal form; errors as `error: reason`.
    fn shown(field: &str) -> String {
        match parse_dependencies(field) {
            Err(error) => format!("error: {}", error.reason),
            Ok(groups) => groups
                .iter()
                .map(|group| {
                    group
                        .iter()
                        .map(Relation::to_string)
                        .collect::<Vec<_>>()
                        .join(" | ")
                })
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    #[test]
    fn parses_fields() {
        for (field, expected) in [
            ("", ""),
            ("libc6", "libc6"),
            ("libc6 (>= 2.38), libgcc-s1", "libc6 (>= 2.38), libgcc-s1"),
            ("libc6(>=2.38)", "libc6 (>= 2.38)"),
            ("libc6 ( >= 2.38 )", "libc6 (>= 2.38)"),
            (
                "a (< 1), b (> 1), c (= 1:2-3~4)",
                "a (<= 1), b (>= 1), c (= 1:2-3~4)",
            ),
            ("a (<< 1), b (>> 1), c (<= 1)", "a (<< 1), b (>> 1), c (<= 1)"),
            ("debconf (>= 0.5) | debconf-2.0", "debconf (>= 0.5) | debconf-2.0"),
            ("python3:any (>= 3)", "python3:any (>= 3)"),
            ("a,\n b\n ,", "a, b"),
            ("libstdc++6", "libstdc++6"),
            ("a |", "error: not a package name"),
            ("a b", "error: not a package name"),
            ("../x", "error: not a package name"),
            ("a (1)", "error: no operator before the version"),
            ("a (>= )", "error: not one version in the parentheses"),
            ("a (>= 1", "error: text after the version or no `)`"),
            ("a (>= 1) [amd64]", "error: text after the version or no `)`"),
            ("a: (>= 1)", "error: not an architecture after the `:`"),
        ] {
            assert_eq!(shown(field), expected, "{field:?}");
        }
    }

    #[test]
    fn constraints_accept() {
        for (constraint, version, expected) in [
            ("<< 2", "2~", true),
            ("<< 2", "2", false),
            ("<= 2", "2", true),
            ("= 2", "2-0", true),
            ("= 2", "2-1", false),
            (">= 2", "1:0", true),
            (">> 2", "2", false),
            (">> 2", "2.0.1", true),
        ] {
            let accepts = parse_constraint(constraint).unwrap().accepts(version);
            assert_eq!(accepts, expected, "{version} {constraint}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(field in "[a-z()<>=:|, 0-9é\\[\\]]*") {
            let _ = parse_dependencies(&field);
        }
    }
}
