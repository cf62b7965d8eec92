//! One `[target.<name>]` → [`Target`].

use toml::Spanned;

use super::{Resolver, TRIPLES, parse_version, site};
use crate::declare::*;
use crate::diagnose::{ConfigError, SourceFile, suggest};
use crate::names::TargetName;
use crate::workspace::*;

impl Resolver {
    pub(super) fn target(
        &mut self,
        file: &SourceFile,
        name: &Spanned<String>,
        declared: &TargetDeclaration,
    ) -> Option<Target> {
        let target_name = self.name(file, name, TargetName::new)?;
        let before = self.errors.len();
        let platform = self.platform(file, &target_name, declared);
        if parse_version(declared.glibc.get_ref()).is_none() {
            self.error(ConfigError::new(
                "plan::glibc",
                site(file, &declared.glibc),
                format!("target `{target_name}`: glibc is no version"),
                "expected for example \"2.31\"",
            ));
        }
        let engine = self.engine(file, &target_name, declared);
        let base = match &declared.base {
            BaseSource::Debian(base) => Some(Base::Debian {
                suite: base.suite.clone(),
                packages: base.packages.iter().map(|name| name.get_ref().clone()).collect(),
                exclude: base.exclude.clone(),
            }),
            BaseSource::Image(base) => self.base_image(file, &target_name, base),
            BaseSource::Scratch(_) => Some(Base::Scratch),
        };
        let create_options = self.create_options(
            file,
            &format!("target `{target_name}`"),
            declared.create_options.as_ref(),
        );
        if declared.limits.memory_mib == 0 || declared.limits.disk_mib == 0 {
            self.error(ConfigError::new(
                "plan::limits",
                site(file, name),
                format!("target `{target_name}`: memory-mib and disk-mib must be above 0"),
                "limits of this target",
            ));
        }
        if self.errors.len() > before {
            return None;
        }
        Some(Target {
            description: declared.description.clone(),
            triple: declared.triple.get_ref().clone(),
            platform: platform?,
            processor: declared.processor,
            glibc: declared.glibc.get_ref().clone(),
            builder: declared.builder,
            layer_compression: declared.layer_compression,
            engine: engine?,
            base: base?,
            memory_bytes: declared.limits.memory_mib.saturating_mul(1 << 20),
            disk_bytes: declared.limits.disk_mib.saturating_mul(1 << 20),
            link_kbit_per_s: declared.limits.link_kbit_per_s,
            create_options,
            condition: declared.condition.get_ref().clone(),
            condition_site: site(file, &declared.condition),
            site: site(file, name),
            name: target_name,
        })
    }

    fn platform(
        &mut self,
        file: &SourceFile,
        target: &TargetName,
        declared: &TargetDeclaration,
    ) -> Option<Platform> {
        let triple = declared.triple.get_ref().as_str();
        let Some((_, architecture, variant)) = TRIPLES.iter().find(|(known, ..)| *known == triple) else {
            let help = suggest("this release", triple, TRIPLES.iter().map(|(known, ..)| *known));
            self.error(
                ConfigError::new(
                    "plan::triple",
                    site(file, &declared.triple),
                    format!("target `{target}`: no module can be built for `{triple}`"),
                    "the engine is loaded at run time, which needs Linux with glibc",
                )
                .with_help(help),
            );
            return None;
        };
        let expected = Platform {
            os: "linux".to_owned(),
            architecture: (*architecture).to_owned(),
            variant: variant.map(str::to_owned),
        };
        if *declared.platform.get_ref() != expected.to_string() {
            self.error(
                ConfigError::new(
                    "plan::platform",
                    site(file, &declared.platform),
                    format!(
                        "target `{target}`: platform `{}` is not what `{triple}` runs on",
                        declared.platform.get_ref()
                    ),
                    format!("`{triple}` makes {expected}"),
                )
                .with_help(format!("write platform = \"{expected}\"")),
            );
        }
        Some(expected)
    }

    fn engine(
        &mut self,
        file: &SourceFile,
        target: &TargetName,
        declared: &TargetDeclaration,
    ) -> Option<Engine> {
        let engine = &declared.engine;
        if parse_version(engine.version.get_ref()).is_none() {
            self.error(ConfigError::new(
                "plan::engine_version",
                site(file, &engine.version),
                format!("target `{target}`: the engine's version is no version"),
                "expected for example \"1.21\" or \"1.32.0\"",
            ));
        }
        if engine.execution_providers.is_empty() {
            self.error(ConfigError::new(
                "plan::execution_providers",
                site(file, &engine.version),
                format!("target `{target}` has no execution provider"),
                "the engine of this target",
            ));
        }
        let gpu_provider = engine
            .execution_providers
            .iter()
            .find(|provider| *provider.get_ref() != ExecutionProviderName::Cpu);
        if let (Some(provider), Processor::Cpu) = (gpu_provider, declared.processor) {
            self.error(
                ConfigError::new(
                    "plan::execution_providers",
                    site(file, provider),
                    format!(
                        "target `{target}` has no GPU for `{}`",
                        provider.get_ref().as_str()
                    ),
                    "processor is \"cpu\"",
                )
                .with_help("write processor = \"gpu\", or take the provider out"),
            );
        }
        let source = match &engine.source {
            EngineSource::Wheel(wheel) => {
                let architecture = match declared.triple.get_ref().split('-').next().unwrap_or_default() {
                    // Python's word, from `uname`.
                    "armv7" => "armv7l",
                    other => other,
                };
                if !wheel.platform.get_ref().ends_with(architecture) {
                    self.error(ConfigError::new(
                        "plan::wheel_platform",
                        site(file, &wheel.platform),
                        format!(
                            "target `{target}`: a wheel for `{}` does not run there",
                            wheel.platform.get_ref()
                        ),
                        format!("expected a tag that ends in `{architecture}`"),
                    ));
                }
                EngineFrom::Wheel {
                    package: wheel.package.clone(),
                    platform: wheel.platform.get_ref().clone(),
                }
            }
            EngineSource::Debian(debian) => {
                if !matches!(declared.base, BaseSource::Debian(_)) {
                    self.error(ConfigError::new(
                        "plan::engine_source",
                        site(file, &engine.version),
                        format!(
                            "target `{target}` takes its engine from Debian, but stands on something else"
                        ),
                        "engine.source.debian needs base.debian",
                    ));
                }
                EngineFrom::Debian {
                    package: debian.package.clone(),
                    library: debian.library.clone(),
                }
            }
            EngineSource::BaseImage(image) => {
                if !matches!(declared.base, BaseSource::Image(_)) || !image.library.get_ref().starts_with('/')
                {
                    self.error(ConfigError::new(
                        "plan::engine_source",
                        site(file, &image.library),
                        format!("target `{target}` takes its engine from a base image"),
                        "needs base.image and an absolute path in it",
                    ));
                }
                EngineFrom::BaseImage {
                    library: image.library.get_ref().clone(),
                }
            }
        };
        Some(Engine {
            version: engine.version.get_ref().clone(),
            source,
            execution_providers: engine
                .execution_providers
                .iter()
                .map(|provider| *provider.get_ref())
                .collect(),
            intra_threads: engine.intra_threads,
        })
    }

    fn base_image(&mut self, file: &SourceFile, target: &TargetName, declared: &ImageBase) -> Option<Base> {
        let reference = declared.reference.get_ref();
        let pinned = reference
            .split_once('@')
            .filter(|(repository, _)| !repository.is_empty());
        let digest = pinned.and_then(|(_, digest)| digest.parse().ok());
        if digest.is_none() {
            self.error(
                ConfigError::new(
                    "plan::base_image",
                    site(file, &declared.reference),
                    format!("target `{target}`: the base image is not pinned"),
                    "expected registry/repository@sha256:…",
                )
                .with_help("`skopeo inspect docker://IMAGE` prints the digest of the index"),
            );
        }
        digest.map(|digest| Base::image(declared, digest, site(file, &declared.reference)))
    }
}
