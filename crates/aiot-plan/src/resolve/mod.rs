//! Declarations → [`Workspace`]: names checked, defaults applied last, all errors of all files in one go.
//!
//! One file below for each kind of declaration. Text in, values out. Whether a file exists, what a graph needs and what a device can hold is checked later, in
//! [`crate::compatibility`], with facts.

mod environment;
mod model;
mod pin;
mod ring;
mod shadow;
mod target;

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;

use crate::create_options;
use crate::declare::*;
use crate::diagnose::{ConfigError, Site, SourceFile, source_file, suggest};
use crate::names::is_workspace_path;
use crate::parse::{Parsed, SyntaxError};
use crate::workspace::*;

/// The texts of all declaration files.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// `models.toml`
    pub models: String,
    /// `targets.toml`
    pub targets: String,
    /// Environment name → text of `deployments/<name>.toml`
    pub environments: BTreeMap<String, String>,
    /// Crates below `modules/` that have a binary.
    pub modules: Vec<String>,
}

/// Parses and resolves all declarations.
///
/// # Errors
/// Every error of every file, each with its place, sorted by file and place.
pub fn resolve(texts: &Texts) -> Result<Workspace, Vec<ConfigError>> {
    let mut resolver = Resolver { errors: Vec::new() };
    let models_file = source_file("models.toml", &texts.models);
    let targets_file = source_file("targets.toml", &texts.targets);
    let targets = resolver.parse::<TargetsFile>(&targets_file);
    let models = resolver.parse::<ModelsFile>(&models_file);
    let mut workspace = Workspace::default();
    for (name, text) in &texts.environments {
        let file = source_file(&format!("deployments/{name}.toml"), text);
        // Every key of an environment bears on the others: one that is broken is not looked into.
        let parsed = resolver.parse::<EnvironmentFile>(&file);
        let Some(declared) = parsed.value.filter(|_| parsed.errors.is_empty()) else {
            continue;
        };
        if let Some(environment) = resolver.environment(&file, name, declared) {
            workspace
                .environments
                .insert(environment.name.clone(), environment);
        }
    }
    // Names of targets that were declared but are wrong in themselves: a model that names one is not at fault.
    let mut declared_targets: Vec<String> = targets.broken.iter().cloned().collect();
    if let Some(targets) = &targets.value {
        for (name, declared) in &targets.target {
            declared_targets.push(name.get_ref().clone());
            if let Some(target) = resolver.target(&targets_file, name, declared) {
                workspace.targets.insert(target.name.clone(), target);
            }
        }
    }
    if let Some(models) = models.value {
        let known = Known {
            targets: targets.value.is_some().then_some(&declared_targets),
            modules: &texts.modules,
        };
        for (name, declared) in models.model {
            if let Some(model) = resolver.model(&models_file, &name, declared, &known) {
                workspace.models.insert(model.name.clone(), model);
            }
        }
    }
    // What pins and challengers name can only be judged where all of it was read.
    if resolver.errors.is_empty() {
        resolver.check_pins(&workspace);
        resolver.check_shadows(&workspace);
    }
    if resolver.errors.is_empty() {
        Ok(workspace)
    } else {
        let mut errors = resolver.errors;
        errors.sort_by(|a, b| {
            (a.site.file.name(), a.site.span.start, a.code).cmp(&(
                b.site.file.name(),
                b.site.span.start,
                b.code,
            ))
        });
        Err(errors)
    }
}

/// Triples that can be built, with the architecture and variant that their platform must have.
pub const TRIPLES: [(&str, &str, Option<&str>); 3] = [
    ("x86_64-unknown-linux-gnu", "amd64", None),
    ("aarch64-unknown-linux-gnu", "arm64", None),
    ("armv7-unknown-linux-gnueabihf", "arm", Some("v7")),
];

struct Known<'a> {
    /// `None` where `targets.toml` could not be read: then no name in it is known, and none is wrong.
    targets: Option<&'a Vec<String>>,
    modules: &'a [String],
}

struct Resolver {
    errors: Vec<ConfigError>,
}

fn at(file: &SourceFile, span: Range<usize>) -> Site {
    Site {
        file: file.clone(),
        span,
    }
}

fn site<T>(file: &SourceFile, spanned: &Spanned<T>) -> Site {
    at(file, spanned.span())
}

impl Resolver {
    fn error(&mut self, error: ConfigError) {
        self.errors.push(error);
    }

    /// Parses a file and tells its errors of form.
    fn parse<T: serde::de::DeserializeOwned>(&mut self, file: &SourceFile) -> Parsed<T> {
        let parsed = crate::parse::parse(file.inner());
        for SyntaxError { message, span } in &parsed.errors {
            let place = at(file, span.clone());
            let first = message.lines().next().unwrap_or_default().to_owned();
            self.error(
                match message
                    .strip_prefix("unknown field `")
                    .and_then(|rest| rest.split('`').next())
                {
                    Some(key) => {
                        let error = ConfigError::new(
                            "plan::unknown_key",
                            place,
                            format!("unknown key `{key}`"),
                            "not a key here",
                        );
                        match unknown_key_help(message) {
                            Some(help) => error.with_help(help),
                            None => error,
                        }
                    }
                    None => {
                        let error = ConfigError::new(
                            "plan::syntax",
                            place,
                            format!("{}: {first}", file.name()),
                            first,
                        );
                        match unknown_value_help(message) {
                            Some(help) => error.with_help(help),
                            None => error,
                        }
                    }
                },
            );
        }
        parsed
    }

    fn create_options(
        &mut self,
        file: &SourceFile,
        owner: &str,
        table: Option<&Spanned<toml::Table>>,
    ) -> serde_json::Value {
        let Some(table) = table else {
            return serde_json::Value::Object(serde_json::Map::new());
        };
        create_options::to_json(table.get_ref()).unwrap_or_else(|errors| {
            for error in errors {
                self.error(ConfigError::new(
                    "plan::create_options",
                    site(file, table),
                    format!(
                        "{owner}: create-options.{}: expected {}",
                        error.key, error.expected
                    ),
                    "in this table",
                ));
            }
            serde_json::Value::Null
        })
    }

    fn name<T>(
        &mut self,
        file: &SourceFile,
        name: &Spanned<String>,
        make: fn(&str) -> Option<T>,
    ) -> Option<T> {
        let made = make(name.get_ref());
        if made.is_none() {
            self.error(ConfigError::new(
                "plan::name",
                site(file, name),
                format!("`{}` cannot be a name", name.get_ref()),
                "lower-case letters, digits and single hyphens, starting with a letter, at most 40",
            ));
        }
        made
    }

    fn path(&mut self, file: &SourceFile, path: &Spanned<String>) {
        if !is_workspace_path(path.get_ref()) {
            self.error(ConfigError::new(
                "plan::path",
                site(file, path),
                format!("`{}` is not a path below the workspace", path.get_ref()),
                "relative, with `/`, without `..`, without `/` at the end",
            ));
        }
    }
}

/// `major.minor[.patch]` as numbers.
pub fn parse_version(text: &str) -> Option<Vec<u32>> {
    // `u32` would take a plus sign.
    let number = |part: &str| {
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| part.parse().ok())
            .flatten()
    };
    let parts: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    (2..=3).contains(&parts.len()).then_some(parts)
}

/// serde names the known fields in its message: find the nearest to the unknown one.
fn unknown_key_help(message: &str) -> Option<String> {
    help_from_expected("this table", message)
}

/// The same for a word that is none of those that may stand there.
fn unknown_value_help(message: &str) -> Option<String> {
    message
        .starts_with("unknown variant `")
        .then(|| help_from_expected("this key", message))
        .flatten()
}

fn help_from_expected(place: &str, message: &str) -> Option<String> {
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let known: Vec<&str> = names.collect();
    Some(suggest(place, unknown, known.into_iter()).replace("defines", "knows"))
}
