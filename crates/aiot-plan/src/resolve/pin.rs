//! `[[pin]]` of an environment → [`Pin`], and whether it still has a purpose.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use toml::Spanned;

use super::{Resolver, site};
use crate::declare::*;
use crate::diagnose::{ConfigError, SourceFile, suggest};
use crate::names::{EnvironmentName, ModelName, TargetName};
use crate::workspace::*;

/// Longest settings of a pinned image, in bytes: all that a device's twin could hold.
const SETTINGS_LIMIT_BYTES: usize = 32 << 10;

impl Resolver {
    pub(super) fn pins(
        &mut self,
        file: &SourceFile,
        environment: &EnvironmentName,
        declared: Vec<PinDeclaration>,
    ) -> Vec<Pin> {
        let mut pins = Vec::new();
        let mut seen = BTreeSet::new();
        for pin in declared {
            let owner = format!("environment `{environment}`, pin of `{}`", pin.model.get_ref());
            let mut images = BTreeMap::new();
            if pin.image.get_ref().is_empty() {
                self.error(ConfigError::new(
                    "plan::pin",
                    site(file, &pin.image),
                    format!("{owner}: it names no image"),
                    "one `[pin.image.<target>]` for each target",
                ));
            }
            for (name, image) in pin.image.get_ref() {
                if !seen.insert((pin.model.get_ref().clone(), name.get_ref().clone())) {
                    self.error(ConfigError::new(
                        "plan::pin",
                        site(file, name),
                        format!("{owner}: `{}` is pinned twice", name.get_ref()),
                        "which of the two should run?",
                    ));
                }
                if let Some((target, image)) = self.pinned_image(file, &owner, name, image) {
                    images.insert(target, image);
                }
            }
            if pin.reason.get_ref().trim().is_empty() {
                self.error(ConfigError::new(
                    "plan::pin",
                    site(file, &pin.reason),
                    format!("{owner}: nobody says why"),
                    "one sentence for whoever removes it",
                ));
            }
            let Some(model) = ModelName::new(pin.model.get_ref()) else {
                self.error(ConfigError::new(
                    "plan::pin",
                    site(file, &pin.model),
                    format!("{owner}: that is no name of a model"),
                    "as in models.toml",
                ));
                continue;
            };
            pins.push(Pin {
                model,
                version: pin.version,
                site: site(file, &pin.instead_of),
                instead_of: pin.instead_of.into_inner(),
                reason: pin.reason.into_inner(),
                images,
            });
        }
        pins
    }

    fn pinned_image(
        &mut self,
        file: &SourceFile,
        owner: &str,
        name: &Spanned<String>,
        image: &PinnedImageDeclaration,
    ) -> Option<(TargetName, PinnedImage)> {
        let target = TargetName::new(name.get_ref());
        let digest = image.digest.get_ref().parse();
        if digest.is_err() {
            self.error(ConfigError::new(
                "plan::pin",
                site(file, &image.digest),
                format!("{owner}: that is no digest"),
                "sha256: and 64 hexadecimal digits",
            ));
        }
        let settings = image.settings.as_ref().map(|text| {
            let read = (text.get_ref().len() <= SETTINGS_LIMIT_BYTES)
                .then(|| serde_json::from_str::<Map<String, Value>>(text.get_ref()).ok())
                .flatten();
            if !read
                .as_ref()
                .is_some_and(|map| map.values().all(Value::is_object))
            {
                self.error(ConfigError::new(
                    "plan::pin",
                    site(file, text),
                    format!("{owner}: these are no settings"),
                    "a JSON object of objects, as `deploy rollback` writes it",
                ));
            }
            read.unwrap_or_default()
        });
        if target.is_none() {
            self.error(ConfigError::new(
                "plan::pin",
                site(file, name),
                format!("{owner}: `{}` is no name of a target", name.get_ref()),
                "as in targets.toml",
            ));
        }
        let pinned = PinnedImage {
            digest: digest.ok()?,
            size_bytes: image.size_bytes,
            precision: image.precision,
            accuracy: (
                image.accuracy.metric.clone(),
                image.accuracy.float,
                image.accuracy.shipped,
            ),
            settings,
            site: site(file, name),
        };
        Some((target?, pinned))
    }

    /// A pin that holds back nothing that is declared would keep the next release of its model from the devices.
    pub(super) fn check_pins(&mut self, workspace: &Workspace) {
        const HELP: &str =
            "remove the `[[pin]]` and what belongs to it: then the declared version is rolled out";
        for environment in workspace.environments.values() {
            for pin in &environment.pins {
                let (name, owner) = (&pin.model, &environment.name);
                let Some(model) = workspace.models.get(name) else {
                    let known = workspace.models.keys().map(ModelName::as_str);
                    self.error(
                        ConfigError::new(
                            "plan::pin",
                            pin.site.clone(),
                            format!("environment `{owner}` pins model `{name}`, which is not declared"),
                            suggest("models.toml", name.as_str(), known),
                        )
                        .with_help(HELP),
                    );
                    continue;
                };
                if let Some(shadow) = &model.shadow {
                    self.error(
                        ConfigError::new(
                            "plan::pin",
                            pin.site.clone(),
                            format!(
                                "environment `{owner}` pins model `{name}`, which is the challenger of `{}`",
                                shadow.of
                            ),
                            "it has no image of its own",
                        )
                        .with_help(HELP),
                    );
                    continue;
                }
                if model.version != pin.instead_of {
                    self.error(
                        ConfigError::new(
                            "plan::pin_outdated",
                            pin.site.clone(),
                            format!(
                                "environment `{owner}` pins model `{name}` to {} instead of {}, and models.toml has {} now",
                                pin.version, pin.instead_of, model.version
                            ),
                            format!("pinned since: {}", pin.reason),
                        )
                        .with_help(format!(
                            "{HELP}; or write `instead-of = \"{}\"` to hold this version back as well",
                            model.version
                        )),
                    );
                }
                for (target, image) in &pin.images {
                    if !model.targets.contains_key(target) {
                        self.error(
                            ConfigError::new(
                                "plan::pin",
                                image.site.clone(),
                                format!("environment `{owner}` pins model `{name}` on `{target}`, where it does not go"),
                                "not one of its targets in models.toml",
                            )
                            .with_help("remove these lines"),
                        );
                    }
                }
            }
        }
    }
}
