//! The condition of a route, checked for form.
//!
//! Operators by binding strength: `OR`, `AND`, comparisons, `??`, `+ - ||`, `* / %`, then `NOT` and `-` in front of
//! a value. Nothing is kept of the condition: only the edge hub evaluates it.

use crate::syntax::{NESTING_LIMIT, SyntaxError};

const FUNCTIONS: [&str; 23] = [
    "abs",
    "as_number",
    "ceiling",
    "concat",
    "contains",
    "ends_with",
    "exp",
    "floor",
    "index_of",
    "is_bool",
    "is_defined",
    "is_null",
    "is_number",
    "is_string",
    "length",
    "lower",
    "power",
    "sign",
    "sqrt",
    "square",
    "starts_with",
    "substring",
    "upper",
];

/// Reads one condition from byte `start` of `text`; returns the byte after it.
pub(super) fn parse(text: &str, start: usize) -> Result<usize, SyntaxError> {
    let mut reader = Reader {
        text,
        at: start,
        depth: 0,
    };
    reader.operands()?;
    Ok(reader.at)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn rest(&mut self) -> &'a str {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        rest
    }

    fn error(&self, problem: impl Into<String>, help: impl Into<String>) -> SyntaxError {
        SyntaxError::at(self.text, self.at, problem, help)
    }

    fn take(&mut self, symbol: char) -> bool {
        let found = self.rest().starts_with(symbol);
        self.at += if found { symbol.len_utf8() } else { 0 };
        found
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let length = rest
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            .count();
        &rest[..length]
    }

    /// Values with operators between them. Strength does not matter for the form, so all operators are one loop.
    fn operands(&mut self) -> Result<(), SyntaxError> {
        self.depth += 1;
        if self.depth > NESTING_LIMIT {
            return Err(self.error(
                format!("more than {NESTING_LIMIT} levels"),
                "simplify the condition",
            ));
        }
        loop {
            self.value()?;
            if !self.operator()? {
                break;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn operator(&mut self) -> Result<bool, SyntaxError> {
        let rest = self.rest();
        let word = self.word();
        if word.eq_ignore_ascii_case("AND") || word.eq_ignore_ascii_case("OR") {
            self.at += word.len();
            return Ok(true);
        }
        if rest.starts_with("==") {
            return Err(self.error("`==` is no operator", "write `=`"));
        }
        if rest.starts_with('&') {
            return Err(self.error("`&` is no operator", "write AND"));
        }
        let symbols = [
            "<=", ">=", "<>", "!=", "||", "??", "<", ">", "=", "+", "-", "*", "/", "%",
        ];
        let found = symbols.iter().find(|symbol| rest.starts_with(**symbol));
        self.at += found.map_or(0, |symbol| symbol.len());
        Ok(found.is_some())
    }

    fn value(&mut self) -> Result<(), SyntaxError> {
        let mut prefixes = 0;
        loop {
            let word = self.word();
            if word.eq_ignore_ascii_case("NOT") {
                self.at += word.len();
            } else if !self.take('-') {
                break;
            }
            prefixes += 1;
            if prefixes > NESTING_LIMIT {
                return Err(self.error(
                    format!("more than {NESTING_LIMIT} levels"),
                    "drop some of `NOT` and `-`",
                ));
            }
        }
        let rest = self.rest();
        match rest.chars().next() {
            Some('(') => {
                self.at += 1;
                self.operands()?;
                self.close()
            }
            Some(quote @ ('\'' | '"')) => match rest[1..].find(quote) {
                // A doubled quote is read as two texts side by side: the same end.
                Some(length) => {
                    self.at += length + 2;
                    if self.text[self.at..].starts_with(quote) {
                        self.value()
                    } else {
                        Ok(())
                    }
                }
                None => Err(self.error(
                    "this quote is never closed",
                    "end the text with the quote that it began with",
                )),
            },
            Some('{') => match rest.find('}') {
                Some(length)
                    if length > 1 && rest[1..length].bytes().all(|byte| !byte.is_ascii_whitespace()) =>
                {
                    self.at += length + 1;
                    Ok(())
                }
                _ => Err(self.error("`{` wants one system property and `}`", "write {$contentType}")),
            },
            Some('$') => {
                self.at += 1;
                let length = self.text[self.at..]
                    .bytes()
                    .take_while(|byte| byte.is_ascii_alphanumeric() || b"_.[]-".contains(byte))
                    .count();
                if length == 0 {
                    return Err(self.error(
                        "a name is missing after `$`",
                        "write $body.path or $systemProperty",
                    ));
                }
                self.at += length;
                Ok(())
            }
            Some(c) if c.is_ascii_digit() => {
                let number = rest
                    .bytes()
                    .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'.')
                    .count();
                self.at += number;
                Ok(())
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => self.name(),
            _ => Err(self.error(
                "a value is missing",
                "a property, $body.path, a number or a text in quotes",
            )),
        }
    }

    fn name(&mut self) -> Result<(), SyntaxError> {
        let word = self.word();
        if ["AND", "OR", "INTO"]
            .iter()
            .any(|keyword| word.eq_ignore_ascii_case(keyword))
        {
            return Err(self.error(
                "a value is missing",
                "a property, $body.path, a number or a text in quotes",
            ));
        }
        let start = self.at;
        self.at += word.len();
        // Properties may hold `-` and `.`; an operator after a name wants a space before it.
        let tail = self.text[self.at..]
            .bytes()
            .take_while(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte))
            .count();
        self.at += tail;
        if tail > 0 || !self.take('(') {
            return Ok(());
        }
        if !FUNCTIONS
            .iter()
            .any(|function| word.eq_ignore_ascii_case(function))
        {
            self.at = start;
            return Err(self.error(
                format!("`{word}` is not a function"),
                format!("one of {}", FUNCTIONS.join(", ")),
            ));
        }
        if self.take(')') {
            return Ok(());
        }
        loop {
            self.operands()?;
            if !self.take(',') {
                return self.close();
            }
        }
    }

    fn close(&mut self) -> Result<(), SyntaxError> {
        match self.take(')') {
            true => Ok(()),
            false => Err(self.error("`)` is missing", "close the parenthesis")),
        }
    }
}
