//! Base and engine of a target: layers that all its images share.

use std::collections::BTreeMap;

use aiot_package::Digest;

use super::Source;
use super::build::{Builder, output, sorted};
use crate::action::Action;
use crate::lock::{ClosureRequest, WheelRequest};
use crate::workspace::{Base, EngineFrom, Target};

/// Where the wheel's engine stands in an image.
const ENGINE_PATH: &str = "usr/lib/libonnxruntime.so";

/// The parts of a target that all its images share.
pub(super) struct TargetParts {
    /// Layers in order, each an input name and where it comes from.
    pub(super) layers: Vec<(String, Source)>,
    /// Further inputs of the image: manifest and config of a base image.
    pub(super) base: Vec<(String, Source)>,
    /// Absolute path of the engine's library in the image.
    pub(super) engine_path: String,
}

impl Builder<'_> {
    pub(super) fn target_parts(&mut self, target: &Target) -> Option<TargetParts> {
        match &target.base {
            Base::Debian {
                suite,
                packages,
                exclude,
            } => self.debian_parts(target, suite, packages, exclude),
            Base::Image { reference, .. } => self.image_parts(target, reference),
            Base::Scratch => None,
        }
    }

    pub(super) fn debian_parts(
        &mut self,
        target: &Target,
        suite: &str,
        packages: &[String],
        exclude: &[String],
    ) -> Option<TargetParts> {
        let architecture = target.platform.debian_architecture();
        let mut roots = packages.to_vec();
        let library = match &target.engine.source {
            EngineFrom::Debian { package, library } => {
                roots.push(package.clone());
                Some(library.clone())
            }
            _ => None,
        };
        let request = ClosureRequest {
            suite: suite.to_owned(),
            architecture: architecture.to_string(),
            roots: sorted(roots),
            exclude: sorted(exclude.to_vec()),
        };
        let wheel_engine = match &target.engine.source {
            EngineFrom::Wheel { .. } => Some(self.wheel_engine_layer(target)),
            _ => None,
        };
        let Some(closure) = self.lock.closure(&request) else {
            self.unlocked.closures.insert(request);
            return None;
        };
        // The library is part of the name: the same packages with and without an engine are two bases.
        let digest = Digest::of(
            serde_json::to_string(&(&request, &library))
                .unwrap_or_default()
                .as_bytes(),
        );
        let node = self.add(
            format!(
                "assemble base {suite} {} {}{}",
                request.architecture,
                digest.short(),
                target.layer_compression.suffix()
            ),
            Action::AssembleBase {
                architecture: request.architecture.clone(),
                packages: closure.package.clone(),
                engine_library: library.clone(),
                compression: target.layer_compression,
            },
            vec![],
            &["aiot-debian", "aiot-oci"],
        );
        let mut layers = vec![("base layer".to_owned(), output(node, "layer"))];
        let engine_path = match (wheel_engine, library) {
            (Some(engine), _) => {
                layers.push(("engine layer".to_owned(), output(engine?, "layer")));
                format!("/{ENGINE_PATH}")
            }
            (None, library) => {
                layers.push(("engine layer".to_owned(), output(node, "engine-layer")));
                format!(
                    "/usr/lib/{}/{}",
                    architecture.multiarch(),
                    library.unwrap_or_default()
                )
            }
        };
        Some(TargetParts {
            layers,
            base: vec![],
            engine_path,
        })
    }

    pub(super) fn image_parts(&mut self, target: &Target, reference: &str) -> Option<TargetParts> {
        let node = self.add(
            format!("fetch base {} {}", reference, target.platform),
            Action::FetchBaseImage {
                reference: reference.to_owned(),
                platform: target.platform.clone(),
            },
            vec![],
            &["aiot-oci"],
        );
        let base = vec![
            ("base manifest".to_owned(), output(node, "manifest")),
            ("base config".to_owned(), output(node, "config")),
        ];
        let (layers, engine_path) = match &target.engine.source {
            EngineFrom::BaseImage { library } => (vec![], library.clone()),
            _ => {
                let engine = self.wheel_engine_layer(target)?;
                (
                    vec![("engine layer".to_owned(), output(engine, "layer"))],
                    format!("/{ENGINE_PATH}"),
                )
            }
        };
        Some(TargetParts {
            layers,
            base,
            engine_path,
        })
    }

    pub(super) fn wheel_engine_layer(&mut self, target: &Target) -> Option<usize> {
        let EngineFrom::Wheel { package, platform } = &target.engine.source else {
            return None;
        };
        let request = WheelRequest {
            package: package.clone(),
            version: target.engine.version.clone(),
            platform: platform.clone(),
        };
        let library = self.engine(&request)?;
        let id = format!(
            "assemble engine {package} {} {platform}{}",
            request.version,
            target.layer_compression.suffix()
        );
        let action = Action::AssembleLayer {
            path: ENGINE_PATH.to_owned(),
            mode: 0o644,
            compression: target.layer_compression,
        };
        Some(self.add(
            id,
            action,
            vec![("file", output(library, "library"))],
            &["aiot-oci"],
        ))
    }
}

pub(super) fn image_env(target: &Target, engine_path: &str) -> BTreeMap<String, String> {
    let providers: Vec<&str> = target
        .engine
        .execution_providers
        .iter()
        .map(|provider| provider.as_str())
        .collect();
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), "/usr/bin".to_owned()),
        ("AIOT_ENGINE_LIBRARY".to_owned(), engine_path.to_owned()),
        ("AIOT_EXECUTION_PROVIDERS".to_owned(), providers.join(",")),
        // ONNX Runtime's wheels (seen: 1.32) hold a telemetry client that starts where nothing forbids it, with a
        // database in the home folder for events meant for Microsoft; the start waits for it.
        ("ORT_DISABLE_TELEMETRY".to_owned(), "1".to_owned()),
    ]);
    if let Some(threads) = target.engine.intra_threads {
        env.insert("AIOT_INTRA_THREADS".to_owned(), threads.to_string());
    }
    env
}
