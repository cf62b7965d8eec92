//! What a mistake in a target condition or route looks like, and the characters both languages share.

use thiserror::Error;

/// A mistake at one place of a target condition or route.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("column {column}: {problem}; {help}")]
pub struct SyntaxError {
    /// Character of the text, counted from 1; one past the end if something is missing there.
    pub column: usize,
    /// What is wrong here.
    pub problem: String,
    /// What to do next.
    pub help: String,
}

impl SyntaxError {
    /// `offset`: byte of `text`, on a character boundary or past the end.
    pub(crate) fn at(text: &str, offset: usize, problem: impl Into<String>, help: impl Into<String>) -> Self {
        let column = text
            .char_indices()
            .take_while(|(start, _)| *start < offset)
            .count()
            + 1;
        SyntaxError {
            column,
            problem: problem.into(),
            help: help.into(),
        }
    }
}

/// Longest condition or route that is read, in bytes: what fits one twin value.
pub(crate) const TEXT_LIMIT_BYTES: usize = 4096;

/// Deepest nesting that is read; bounds the recursion of parsing, printing and evaluating.
pub(crate) const NESTING_LIMIT: usize = 32;

/// Letters, digits, `_` and `-`: safe in module ids, route items and schemas alike.
pub(crate) fn is_module_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The first `limit_characters` of `text`, so that an error stays readable whatever was given.
pub(crate) fn shortened(text: &str, limit_characters: usize) -> String {
    match text.char_indices().nth(limit_characters) {
        Some((index, _)) => format!("{}…", &text[..index]),
        None => text.to_owned(),
    }
}
