//! Layers, images, indexes. Whatever an image needs that is not in it is found here, before anything leaves the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use aiot_oci::layer::visit_layer;
use aiot_oci::{
    BaseImage, Compression, Descriptor, EntryKind, FileMode, FileSource, ImageSpec, Layer, LayerBuilder,
    LayerLimits, MediaType, assemble_image, assemble_index,
};
use aiot_package::{BASELINE_FILE, Golden, GoldenCase, PACKAGE_DIR, Precision};
use aiot_plan::action::{Output, PackageParameters};
use aiot_plan::records::Measured;
use aiot_plan::workspace::Platform;
use aiot_plan::{ModelName, TargetName};
use aiot_toolchain::elf;

use super::Task;
use crate::error::BuildError;

/// The user of every image: nobody, by number, since an image has no need for names.
const USER: &str = "65532:65532";

/// What layers hold, by digest and the two programs that were looked for; see [`Task::layer_content`].
pub type LayerContents =
    Mutex<BTreeMap<(aiot_oci::Digest, [String; 2]), Arc<Mutex<Option<Arc<LayerContent>>>>>>;

/// What is in a layer.
#[derive(Debug, Default)]
pub struct LayerContent {
    /// All paths, without the first `/`.
    paths: BTreeSet<String>,
    /// Their last parts.
    names: BTreeSet<String>,
    /// Programs that were looked for → libraries that they need.
    needed: BTreeMap<String, Vec<String>>,
}

/// What is kept of a layer.
pub(super) fn layer_output(layer: &Layer) -> Output {
    Output {
        digest: layer.descriptor.digest,
        size_bytes: layer.descriptor.size,
        diff_id: Some(layer.diff_id),
        media_type: Some(layer.descriptor.media_type.to_string()),
    }
}

/// A descriptor's platform in the words of the OCI crate.
pub fn oci_platform(platform: &Platform) -> aiot_oci::Platform {
    aiot_oci::Platform::new(&platform.os, &platform.architecture, platform.variant.as_deref())
}

impl Task<'_> {
    pub(super) fn assemble_package(
        &self,
        name: &ModelName,
        version: &str,
        description: &str,
        precision: Precision,
        parameters: &PackageParameters,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let onnx = self.bytes("model")?;
        let package = self.package(name.as_str(), version, description, precision, parameters, &onnx)?;
        let measured: Measured =
            serde_json::from_slice(&self.bytes("golden outputs")?).map_err(|error| self.fail(error))?;
        let dir = self.context.paths.file(&self.model(name).evaluation_path);
        let root = PACKAGE_DIR.trim_start_matches('/');
        let mut layer = LayerBuilder::new();
        let mut add = |path: String, source: FileSource| {
            layer
                .file(&format!("{root}/{path}"), source, FileMode::Plain)
                .map(|_| ())
                .map_err(|error| self.fail(error))
        };
        let mut golden = Golden {
            tolerance: measured.golden.tolerance,
            cases: Vec::new(),
        };
        for case in measured.golden.cases {
            let file = format!("golden/{}", case.file);
            add(file.clone(), FileSource::Path(dir.join(&case.file)))?;
            golden.cases.push(GoldenCase {
                file,
                outputs: case.outputs,
            });
        }
        add("package.json".to_owned(), FileSource::Bytes(pretty(&package)))?;
        add("golden.json".to_owned(), FileSource::Bytes(pretty(&golden)))?;
        if let Some(baseline) = &measured.baseline {
            add(BASELINE_FILE.to_owned(), FileSource::Bytes(pretty(baseline)))?;
        }
        add("model.onnx".to_owned(), FileSource::Bytes(onnx))?;
        // Weights hardly shrink, and a plain layer is baked at the speed of a copy.
        let built = layer
            .build(self.context.store, Compression::None)
            .map_err(|error| self.fail(error))?;
        Ok(self.one("layer", layer_output(&built)))
    }

    pub(super) fn assemble_layer(
        &self,
        path: &str,
        mode: u32,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let mut layer = LayerBuilder::new();
        layer
            .file(
                path,
                FileSource::Blob(self.input("file").digest),
                FileMode::from_unix(mode),
            )
            .map_err(|error| self.fail(error))?;
        let built = layer
            .build(self.context.store, Compression::Gzip)
            .map_err(|error| self.fail(error))?;
        Ok(self.one("layer", layer_output(&built)))
    }

    pub(super) fn assemble_image(
        &self,
        platform: &Platform,
        entrypoint: &[String],
        env: &BTreeMap<String, String>,
        labels: &BTreeMap<String, String>,
        glibc: &str,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let store = self.context.store;
        let mut spec = ImageSpec::new(oci_platform(platform));
        let mut all_layers: Vec<Descriptor> = Vec::new();
        if self.inputs.contains_key("base manifest") {
            let manifest = &self.input("base manifest").digest;
            let size = self
                .input("base manifest")
                .output
                .as_ref()
                .map_or(0, |output| output.size_bytes);
            let descriptor = Descriptor::new(MediaType::ImageManifest, *manifest, size);
            let base = BaseImage::read(store, &descriptor).map_err(|error| self.fail(error))?;
            all_layers.extend(base.manifest.layers.iter().cloned());
            spec.base = Some(base);
        }
        for (name, input) in self.inputs {
            let Some(output) = input.output.as_ref().filter(|output| output.diff_id.is_some()) else {
                continue;
            };
            let layer = self.layer(name, output)?;
            all_layers.push(layer.descriptor.clone());
            spec.layers.push(layer);
        }
        self.check_libraries(&all_layers, &entrypoint[0], &env["AIOT_ENGINE_LIBRARY"], glibc)?;
        spec.entrypoint = entrypoint.to_vec();
        spec.cmd = vec!["serve".to_owned()];
        spec.env = env.clone();
        spec.user = Some(USER.to_owned());
        spec.working_dir = Some("/".to_owned());
        spec.exposed_ports = vec!["8080/tcp".to_owned(), "9600/tcp".to_owned()];
        spec.labels = labels.clone();
        spec.annotations = labels.clone();
        spec.stop_signal = Some("SIGTERM".to_owned());
        let manifest = assemble_image(store, &spec).map_err(|error| self.fail(error))?;
        let read =
            aiot_oci::image::read_manifest(store, &manifest.digest).map_err(|error| self.fail(error))?;
        let document = |descriptor: &Descriptor| Output {
            digest: descriptor.digest,
            size_bytes: descriptor.size,
            diff_id: None,
            media_type: Some(descriptor.media_type.to_string()),
        };
        Ok(BTreeMap::from([
            ("manifest".to_owned(), document(&manifest)),
            ("config".to_owned(), document(&read.config)),
        ]))
    }

    fn layer(&self, name: &str, output: &Output) -> Result<Layer, BuildError> {
        let broken = || {
            self.fail(format!(
                "the result for `{name}` is no layer; delete the store and run again"
            ))
        };
        let media_type = output.media_type.as_deref().ok_or_else(broken)?;
        Ok(Layer {
            descriptor: Descriptor::new(MediaType::from(media_type), output.digest, output.size_bytes),
            diff_id: output.diff_id.ok_or_else(broken)?,
            // Not needed to name a layer.
            uncompressed_size_bytes: 0,
        })
    }

    /// The program, the engine and all libraries that they name are in the layers, and the C library is new enough.
    fn check_libraries(
        &self,
        layers: &[Descriptor],
        program: &str,
        engine: &str,
        glibc: &str,
    ) -> Result<(), BuildError> {
        let paths = [program.trim_start_matches('/'), engine.trim_start_matches('/')];
        let mut contents = Vec::new();
        for layer in layers {
            // A base image's layers are fetched only where they must be looked into: its engine is checked by path
            // when it is pulled.
            if !self.context.store.contains(&layer.digest, layer.size) {
                return Ok(());
            }
            contents.push(self.layer_content(layer, paths)?);
        }
        for path in paths {
            if !contents.iter().any(|content| content.paths.contains(path)) {
                return Err(self.fail(format!("the image has no /{path}")));
            }
        }
        let has_file = |name: &str| contents.iter().any(|content| content.names.contains(name));
        // What a later layer has in its place counts.
        let needed: BTreeMap<&String, &Vec<String>> =
            contents.iter().flat_map(|content| &content.needed).collect();
        let missing: Vec<String> = needed
            .iter()
            .flat_map(|(path, libraries)| {
                let missing = libraries.iter().filter(|library| !has_file(library));
                missing.map(move |library| format!("{library} (needed by /{path})"))
            })
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(self.fail(format!(
            "the image lacks {}; add its package to the target's base, or lower the module's glibc floor ({glibc})",
            missing.join(", ")
        )))
    }

    /// What is in a layer. Unpacked once per release: thousands of images share a base, an engine and a module.
    fn layer_content(
        &self,
        layer: &Descriptor,
        programs: [&str; 2],
    ) -> Result<Arc<LayerContent>, BuildError> {
        let key = (layer.digest, programs.map(str::to_owned));
        let slot = {
            let mut known = self.context.layers.lock().expect("no panic while held");
            Arc::clone(known.entry(key).or_default())
        };
        // Two threads that want the same layer unpack it once; other layers do not wait.
        let mut slot = slot.lock().expect("no panic while held");
        if let Some(content) = &*slot {
            return Ok(Arc::clone(content));
        }
        let mut content = LayerContent::default();
        let mut visit = |entry: &aiot_oci::LayerEntry, reader: &mut dyn std::io::Read| {
            let path = entry.path.clone();
            content.names.extend(path.rsplit('/').next().map(str::to_owned));
            if matches!(entry.kind, EntryKind::File { .. }) && programs.contains(&path.as_str()) {
                let mut bytes = Vec::new();
                reader
                    .read_to_end(&mut bytes)
                    .map_err(|error| aiot_oci::LayerError::Unreadable {
                        digest: layer.digest,
                        reason: error.to_string(),
                    })?;
                if let Ok(facts) = elf::inspect(&bytes) {
                    content.needed.insert(path.clone(), facts.needed);
                }
            }
            content.paths.insert(path);
            Ok(())
        };
        visit_layer(self.context.store, layer, LayerLimits::default(), &mut visit)
            .map_err(|error| self.fail(error))?;
        Ok(Arc::clone(slot.insert(Arc::new(content))))
    }

    pub(super) fn assemble_index(
        &self,
        platforms: &[(TargetName, Platform)],
        annotations: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let mut manifests = Vec::new();
        for (target, platform) in platforms {
            let input = self.input(&format!("image for {target}"));
            let size = input.output.as_ref().map_or(0, |output| output.size_bytes);
            let mut descriptor = Descriptor::new(MediaType::ImageManifest, input.digest, size);
            descriptor.platform = Some(oci_platform(platform));
            descriptor
                .annotations
                .insert("dev.aiot-ops.target".to_owned(), target.to_string());
            manifests.push(descriptor);
        }
        let index = assemble_index(self.context.store, &manifests, annotations.clone())
            .map_err(|error| self.fail(error))?;
        let output = Output {
            digest: index.digest,
            size_bytes: index.size,
            diff_id: None,
            media_type: Some(index.media_type.to_string()),
        };
        Ok(self.one("index", output))
    }
}

/// JSON for people and machines, final newline.
fn pretty(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("plain data");
    bytes.push(b'\n');
    bytes
}
