//! What is wrong in a declaration, where, and what to do next. Rendered by `xtask` with miette.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// One declaration file: its path relative to the workspace and its text.
pub type SourceFile = Arc<NamedSource<String>>;

/// Makes a [`SourceFile`].
pub fn source_file(path: &str, text: &str) -> SourceFile {
    Arc::new(NamedSource::new(path, text.to_owned()).with_language("TOML"))
}

/// A place in a declaration file.
#[derive(Clone, Debug)]
pub struct Site {
    /// The file.
    pub file: SourceFile,
    /// Bytes of its text.
    pub span: Range<usize>,
}

impl Site {
    /// `path:line`, counted from 1.
    pub fn line(&self) -> String {
        let text = self.file.inner();
        let end = self.span.start.min(text.len());
        let line = 1 + text.as_bytes()[..end]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        format!("{}:{line}", self.file.name())
    }
}

/// One error of a declaration.
#[derive(Clone, Debug)]
pub struct ConfigError {
    /// Stable identifier, for example `plan::unknown_target`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What is wrong at this very place.
    pub label: String,
    /// The place.
    pub site: Site,
    /// What to do next.
    pub help: Option<String>,
}

impl ConfigError {
    /// An error without help.
    pub fn new(code: &'static str, site: Site, message: impl Into<String>, label: impl Into<String>) -> Self {
        ConfigError {
            code,
            message: message.into(),
            label: label.into(),
            site,
            help: None,
        }
    }

    /// Adds what to do next.
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl Diagnostic for ConfigError {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.site.file)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let label = LabeledSpan::new_with_span(Some(self.label.clone()), self.site.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// `defines a, b; did you mean b?`: the known names, and the nearest one where it is near.
pub fn suggest<'a>(file: &str, wrong: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let names: Vec<String> = known.clone().map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        return format!("{file} defines none");
    }
    let mut help = if names.len() <= 12 {
        format!("{file} defines {}", names.join(", "))
    } else {
        format!("{file} defines {} names", names.len())
    };
    if let Some(near) = nearest(wrong, known) {
        help.push_str(&format!("; did you mean `{near}`?"));
    }
    help
}

/// The known name that is most like `wrong`, if any is much like it.
pub fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::jaro_winkler(wrong, name), name))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
