//! Target conditions: which devices a deployment is for, said over device twin tags.
//!
//! A small boolean language: `tags.ring = 'canary' AND NOT tags.plant IN ['a', 'b'] OR is_defined(tags.lab)`.
//! [`Condition`] is parsed with positions, printed in one canonical spelling (so that equal conditions are equal
//! text in committed files) and evaluated against one device. The hub also knows reported properties; they are
//! refused here, since a deployment that depends on what a device says of itself can flap (docs, deployment
//! monitoring: tags or deviceId).

mod evaluate;
pub(crate) mod overlap;
mod parse;

use std::fmt;
use std::str::FromStr;

use crate::syntax::SyntaxError;

/// A parsed target condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `*`: every device.
    All,
    /// `path = value` and its like.
    Compare {
        /// What is compared.
        path: Path,
        /// How.
        operator: Operator,
        /// With what.
        value: Literal,
    },
    /// `path IN [value, …]`, or `NIN`.
    In {
        /// What is looked for.
        path: Path,
        /// True for `NIN`.
        negated: bool,
        /// Where; at least one.
        values: Vec<Literal>,
    },
    /// `is_defined(path)`
    IsDefined(Path),
    /// `NOT x`
    Not(Box<Condition>),
    /// `x AND y AND …`; two or more, none of them an `And` itself.
    And(Vec<Condition>),
    /// `x OR y OR …`; two or more, none of them an `Or` itself.
    Or(Vec<Condition>),
}

/// What a condition may look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    /// `deviceId`
    DeviceId,
    /// `tags.a.b`: the keys after `tags`, at least one.
    Tag(Vec<String>),
}

/// Comparison operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `>`
    Greater,
    /// `<=`
    LessOrEqual,
    /// `>=`
    GreaterOrEqual,
}

impl Operator {
    fn as_str(self) -> &'static str {
        match self {
            Operator::Equal => "=",
            Operator::NotEqual => "!=",
            Operator::Less => "<",
            Operator::Greater => ">",
            Operator::LessOrEqual => "<=",
            Operator::GreaterOrEqual => ">=",
        }
    }
}

/// A constant of a condition.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `'text'`
    Text(String),
    /// A finite number.
    Number(f64),
    /// `true` or `false`
    Flag(bool),
}

impl Condition {
    /// Devices that match all of `conditions`; [`Condition::All`] for none. `*` and repetitions drop out.
    pub fn all_of(conditions: impl IntoIterator<Item = Condition>) -> Condition {
        let mut parts: Vec<Condition> = Vec::new();
        let mut push = |condition: Condition| {
            if !parts.contains(&condition) {
                parts.push(condition);
            }
        };
        for condition in conditions {
            match condition {
                Condition::All => {}
                Condition::And(inner) => inner.into_iter().for_each(&mut push),
                other => push(other),
            }
        }
        match parts.len() {
            0 => Condition::All,
            1 => parts.remove(0),
            _ => Condition::And(parts),
        }
    }

    /// Devices that match one of `conditions` or more; repetitions drop out, and [`Condition::All`] swallows the rest.
    ///
    /// `conditions` must not be empty: no device at all cannot be said as a condition.
    pub fn any_of(conditions: impl IntoIterator<Item = Condition>) -> Condition {
        let mut parts: Vec<Condition> = Vec::new();
        for condition in conditions {
            let inner = match condition {
                Condition::All => return Condition::All,
                Condition::Or(inner) => inner,
                other => vec![other],
            };
            for part in inner {
                if !parts.contains(&part) {
                    parts.push(part);
                }
            }
        }
        assert!(!parts.is_empty(), "no condition to join");
        if parts.len() == 1 {
            parts.remove(0)
        } else {
            Condition::Or(parts)
        }
    }

    /// Words of the condition for a file name: lower-case letters and digits joined by `-`, at most 40 characters.
    /// Different conditions may have the same slug.
    pub fn slug(&self) -> String {
        let mut text = self.to_string();
        for (symbol, word) in [
            ("!=", " not "),
            ("<=", " le "),
            (">=", " ge "),
            ("<", " lt "),
            (">", " gt "),
        ] {
            text = text.replace(symbol, word);
        }
        let lower = text.to_ascii_lowercase();
        let words: Vec<_> = lower
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty())
            .collect();
        let mut slug = words.join("-");
        slug.truncate(40);
        slug.truncate(slug.trim_end_matches('-').len());
        if slug.is_empty() { "all".to_owned() } else { slug }
    }
}

impl FromStr for Condition {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        parse::parse(text)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::All => f.write_str("*"),
            Condition::Compare {
                path,
                operator,
                value,
            } => write!(f, "{path} {} {value}", operator.as_str()),
            Condition::In {
                path,
                negated,
                values,
            } => {
                write!(f, "{path} {} [", if *negated { "NIN" } else { "IN" })?;
                for (index, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Condition::IsDefined(path) => write!(f, "is_defined({path})"),
            Condition::Not(inner) => match **inner {
                Condition::And(_) | Condition::Or(_) => write!(f, "NOT ({inner})"),
                _ => write!(f, "NOT {inner}"),
            },
            Condition::And(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { " AND " })?;
                    match part {
                        Condition::Or(_) => write!(f, "({part})")?,
                        _ => write!(f, "{part}")?,
                    }
                }
                Ok(())
            }
            Condition::Or(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    write!(f, "{}{part}", if index == 0 { "" } else { " OR " })?;
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::DeviceId => f.write_str("deviceId"),
            Path::Tag(keys) => write!(f, "tags.{}", keys.join(".")),
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Literal::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Literal::Number(number) => write!(f, "{number}"),
            Literal::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Condition {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn conditions_join() {
        let check = |parts: &[&str], expected: &str| {
            assert_eq!(
                Condition::all_of(parts.iter().map(|part| parsed(part))).to_string(),
                expected
            );
        };
        check(&[], "*");
        check(&["*", "*"], "*");
        check(&["*", "tags.a = 1"], "tags.a = 1");
        check(
            &["tags.a = 1", "tags.b = 2 OR tags.c = 3"],
            "tags.a = 1 AND (tags.b = 2 OR tags.c = 3)",
        );
        check(
            &["tags.a = 1 AND tags.b = 2", "tags.b = 2 AND tags.c = 3"],
            "tags.a = 1 AND tags.b = 2 AND tags.c = 3",
        );
    }

    #[test]
    fn alternatives_join() {
        let check = |parts: &[&str], expected: &str| {
            assert_eq!(
                Condition::any_of(parts.iter().map(|part| parsed(part))).to_string(),
                expected
            );
        };
        check(&["tags.a = 1", "*"], "*");
        check(&["tags.a = 1", "tags.a = 1"], "tags.a = 1");
        check(
            &["tags.a = 1", "tags.b = 2 OR tags.a = 1"],
            "tags.a = 1 OR tags.b = 2",
        );
        check(
            &["tags.a = 1 AND tags.c = 3", "tags.b = 2"],
            "tags.a = 1 AND tags.c = 3 OR tags.b = 2",
        );
    }

    #[test]
    fn slugs_are_file_names() {
        let check = |text: &str, expected: &str| assert_eq!(parsed(text).slug(), expected);
        check("*", "all");
        check(
            "tags.plant = 'Berlin 2'".replace(' ', "").as_str(),
            "tags-plant-berlin2",
        );
        check("tags.plant != 'b'", "tags-plant-not-b");
        check("NOT tags.speed >= 3", "not-tags-speed-ge-3");
        check("tags.plant IN ['a', 'b']", "tags-plant-in-a-b");
        check("tags.a = 'ü'", "tags-a");
        let long = parsed(&format!("tags.a = '{}'", "x-".repeat(40))).slug();
        assert!(long.len() <= 40 && !long.ends_with('-'), "{long}");
    }
}
