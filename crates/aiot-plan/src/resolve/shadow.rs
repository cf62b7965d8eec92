//! `[model.<name>.shadow]`: a challenger that rides in the images of another model.

use std::collections::BTreeMap;

use aiot_package::{InputSpec, Task};

use super::{Resolver, site};
use crate::declare::{EdgeDeclaration, ModelDeclaration};
use crate::diagnose::{ConfigError, SourceFile, suggest};
use crate::names::ModelName;
use crate::workspace::{Model, Shadow, Workspace};

const CODE: &str = "plan::shadow";

impl Resolver {
    /// What is declared, as far as it can be judged without the other models.
    pub(super) fn shadow(
        &mut self,
        file: &SourceFile,
        model: &ModelName,
        declared: &ModelDeclaration,
    ) -> Option<Shadow> {
        let whole = declared.shadow.as_ref()?;
        let shadow = whole.get_ref();
        let share = *shadow.share.get_ref();
        if !(share > 0.0 && share <= 1.0) {
            self.error(ConfigError::new(
                CODE,
                site(file, &shadow.share),
                format!("model `{model}`: the share of inputs is none"),
                "above 0, and at most 1",
            ));
        }
        let is_regression = *declared.task.get_ref() == Task::Regression;
        match &shadow.tolerance {
            Some(tolerance) if !is_regression => self.error(ConfigError::new(
                CODE,
                site(file, tolerance),
                format!("model `{model}`: verdicts agree or not, there is no tolerance"),
                "for regressions only",
            )),
            Some(tolerance) if !(tolerance.get_ref().is_finite() && *tolerance.get_ref() >= 0.0) => {
                self.error(ConfigError::new(
                    CODE,
                    site(file, tolerance),
                    format!("model `{model}`: the tolerance is none"),
                    "0 or more",
                ));
            }
            None if is_regression => self.error(
                ConfigError::new(
                    CODE,
                    site(file, whole),
                    format!("model `{model}`: when do two values agree?"),
                    "a regression needs `tolerance`",
                )
                .with_help("the largest difference that does not matter, in the values' unit"),
            ),
            _ => {}
        }
        if declared.edge != EdgeDeclaration::default() {
            self.error(
                ConfigError::new(
                    CODE,
                    site(file, whole),
                    format!("model `{model}` has `edge`, and as a challenger no module of its own"),
                    "rides in the images of another model",
                )
                .with_help("take `edge` out; inputs, sinks and condition are those of that model"),
            );
        }
        Some(Shadow {
            of: self.name(file, &shadow.of, ModelName::new)?,
            share,
            tolerance: shadow.tolerance.as_ref().map(|tolerance| *tolerance.get_ref()),
            site: site(file, &shadow.of),
        })
    }

    /// Whether challengers can be compared with the models that they name.
    pub(super) fn check_shadows(&mut self, workspace: &Workspace) {
        let mut taken = BTreeMap::new();
        for challenger in workspace.models.values() {
            let Some(shadow) = &challenger.shadow else {
                continue;
            };
            let (name, of) = (&challenger.name, &shadow.of);
            let Some(champion) = workspace.models.get(of) else {
                let known = workspace.models.keys().filter(|model| *model != name);
                self.error(
                    ConfigError::new(
                        CODE,
                        shadow.site.clone(),
                        format!("model `{name}` is to be compared with `{of}`, which is not declared"),
                        "not a model",
                    )
                    .with_help(suggest(
                        "models.toml",
                        of.as_str(),
                        known.map(ModelName::as_str),
                    )),
                );
                continue;
            };
            if let Some(problem) = incomparable(challenger, champion) {
                self.error(ConfigError::new(
                    CODE,
                    shadow.site.clone(),
                    format!("model `{name}` cannot be compared with `{of}`"),
                    problem,
                ));
                continue;
            }
            for (target, on) in &challenger.targets {
                if !champion.targets.contains_key(target) {
                    self.error(
                        ConfigError::new(
                            CODE,
                            on.site.clone(),
                            format!("model `{name}` has no image to ride in on `{target}`"),
                            format!("`{of}` does not go there"),
                        )
                        .with_help("take the target out"),
                    );
                } else if let Some(other) = taken.insert((of, target), name) {
                    self.error(ConfigError::new(
                        CODE,
                        on.site.clone(),
                        format!("`{of}` has two challengers on `{target}`: `{other}` and `{name}`"),
                        "an image has room for one",
                    ));
                }
            }
        }
    }
}

/// Why the two say nothing about each other.
fn incomparable(challenger: &Model, champion: &Model) -> Option<String> {
    if challenger.name == champion.name {
        return Some("a model always agrees with itself".to_owned());
    }
    if champion.shadow.is_some() {
        return Some("that is a challenger too".to_owned());
    }
    if challenger.task != champion.task {
        return Some("their tasks differ".to_owned());
    }
    if challenger.module != champion.module {
        return Some(format!(
            "`{}` is served by module `{}`, this one wants `{}`",
            champion.name, champion.module, challenger.module
        ));
    }
    match (&challenger.input, &champion.input) {
        (InputSpec::Image(_), InputSpec::Image(_)) => None,
        (InputSpec::Signal(a), InputSpec::Signal(b)) => {
            let cut = |spec: &aiot_package::SignalInput| (spec.channels, spec.window, spec.stride);
            (cut(a) != cut(b)).then(|| {
                "their recordings are cut otherwise: channels, window and stride must be equal".to_owned()
            })
        }
        _ => Some("one takes pictures, the other recordings".to_owned()),
    }
}
