//! One `deployments/<environment>.toml` → [`Environment`].

use aiot_package::Digest;
use toml::Spanned;

use super::{Resolver, at, parse_version, site};
use crate::declare::*;
use crate::diagnose::{ConfigError, SourceFile};
use crate::names::{EnvironmentName, is_name};
use crate::workspace::*;

impl Resolver {
    pub(super) fn environment(
        &mut self,
        file: &SourceFile,
        name: &str,
        declared: EnvironmentFile,
    ) -> Option<Environment> {
        let start = at(file, 0..0);
        let Some(environment) = EnvironmentName::new(name) else {
            self.error(ConfigError::new(
                "plan::name",
                start,
                format!("`{name}` cannot name an environment"),
                "lower-case letters, digits and single hyphens, at most 40",
            ));
            return None;
        };
        let before = self.errors.len();
        for host in [&declared.hub, &declared.registry].into_iter().flatten() {
            let good = !host.get_ref().is_empty()
                && host
                    .get_ref()
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:".contains(c));
            if !good {
                self.error(ConfigError::new(
                    "plan::host",
                    site(file, host),
                    format!(
                        "environment `{environment}`: `{}` is no host name",
                        host.get_ref()
                    ),
                    "host[:port], lower case, without scheme or path",
                ));
            }
        }
        if !declared.repository_prefix.get_ref().split('/').all(is_name) {
            self.error(ConfigError::new(
                "plan::repository_prefix",
                site(file, &declared.repository_prefix),
                format!("environment `{environment}`: the prefix cannot begin a repository"),
                "lower-case names joined by `/`",
            ));
        }
        for image in [&declared.system.edge_agent, &declared.system.edge_hub] {
            if !is_exact_image(image.get_ref()) {
                self.error(
                    ConfigError::new(
                        "plan::system_image",
                        site(file, image),
                        format!(
                            "environment `{environment}`: `{}` may change under your feet",
                            image.get_ref()
                        ),
                        "not pinned",
                    )
                    .with_help("write the exact version (three numbers) or repository@sha256:…"),
                );
            }
        }
        let signature_keys = self.signature_keys(file, &environment, declared.signatures.as_ref());
        let mut rings: Vec<Ring> = Vec::new();
        for ring in &declared.ring {
            if !is_name(ring.name.get_ref()) || rings.iter().any(|known| known.name == *ring.name.get_ref()) {
                self.error(ConfigError::new(
                    "plan::ring",
                    site(file, &ring.name),
                    format!(
                        "environment `{environment}`: `{}` cannot name a ring",
                        ring.name.get_ref()
                    ),
                    "a name of its own: lower-case letters, digits and single hyphens",
                ));
            }
            rings.push(self.ring(file, &environment, ring));
        }
        let pins = self.pins(file, &environment, declared.pin);
        if self.errors.len() > before {
            return None;
        }
        Some(Environment {
            name: environment,
            description: declared.description,
            hub: declared.hub.map(Spanned::into_inner),
            registry: declared.registry.map(Spanned::into_inner),
            repository_prefix: declared.repository_prefix.into_inner(),
            edge_agent: system_image(file, declared.system.edge_agent),
            edge_hub: system_image(file, declared.system.edge_hub),
            debian_mirror: declared.debian_mirror,
            debian_snapshot: declared.debian_snapshot,
            signature_keys,
            rings,
            pins,
        })
    }

    fn signature_keys(
        &mut self,
        file: &SourceFile,
        environment: &EnvironmentName,
        declared: Option<&SignaturesDeclaration>,
    ) -> Vec<SignatureKey> {
        let mut keys: Vec<SignatureKey> = Vec::new();
        let Some(declared) = declared else { return keys };
        if declared.public_keys.get_ref().is_empty() {
            self.error(
                ConfigError::new(
                    "plan::signature_keys",
                    site(file, &declared.public_keys),
                    format!("environment `{environment}`: signatures are asked for, and no key is trusted"),
                    "no image could ever be deployed",
                )
                .with_help("name a public key, or leave `[signatures]` out where no signature is asked for"),
            );
        }
        for path in declared.public_keys.get_ref() {
            self.path(file, path);
            if keys.iter().any(|known| known.path == *path.get_ref()) {
                self.error(ConfigError::new(
                    "plan::signature_keys",
                    site(file, path),
                    format!("environment `{environment}`: `{}` is named twice", path.get_ref()),
                    "once is enough",
                ));
            }
            keys.push(SignatureKey {
                path: path.get_ref().clone(),
                site: site(file, path),
            });
        }
        keys
    }
}

fn system_image(file: &SourceFile, declared: Spanned<String>) -> SystemImage {
    SystemImage {
        site: site(file, &declared),
        image: declared.into_inner(),
    }
}

fn is_exact_image(image: &str) -> bool {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let (last, tag) = last
        .split_once(':')
        .map_or((last, None), |(last, tag)| (last, Some(tag)));
    let pinned = match (tag, digest) {
        (None, Some(digest)) => digest.parse::<Digest>().is_ok(),
        (Some(tag), None) => parse_version(tag).is_some_and(|numbers| numbers.len() == 3),
        // The edge agent refuses a tag and a digest together.
        _ => false,
    };
    pinned && !last.is_empty()
}
