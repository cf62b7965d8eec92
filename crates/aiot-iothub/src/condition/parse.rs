//! Text → [`Condition`].
//!
//! `or = and {"OR" and}`, `and = not {"AND" not}`, `not = "NOT" not | primary`,
//! `primary = "(" or ")" | "is_defined" "(" path ")" | path operator literal | path ("IN" | "NIN") "[" literals "]"`.
//! Keywords in any case.

use super::{Condition, Literal, Operator, Path};
use crate::syntax::{NESTING_LIMIT, SyntaxError, TEXT_LIMIT_BYTES};

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Open,
    Close,
    OpenList,
    CloseList,
    Comma,
    Operator(Operator),
    Text(String),
    Number(f64),
    /// Letters, digits, `_` and `.`: a keyword or a path.
    Word(String),
}

pub(super) fn parse(text: &str) -> Result<Condition, SyntaxError> {
    if text.len() > TEXT_LIMIT_BYTES {
        let problem = format!("the condition is {} bytes long", text.len());
        return Err(SyntaxError::at(
            text,
            0,
            problem,
            format!("at most {TEXT_LIMIT_BYTES} are read; use a tag of its own"),
        ));
    }
    match text.trim() {
        "*" => return Ok(Condition::All),
        "" => {
            let help = "an empty condition targets no device; write `*` for all devices";
            return Err(SyntaxError::at(text, 0, "the condition is empty", help));
        }
        _ => {}
    }
    let mut parser = Parser {
        text,
        tokens: tokens(text)?,
        next: 0,
        depth: 0,
    };
    let condition = parser.or()?;
    match parser.tokens.get(parser.next) {
        None => Ok(condition),
        Some(_) => Err(parser.error("nothing is expected here", "join comparisons with AND or OR")),
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, SyntaxError> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let error = |problem: &str, help: &str| Err(SyntaxError::at(text, start, problem, help));
        let pair = (bytes[at], bytes.get(at + 1).copied().unwrap_or(0));
        let (token, length) = match pair {
            (byte, _) if byte.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            (b'(', _) => (Token::Open, 1),
            (b')', _) => (Token::Close, 1),
            (b'[', b'[') => return error("`[[…]]` is not read here", "use tags of letters, digits and `_`"),
            (b'[', _) => (Token::OpenList, 1),
            (b']', _) => (Token::CloseList, 1),
            (b',', _) => (Token::Comma, 1),
            (b'=', b'=') => return error("`==` is no operator", "write `=`"),
            (b'<', b'>') => return error("`<>` is no operator of target conditions", "write `!=`"),
            (b'&', _) => return error("`&` is no operator", "write `AND`"),
            (b'|', _) => return error("`|` is no operator", "write `OR`"),
            (b'=', _) => (Token::Operator(Operator::Equal), 1),
            (b'!', b'=') => (Token::Operator(Operator::NotEqual), 2),
            (b'!', _) => {
                return error(
                    "`!` is no operator",
                    "write `NOT`, or `!=` between path and value",
                );
            }
            (b'<', b'=') => (Token::Operator(Operator::LessOrEqual), 2),
            (b'>', b'=') => (Token::Operator(Operator::GreaterOrEqual), 2),
            (b'<', _) => (Token::Operator(Operator::Less), 1),
            (b'>', _) => (Token::Operator(Operator::Greater), 1),
            (b'"' | b'`', _) => {
                return error(
                    "the hub refuses this quote",
                    "put values between single quotes: 'value'",
                );
            }
            (b'\'', _) => quoted(text, at)?,
            (b'*', _) => {
                return error(
                    "`*` stands alone or not at all",
                    "drop it, or make it the whole condition",
                );
            }
            (byte, next) if byte.is_ascii_digit() || (byte == b'-' && next.is_ascii_digit()) => {
                number(text, at)?
            }
            (byte, _) if byte.is_ascii_alphabetic() || byte == b'_' => {
                let word: String = text[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
                    .collect();
                let length = word.len();
                (Token::Word(word), length)
            }
            (b'-', _) => {
                return error(
                    "`-` cannot stand in a path",
                    "use tags of letters, digits and `_`",
                );
            }
            _ => {
                return error(
                    "this character has no meaning here",
                    "put values between single quotes: 'value'",
                );
            }
        };
        tokens.push((start, token));
        at += length;
    }
    Ok(tokens)
}

/// A quoted text that begins at `start`, and its length in bytes. A doubled quote stands for one.
fn quoted(text: &str, start: usize) -> Result<(Token, usize), SyntaxError> {
    let mut value = String::new();
    let mut characters = text[start + 1..].char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        match character {
            '\'' if characters.peek().is_some_and(|(_, next)| *next == '\'') => {
                characters.next();
                value.push('\'');
            }
            '\'' => return Ok((Token::Text(value), index + 2)),
            c if c.is_alphanumeric() || "-:.+%_#*?!(),=@;$".contains(c) => value.push(c),
            c => {
                return Err(SyntaxError::at(
                    text,
                    start + 1 + index,
                    format!("a value cannot hold {c:?}"),
                    "the hub takes letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ ''",
                ));
            }
        }
    }
    Err(SyntaxError::at(
        text,
        start,
        "this quote is never closed",
        "end the value with a single quote",
    ))
}

fn number(text: &str, start: usize) -> Result<(Token, usize), SyntaxError> {
    let length = text[start..]
        .bytes()
        .enumerate()
        .take_while(|(index, byte)| {
            byte.is_ascii_alphanumeric() || *byte == b'.' || (*index == 0 && *byte == b'-')
        })
        .count();
    match text[start..start + length].parse::<f64>() {
        Ok(value) if value.is_finite() => Ok((Token::Number(value), length)),
        _ => Err(SyntaxError::at(
            text,
            start,
            format!("`{}` is not a number", &text[start..start + length]),
            "put texts between single quotes: 'value'",
        )),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

impl Parser<'_> {
    /// An error at the next token, or at the end.
    fn error(&self, problem: impl Into<String>, help: impl Into<String>) -> SyntaxError {
        let offset = self
            .tokens
            .get(self.next)
            .map_or(self.text.len(), |(offset, _)| *offset);
        SyntaxError::at(self.text, offset, problem, help)
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.tokens.get(self.next).is_some_and(|(_, next)| next == token);
        self.next += usize::from(found);
        found
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.tokens.get(self.next), Some((_, Token::Word(word))) if word.eq_ignore_ascii_case(keyword));
        self.next += usize::from(found);
        found
    }

    fn or(&mut self) -> Result<Condition, SyntaxError> {
        self.depth += 1;
        if self.depth > NESTING_LIMIT {
            return Err(self.error(
                format!("more than {NESTING_LIMIT} levels"),
                "simplify, or use a tag of its own",
            ));
        }
        let mut parts = Vec::new();
        loop {
            match self.and()? {
                Condition::Or(inner) => parts.extend(inner),
                other => parts.push(other),
            }
            if !self.take_keyword("OR") {
                break;
            }
        }
        self.depth -= 1;
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Condition::Or(parts)
        })
    }

    fn and(&mut self) -> Result<Condition, SyntaxError> {
        let mut parts = Vec::new();
        loop {
            match self.not()? {
                Condition::And(inner) => parts.extend(inner),
                other => parts.push(other),
            }
            if !self.take_keyword("AND") {
                break;
            }
        }
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Condition::And(parts)
        })
    }

    fn not(&mut self) -> Result<Condition, SyntaxError> {
        let mut negations = 0;
        while self.take_keyword("NOT") {
            negations += 1;
            if self.depth + negations > NESTING_LIMIT {
                return Err(self.error(format!("more than {NESTING_LIMIT} levels"), "drop pairs of NOT"));
            }
        }
        self.depth += negations;
        let mut condition = self.primary()?;
        self.depth -= negations;
        for _ in 0..negations {
            condition = Condition::Not(Box::new(condition));
        }
        Ok(condition)
    }

    fn primary(&mut self) -> Result<Condition, SyntaxError> {
        if self.take(&Token::Open) {
            let inner = self.or()?;
            return match self.take(&Token::Close) {
                true => Ok(inner),
                false => Err(self.error("a closing parenthesis is missing", "write `)`")),
            };
        }
        if self.take_keyword("is_defined") {
            let open = self.take(&Token::Open);
            let path = if open { Some(self.path()?) } else { None };
            return match path {
                Some(path) if self.take(&Token::Close) => Ok(Condition::IsDefined(path)),
                _ => Err(self.error(
                    "is_defined wants one path in parentheses",
                    "write is_defined(tags.name)",
                )),
            };
        }
        let path = self.path()?;
        if self.take_keyword("IN") {
            return Ok(Condition::In {
                path,
                negated: false,
                values: self.list()?,
            });
        }
        if self.take_keyword("NIN") {
            return Ok(Condition::In {
                path,
                negated: true,
                values: self.list()?,
            });
        }
        let operator = match self.tokens.get(self.next) {
            Some((_, Token::Operator(operator))) => *operator,
            _ => return Err(self.error("an operator is missing", "one of = != < > <= >= IN NIN")),
        };
        self.next += 1;
        Ok(Condition::Compare {
            path,
            operator,
            value: self.literal()?,
        })
    }

    fn list(&mut self) -> Result<Vec<Literal>, SyntaxError> {
        if !self.take(&Token::OpenList) {
            return Err(self.error("a list is missing", "write ['a', 'b']"));
        }
        let mut values = vec![self.literal()?];
        while self.take(&Token::Comma) {
            values.push(self.literal()?);
        }
        match self.take(&Token::CloseList) {
            true => Ok(values),
            false => Err(self.error("the list is not closed", "write `,` and a value, or `]`")),
        }
    }

    fn literal(&mut self) -> Result<Literal, SyntaxError> {
        let literal = match self.tokens.get(self.next) {
            Some((_, Token::Text(text))) => Literal::Text(text.clone()),
            Some((_, Token::Number(number))) => Literal::Number(*number),
            Some((_, Token::Word(word))) if word.eq_ignore_ascii_case("true") => Literal::Flag(true),
            Some((_, Token::Word(word))) if word.eq_ignore_ascii_case("false") => Literal::Flag(false),
            Some((_, Token::Word(word))) if word.eq_ignore_ascii_case("null") => {
                return Err(self.error("a twin holds no null", "write NOT is_defined(tags.name)"));
            }
            Some((_, Token::Word(word))) => {
                let help = format!("put texts between single quotes: '{word}'");
                return Err(self.error("a value is missing", help));
            }
            _ => return Err(self.error("a value is missing", "'text', a number, true or false")),
        };
        self.next += 1;
        Ok(literal)
    }

    fn path(&mut self) -> Result<Path, SyntaxError> {
        let word = match self.tokens.get(self.next) {
            Some((_, Token::Word(word))) => word.clone(),
            Some((_, Token::Text(_) | Token::Number(_))) => {
                return Err(self.error("a path stands left of the operator", "write tags.name = 'value'"));
            }
            _ => return Err(self.error("a comparison is missing", "write tags.name = 'value'")),
        };
        let keys: Vec<_> = word.split('.').collect();
        let path = match keys[..] {
            ["deviceId"] => Path::DeviceId,
            ["tags", ..] if keys.len() > 1 => {
                let well_formed = |key: &str| key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                if !keys.iter().all(|key| well_formed(key)) {
                    return Err(self.error(
                        format!("`{word}` is not a path"),
                        "each key begins with a letter or `_`: tags.a.b",
                    ));
                }
                Path::Tag(keys[1..].iter().map(|key| (*key).to_owned()).collect())
            }
            ["properties", ..] => {
                return Err(self.error(
                    "a deployment for Edge devices looks at tags and deviceId only",
                    "have the value written to a tag",
                ));
            }
            _ => {
                let help = format!("conditions look at deviceId and tags: did you mean `tags.{word}`?");
                return Err(self.error(format!("`{word}` is not a path"), help));
            }
        };
        self.next += 1;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, canonical: &str) {
        let condition = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(condition.to_string(), canonical);
        assert_eq!(parse(canonical).unwrap(), condition);
    }

    #[track_caller]
    fn check_error(text: &str, expected: &str) {
        let error = parse(text).expect_err(text).to_string();
        assert!(
            error.contains(expected),
            "{text}\n  gives    {error}\n  expected {expected}"
        );
    }

    #[test]
    fn well_formed() {
        check("*", "*");
        check(" * ", "*");
        check("tags.a='x'", "tags.a = 'x'");
        check("deviceId='operator''sDevice'", "deviceId = 'operator''sDevice'");
        check("tags.a.b != ''", "tags.a.b != ''");
        check("tags.n>=-1.50", "tags.n >= -1.5");
        check("tags.on = TRUE", "tags.on = true");
        check("tags.a in ['x',1 , false]", "tags.a IN ['x', 1, false]");
        check("tags.a nin ['x']", "tags.a NIN ['x']");
        check("IS_DEFINED ( tags.a )", "is_defined(tags.a)");
        check("not tags.a='x'", "NOT tags.a = 'x'");
        check("NOT NOT tags.a='x'", "NOT NOT tags.a = 'x'");
        check("(tags.a=1)", "tags.a = 1");
        check(
            "tags.a=1 AND (tags.b=2 AND tags.c=3)",
            "tags.a = 1 AND tags.b = 2 AND tags.c = 3",
        );
        check(
            "tags.a=1 OR tags.b=2 AND tags.c=3",
            "tags.a = 1 OR tags.b = 2 AND tags.c = 3",
        );
        check(
            "(tags.a=1 OR tags.b=2) AND tags.c=3",
            "(tags.a = 1 OR tags.b = 2) AND tags.c = 3",
        );
        check("NOT (tags.a=1 AND tags.b=2)", "NOT (tags.a = 1 AND tags.b = 2)");
        check("tags.t = 'a-:.+%_#*?!(),=@;$'", "tags.t = 'a-:.+%_#*?!(),=@;$'");
        check("tags.plant = 'München'", "tags.plant = 'München'");
        check("tags.wave < 5", "tags.wave < 5");
    }

    #[test]
    fn mistakes() {
        check_error("", "write `*` for all devices");
        check_error(
            "tags.a = \"x\"",
            "column 10: the hub refuses this quote; put values between single quotes",
        );
        check_error("tags.a == 'x'", "column 8: `==` is no operator; write `=`");
        check_error("tags.a <> 'x'", "write `!=`");
        check_error(
            "tags.a = 'x' && tags.b = 'y'",
            "column 14: `&` is no operator; write `AND`",
        );
        check_error("tags.a = 'x' || tags.b = 'y'", "write `OR`");
        check_error("!tags.a", "write `NOT`");
        check_error(
            "tags.a = x",
            "column 10: a value is missing; put texts between single quotes: 'x'",
        );
        check_error("tags.a = 'x", "column 10: this quote is never closed");
        check_error("tags.a = 'x y'", "column 12: a value cannot hold ' '");
        check_error("tags.ü = 'x'", "column 6:");
        check_error("tags.a = null", "write NOT is_defined");
        check_error("'x' = tags.a", "a path stands left");
        check_error("ring = 'x'", "did you mean `tags.ring`?");
        check_error("tags = 'x'", "`tags` is not a path");
        check_error("tags..a = 'x'", "is not a path");
        check_error("tags.a. = 'x'", "is not a path");
        check_error("tags.device-class = 'x'", "column 12: `-` cannot stand in a path");
        check_error("properties.reported.a = 1", "tags and deviceId only");
        check_error("tags.a", "column 7: an operator is missing");
        check_error("tags.a =", "column 9: a value is missing");
        check_error(
            "tags.a = 1 tags.b = 2",
            "column 12: nothing is expected here; join comparisons",
        );
        check_error("(tags.a = 1", "column 12: a closing parenthesis is missing");
        check_error("tags.a = 1)", "column 11: nothing is expected here");
        check_error("tags.a IN 'x'", "column 11: a list is missing");
        check_error("tags.a IN ('x')", "write ['a', 'b']");
        check_error("tags.a IN []", "a value is missing");
        check_error("tags.a IN ['x'", "the list is not closed");
        check_error("is_defined tags.a", "is_defined wants one path");
        check_error("tags.a = 1e999", "not a number");
        check_error("tags.a = 12abc", "`12abc` is not a number");
        check_error("* AND tags.a = 1", "`*` stands alone");
        check_error("tags.[[a-b]] = 1", "`[[…]]` is not read here");
        check_error("AND", "did you mean");
        check_error(&"(".repeat(3000), "more than 32 levels");
        check_error(&"NOT ".repeat(1000), "more than 32 levels");
        check_error(
            &format!("tags.a = '{}'", "x".repeat(5000)),
            "at most 4096 are read",
        );
    }

    fn literals() -> impl Strategy<Value = Literal> {
        prop_oneof![
            "[a-zA-Z0-9ü':.+%_#*?!(),=@;$-]{0,12}".prop_map(Literal::Text),
            any::<f64>()
                .prop_filter("finite", |number| number.is_finite())
                .prop_map(Literal::Number),
            any::<bool>().prop_map(Literal::Flag),
        ]
    }

    fn paths() -> impl Strategy<Value = Path> {
        prop_oneof![
            Just(Path::DeviceId),
            proptest::collection::vec("[a-zA-Z_][a-zA-Z0-9_]{0,6}", 1..4).prop_map(Path::Tag),
        ]
    }

    fn operators() -> impl Strategy<Value = Operator> {
        use Operator::*;
        proptest::sample::select(vec![Equal, NotEqual, Less, Greater, LessOrEqual, GreaterOrEqual])
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        let leaf = prop_oneof![
            (paths(), operators(), literals()).prop_map(|(path, operator, value)| Condition::Compare {
                path,
                operator,
                value
            }),
            (
                paths(),
                any::<bool>(),
                proptest::collection::vec(literals(), 1..4)
            )
                .prop_map(|(path, negated, values)| Condition::In {
                    path,
                    negated,
                    values
                }),
            paths().prop_map(Condition::IsDefined),
        ];
        leaf.prop_recursive(4, 20, 3, |inner| {
            let several = proptest::collection::vec(inner.clone(), 2..4);
            prop_oneof![
                inner.prop_map(|inner| Condition::Not(Box::new(inner))),
                several
                    .clone()
                    .prop_map(|parts| Condition::And(flat(parts, true))),
                several.prop_map(|parts| Condition::Or(flat(parts, false))),
            ]
        })
    }

    /// Keeps the promise of `And` and `Or` that they do not hold themselves.
    fn flat(parts: Vec<Condition>, conjunction: bool) -> Vec<Condition> {
        parts
            .into_iter()
            .flat_map(|part| match part {
                Condition::And(inner) if conjunction => inner,
                Condition::Or(inner) if !conjunction => inner,
                other => vec![other],
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn printing_and_parsing_are_inverse(condition in conditions()) {
            let text = condition.to_string();
            prop_assume!(text.len() <= TEXT_LIMIT_BYTES);
            prop_assert_eq!(parse(&text).unwrap(), condition);
        }

        #[test]
        fn any_text_is_answered(text in "(\\PC|tags\\.a|AND|OR|NOT|IN|\\(|\\)|\\[|\\]|'|=| ){0,60}") {
            let _ = parse(&text);
        }
    }
}
