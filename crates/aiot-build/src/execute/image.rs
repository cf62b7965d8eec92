//! Layers, images, indexes. Whatever an image needs that is not in it is found here, before anything leaves the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use aiot_oci::{
    BaseImage, Compression, Descriptor, Digest, FileMode, FileSource, ImageSpec, Layer, LayerBuilder,
    MediaType, assemble_image, assemble_index,
};
use aiot_package::{BASELINE_FILE, Golden, GoldenCase, Precision};
use aiot_plan::action::{Output, PackageParameters};
use aiot_plan::declare::LayerCompression;
use aiot_plan::records::Measured;
use aiot_plan::workspace::Platform;
use aiot_plan::{ModelName, TargetName};

use super::Task;
use super::contents::{self, LayerContent};
use crate::error::BuildError;

/// The user of every image: nobody, by number, since an image has no need for names.
const USER: &str = "65532:65532";

/// The output with the unpacked length of every layer, JSON by digest.
pub const UNPACKED_OUTPUT: &str = "unpacked sizes";

/// What layers hold, by digest and what was looked for; see [`Task::layer_content`].
pub type LayerContents = Mutex<BTreeMap<ContentKey, Arc<Mutex<Option<Arc<LayerContent>>>>>>;
type ContentKey = (aiot_oci::Digest, Vec<String>, bool);

/// What was declared, as the encoder's name.
pub(super) fn codec(declared: LayerCompression) -> Compression {
    match declared {
        LayerCompression::Gzip => Compression::Gzip,
        LayerCompression::Zstd => Compression::Zstd,
    }
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
    /// `root`: absolute path of the package's folder in the image.
    pub(super) fn assemble_package(
        &self,
        root: &str,
        (name, version, description): (&ModelName, &str, &str),
        precision: Precision,
        parameters: &PackageParameters,
    ) -> Result<BTreeMap<String, Output>, BuildError> {
        let onnx = self.bytes("model")?;
        let package = self.package(name.as_str(), version, description, precision, parameters, &onnx)?;
        let measured: Measured =
            serde_json::from_slice(&self.bytes("golden outputs")?).map_err(|error| self.fail(error))?;
        let dir = self.context.paths.file(&self.model(name).evaluation_path);
        let root = root.trim_start_matches('/');
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
        compression: LayerCompression,
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
            .build(self.context.store, codec(compression))
            .map_err(|error| self.fail(error))?;
        Ok(self.one("layer", layer_output(&built)))
    }

    pub(super) fn assemble_image(
        &self,
        (model, target): (&ModelName, &TargetName),
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
        let of_base = spec
            .base
            .as_ref()
            .map_or(&[][..], |base| &base.config.rootfs.diff_ids)
            .to_vec();
        for (name, input) in self.inputs {
            let Some(output) = input.output.as_ref().filter(|output| output.diff_id.is_some()) else {
                continue;
            };
            let layer = self.layer(name, output)?;
            all_layers.push(layer.descriptor.clone());
            spec.layers.push(layer);
        }
        let programs =
            [&entrypoint[0], &env["AIOT_ENGINE_LIBRARY"]].map(|path| path.trim_start_matches('/').to_owned());
        let unpacked = self.look_into(
            (&all_layers, &of_base),
            &programs,
            &spec.platform,
            &self.mounts(model, target),
            glibc,
        )?;
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
        // Beside the image, for whoever asks what it takes on a device.
        let sizes = store
            .put_bytes(&pretty(&unpacked))
            .map_err(|error| self.fail(error))?;
        let sizes = Output {
            digest: sizes.digest,
            size_bytes: sizes.size,
            diff_id: None,
            media_type: Some("application/json".to_owned()),
        };
        Ok(BTreeMap::from([
            ("manifest".to_owned(), document(&manifest)),
            ("config".to_owned(), document(&read.config)),
            (UNPACKED_OUTPUT.to_owned(), sizes),
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

    /// Looks into all layers: whether the image can run, and nothing in it can be changed. Returns layer → length of
    /// its archive in bytes. `of_base`: diff ids of the base image's layers, which are the lowest.
    fn look_into(
        &self,
        (layers, of_base): (&[Descriptor], &[Digest]),
        programs: &[String],
        platform: &aiot_oci::Platform,
        mounts: &BTreeSet<String>,
        glibc: &str,
    ) -> Result<BTreeMap<String, u64>, BuildError> {
        let mut found = Vec::new();
        for (position, layer) in layers.iter().enumerate() {
            let content = self.layer_content(layer, programs, position >= of_base.len())?;
            if let (Some(said), Some(diff_id)) = (of_base.get(position), content.diff_id)
                && *said != diff_id
            {
                return Err(self.fail(format!(
                    "layer {} of the base image unpacks to {diff_id}, and its config says {said}: engines would refuse \
                     the image; take another base image",
                    position + 1
                )));
            }
            found.push(content);
        }
        let problems = contents::problems(&found, programs, platform, mounts);
        if problems.is_empty() {
            let sizes = layers.iter().zip(&found);
            return Ok(sizes
                .map(|(layer, content)| (layer.digest.to_string(), content.unpacked_size_bytes))
                .collect());
        }
        let help = if problems.iter().any(|problem| problem.contains("lacks")) {
            format!("; add its package to the target's base, or lower the module's glibc floor ({glibc})")
        } else {
            String::new()
        };
        Err(self.fail(format!("{}{help}", problems.join("; "))))
    }

    /// What create options mount into the containers of an image.
    fn mounts(&self, model: &ModelName, target: &TargetName) -> BTreeSet<String> {
        let target = &self.context.workspace.targets[target];
        contents::mount_points(&[&target.create_options, &self.model(model).edge.create_options])
    }

    /// What is in a layer. Unpacked once per release: thousands of images share a base, an engine and a module.
    fn layer_content(
        &self,
        layer: &Descriptor,
        programs: &[String],
        is_ours: bool,
    ) -> Result<Arc<LayerContent>, BuildError> {
        let key = (layer.digest, programs.to_vec(), is_ours);
        let slot = {
            let mut known = self.context.layers.lock().expect("no panic while held");
            Arc::clone(known.entry(key).or_default())
        };
        // Two threads that want the same layer unpack it once; other layers do not wait.
        let mut slot = slot.lock().expect("no panic while held");
        if let Some(content) = &*slot {
            return Ok(Arc::clone(content));
        }
        let content = LayerContent::read(self.context.store, layer, programs, is_ours)
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
            let platform = oci_platform(platform);
            let store = self.context.store;
            let config = aiot_oci::image::read_manifest(store, &input.digest)
                .and_then(|manifest| aiot_oci::image::read_config(store, &manifest.config.digest))
                .map_err(|error| self.fail(error))?;
            if config.platform() != platform {
                return Err(self.fail(format!(
                    "the image for {target} says {}, and the index {platform}",
                    config.platform()
                )));
            }
            descriptor.platform = Some(platform);
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
