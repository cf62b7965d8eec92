//! Routes of the edge hub: `[SELECT *] FROM source [WHERE condition] INTO sink`.
//!
//! [`parse`] finds the mistakes that the edge hub would only log on the device (a route that it cannot read is an
//! error of the whole configuration; a message that matches no route is dropped), and says which modules a route
//! names. The condition is checked for form: operators, parentheses, quotes, known functions.
//!
//! Source: the route grammar of the edge hub (`edge-hub/core/src/Microsoft.Azure.Devices.Routing.Core/grammar`).

mod expression;

use crate::syntax::{SyntaxError, TEXT_LIMIT_BYTES};

/// What a route says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The module whose messages it takes, unless those of several.
    pub source_module: Option<String>,
    /// Where the messages go.
    pub sink: Sink,
}

/// Where a route sends messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// The hub, or the parent device.
    Upstream,
    /// An input of a module of this device.
    Input {
        /// Module id.
        module: String,
        /// Name of the input.
        input: String,
    },
}

impl Route {
    /// Modules that must be on the device for the route to do something.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        let sink = match &self.sink {
            Sink::Upstream => None,
            Sink::Input { module, .. } => Some(module.as_str()),
        };
        self.source_module.as_deref().into_iter().chain(sink)
    }
}

const SOURCES: &str = "a source is /*, /messages/*, /messages/modules/*, /messages/modules/NAME/*, \
                       /messages/modules/NAME/outputs/*, /messages/modules/NAME/outputs/OUTPUT \
                       or /twinChangeNotifications";
const SINKS: &str = r#"write $upstream or BrokeredEndpoint("/modules/NAME/inputs/INPUT")"#;

/// Reads one route.
///
/// # Errors
/// The first mistake, with its column.
pub fn parse(text: &str) -> Result<Route, SyntaxError> {
    if text.len() > TEXT_LIMIT_BYTES {
        let problem = format!("the route is {} bytes long", text.len());
        return Err(SyntaxError::at(
            text,
            0,
            problem,
            format!("a twin value holds at most {TEXT_LIMIT_BYTES}"),
        ));
    }
    let mut reader = Reader { text, at: 0 };
    if reader.keyword("SELECT") {
        reader.skip_whitespace();
        if !reader.rest().starts_with('*') {
            return Err(reader.error("only `SELECT *` is known", "write `FROM …`"));
        }
        reader.at += 1;
    }
    if !reader.keyword("FROM") {
        return Err(reader.error(
            "a route begins with FROM",
            "write FROM /messages/* INTO $upstream",
        ));
    }
    let source_module = reader.source()?;
    if reader.keyword("WHERE") {
        reader.skip_whitespace();
        reader.at = expression::parse(text, reader.at)?;
    }
    if !reader.keyword("INTO") {
        return Err(reader.error("INTO is missing", "write FROM source [WHERE condition] INTO sink"));
    }
    let sink = reader.sink()?;
    reader.skip_whitespace();
    match reader.rest() {
        "" => Ok(Route { source_module, sink }),
        _ => Err(reader.error("nothing is expected after the sink", "end the route here")),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, problem: impl Into<String>, help: impl Into<String>) -> SyntaxError {
        SyntaxError::at(self.text, self.at, problem, help)
    }

    fn skip_whitespace(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes `word`, in any case, if it is next.
    fn keyword(&mut self, word: &str) -> bool {
        self.skip_whitespace();
        let next = self
            .rest()
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .next()
            .unwrap_or_default();
        let found = next.eq_ignore_ascii_case(word);
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn source(&mut self) -> Result<Option<String>, SyntaxError> {
        self.skip_whitespace();
        let source = self.rest().split_whitespace().next().unwrap_or_default();
        let Some(path) = source.strip_prefix('/') else {
            return Err(self.error("a source begins with `/`", SOURCES));
        };
        let items: Vec<_> = path.split('/').collect();
        for (index, item) in items.iter().enumerate() {
            if *item == "*" && index + 1 < items.len() {
                return Err(self.error("`*` has no meaning inside a source", SOURCES));
            }
            if *item != "*" && !is_item(item) {
                return Err(self.error(format!("`{item}` is not a name"), SOURCES));
            }
        }
        let module = match items[..] {
            ["*"] | ["twinChangeNotifications" | "messages"] => None,
            ["twinChangeNotifications", "*"] => None,
            ["messages", "*"] | ["messages", "events"] | ["messages", "events", "*"] => None,
            ["messages", "modules"] | ["messages", "modules", "*"] => None,
            ["messages", "modules", module] => Some(module),
            ["messages", "modules", module, "*" | "outputs"] => Some(module),
            ["messages", "modules", module, "outputs", _] => Some(module),
            _ => return Err(self.error(format!("`{source}` matches no message"), SOURCES)),
        };
        self.at += source.len();
        Ok(module.map(str::to_owned))
    }

    fn sink(&mut self) -> Result<Sink, SyntaxError> {
        self.skip_whitespace();
        const UPSTREAM: &str = "$upstream";
        if self
            .rest()
            .get(..UPSTREAM.len())
            .is_some_and(|next| next.eq_ignore_ascii_case(UPSTREAM))
        {
            self.at += UPSTREAM.len();
            return Ok(Sink::Upstream);
        }
        if !self.rest().starts_with("BrokeredEndpoint") {
            return Err(self.error("this is not a sink", SINKS));
        }
        self.at += "BrokeredEndpoint".len();
        self.expect('(')?;
        self.skip_whitespace();
        let quote = self.rest().chars().next().filter(|c| matches!(c, '"' | '\''));
        let Some((quote, inside)) =
            quote.and_then(|quote| Some((quote, self.rest()[1..].split_once(quote)?.0)))
        else {
            return Err(self.error("the endpoint's path stands in quotes", SINKS));
        };
        let sink = match inside.split('/').collect::<Vec<_>>()[..] {
            ["", "modules", module, "inputs", input] if is_item(module) && is_item(input) => Sink::Input {
                module: module.to_owned(),
                input: input.to_owned(),
            },
            _ => return Err(self.error(format!("`{inside}` is not an input"), SINKS)),
        };
        self.at += inside.len() + 2 * quote.len_utf8();
        self.expect(')')?;
        Ok(sink)
    }

    fn expect(&mut self, character: char) -> Result<(), SyntaxError> {
        self.skip_whitespace();
        if !self.rest().starts_with(character) {
            return Err(self.error(format!("`{character}` is missing"), SINKS));
        }
        self.at += character.len_utf8();
        Ok(())
    }
}

/// One item of a path: what the grammar calls an identifier, and no wildcard.
fn is_item(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| r#"()<>@,;:\"/[]?={}*"#.contains(c) || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, modules: &[&str]) {
        let route = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(route.modules().collect::<Vec<_>>(), modules, "{text}");
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
        check("FROM /* INTO $upstream", &[]);
        check("from /messages/* into $UPSTREAM", &[]);
        check("SELECT * FROM /twinChangeNotifications INTO $upstream", &[]);
        check("FROM /messages/modules/* INTO $upstream", &[]);
        check("FROM /messages/modules/a INTO $upstream", &["a"]);
        check("FROM /messages/modules/a/* INTO $upstream", &["a"]);
        check("FROM /messages/modules/a/outputs/* INTO $upstream", &["a"]);
        check(
            r#"FROM /messages/modules/a/outputs/x INTO BrokeredEndpoint("/modules/b-1/inputs/y")"#,
            &["a", "b-1"],
        );
        check(
            "FROM /messages/* INTO BrokeredEndpoint( '/modules/b/inputs/y' )",
            &["b"],
        );
        check("FROM /* WHERE temperature > 21 INTO $upstream", &[]);
        check(
            "FROM /* WHERE $connectionModuleId <> 'x' AND NOT is_defined(a) INTO $upstream",
            &[],
        );
        check(
            "FROM /* WHERE {$contentType} = \"application/json\" INTO $upstream",
            &[],
        );
        check(
            "FROM /* WHERE $body.items[0].score >= 0.5 OR as_number(a) * -2 + 1 != 3 INTO $upstream",
            &[],
        );
        check(
            "FROM /* WHERE substring(a, 1, 2) || 'x' = concat(a, 'b') INTO $upstream",
            &[],
        );
        check("FROM /* WHERE (a = 'it''s INTO' ) INTO $upstream", &[]);
        check("FROM /* WHERE is_null(a ?? null) = true INTO $upstream", &[]);
    }

    #[test]
    fn mistakes() {
        check_error("", "column 1: a route begins with FROM");
        check_error("INTO $upstream", "a route begins with FROM");
        check_error("SELECT a FROM /* INTO $upstream", "column 8: only `SELECT *`");
        check_error(
            "FROM messages/* INTO $upstream",
            "column 6: a source begins with `/`",
        );
        check_error("FROM /message/* INTO $upstream", "matches no message");
        check_error(
            "FROM /messages/modules/*/outputs/x INTO $upstream",
            "`*` has no meaning inside",
        );
        check_error(
            "FROM /messages/modules/a/output/x INTO $upstream",
            "matches no message",
        );
        check_error("FROM /messages//modules INTO $upstream", "`` is not a name");
        check_error("FROM /messages/modules/a;b INTO $upstream", "`a;b` is not a name");
        check_error("FROM /messages/*", "INTO is missing");
        check_error("FROM /messages/* TO $upstream", "column 18: INTO is missing");
        check_error("FROM /* INTO", "this is not a sink");
        check_error("FROM /* INTO upstream", "column 14: this is not a sink");
        check_error("FROM /* INTO $upstreams", "nothing is expected after the sink");
        check_error("FROM /* INTO $upstream x", "column 24: nothing is expected");
        check_error(
            r#"FROM /* INTO BrokeredEndpoint("/modules/a/b")"#,
            "`/modules/a/b` is not an input",
        );
        check_error(
            r#"FROM /* INTO BrokeredEndpoint("/modules/*/inputs/b")"#,
            "is not an input",
        );
        check_error(
            r#"FROM /* INTO BrokeredEndpoint("modules/a/inputs/b")"#,
            "is not an input",
        );
        check_error(
            r#"FROM /* INTO BrokeredEndpoint("/modules/a/inputs/b""#,
            "`)` is missing",
        );
        check_error(
            "FROM /* INTO BrokeredEndpoint(/modules/a/inputs/b)",
            "stands in quotes",
        );
        check_error("FROM /* INTO BrokeredEndpoint", "`(` is missing");
        check_error("FROM /* WHERE INTO $upstream", "a value is missing");
        check_error(
            "FROM /* WHERE a == 1 INTO $upstream",
            "column 17: `==` is no operator",
        );
        check_error("FROM /* WHERE a = 1 && b = 2 INTO $upstream", "write AND");
        check_error("FROM /* WHERE (a = 1 INTO $upstream", "`)` is missing");
        check_error(
            "FROM /* WHERE a = 'x INTO $upstream",
            "column 19: this quote is never closed",
        );
        check_error(
            "FROM /* WHERE defined(a) INTO $upstream",
            "`defined` is not a function",
        );
        check_error("FROM /* WHERE a = INTO $upstream", "a value is missing");
        check_error("FROM /* WHERE a b INTO $upstream", "INTO is missing");
        check_error(
            &format!("FROM /* WHERE {} INTO $upstream", "(".repeat(1000)),
            "more than 32 levels",
        );
        check_error(
            &format!("FROM /* WHERE {}a INTO $upstream", "- ".repeat(1000)),
            "more than 32 levels",
        );
        check_error(
            &format!("FROM /{} INTO $upstream", "a".repeat(5000)),
            "a twin value holds at most",
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_answered(
            text in "(FROM /\\* WHERE )?(\\PC|INTO|AND|NOT|\\$upstream|\\$body|\\(|\\)|'|\\{| ){0,60}"
        ) {
            let _ = parse(&text);
        }
    }
}
