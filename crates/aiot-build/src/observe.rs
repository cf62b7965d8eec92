//! Files and tools → [`Facts`]. Reads, never writes below the workspace (but for its own memory of digests).
//!
//! A file that was hashed before and was not touched since (size, time, inode) is not read again: a release with
//! nothing to do has 0.3 s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aiot_oci::Digest;
use aiot_plan::declare::BuilderKind;
use aiot_plan::plan::{CalibrationRecord, Facts};
use aiot_plan::records::{CALIBRATION_FILE, Calibration, MEASURED_FILE, MeasuredFile};
use aiot_plan::{ModelName, ModuleName, Workspace};
use aiot_toolchain::builder::{container_builder, system_linker};
use aiot_toolchain::sources::{ModuleSources, SourceWorkspace};
use aiot_toolchain::triple::triple_facts;
use aiot_toolchain::versions::{linker_version, rustc_version};
use sha2::Digest as _;

use crate::cache::FileState;
use crate::error::{BuildError, io};
use crate::paths::Paths;

/// Longest record or label file that is read.
const SMALL_FILE_LIMIT_BYTES: u64 = 64 << 20;

/// Digests of files, remembered from run to run.
pub struct FileIndex {
    path: PathBuf,
    known: BTreeMap<String, (FileState, Digest)>,
    changed: bool,
}

impl FileIndex {
    /// Opens the memory below `paths.state`.
    pub fn open(paths: &Paths) -> FileIndex {
        let path = paths.state.join("files.json");
        // A memory that cannot be read costs a second hashing, nothing more.
        let known = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        FileIndex {
            path,
            known: known.unwrap_or_default(),
            changed: false,
        }
    }

    /// The digest of a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn digest(&mut self, path: &Path) -> Result<Digest, BuildError> {
        let metadata = std::fs::metadata(path).map_err(io("read", path))?;
        let state = FileState::of(&metadata);
        let name = path.to_string_lossy().into_owned();
        if let Some((known, digest)) = self.known.get(&name)
            && *known == state
        {
            return Ok(*digest);
        }
        let mut file = std::fs::File::open(path).map_err(io("read", path))?;
        let mut hasher = sha2::Sha256::new();
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            let length = std::io::Read::read(&mut file, &mut buffer).map_err(io("read", path))?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
        }
        let digest = Digest::from_bytes(hasher.finalize().into());
        self.known.insert(name, (state, digest));
        self.changed = true;
        Ok(digest)
    }

    /// The digest of a data set: names and contents of all files below the folder.
    ///
    /// # Errors
    /// When the folder cannot be listed or a file not read.
    pub fn dataset(&mut self, dir: &Path) -> Result<Digest, BuildError> {
        let mut text = String::new();
        for entry in walkdir::WalkDir::new(dir).sort_by_file_name() {
            let entry = entry
                .map_err(|error| BuildError::Other(format!("cannot list {}: {error}", dir.display())))?;
            if entry.file_type().is_file() {
                let name = entry
                    .path()
                    .strip_prefix(dir)
                    .unwrap_or(entry.path())
                    .to_string_lossy();
                text.push_str(&format!("{name}\0{}\n", self.digest(entry.path())?));
            }
        }
        Ok(Digest::of(text.as_bytes()))
    }

    /// Writes the memory down.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self) -> Result<(), BuildError> {
        if !self.changed {
            return Ok(());
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(io("create", folder))?;
        let file = tempfile::NamedTempFile::new_in(folder).map_err(io("create a file in", folder))?;
        std::fs::write(file.path(), serde_json::to_vec(&self.known).expect("plain data"))
            .map_err(io("write", &self.path))?;
        file.persist(&self.path).map_err(|error| BuildError::Io {
            action: "write",
            path: self.path.clone(),
            source: error.error,
        })?;
        Ok(())
    }
}

/// Facts, and what the executor needs to find their contents again.
pub struct Observation {
    /// What the plan is made from.
    pub facts: Facts,
    /// What each module is built from.
    pub modules: BTreeMap<ModuleName, ModuleSources>,
    /// Bytes of committed records by their digest.
    pub records: BTreeMap<Digest, Vec<u8>>,
    /// Committed measurements.
    pub measured: BTreeMap<ModelName, MeasuredFile>,
    /// Digests of the record files as they are on disk, for the lock.
    pub record_files: BTreeMap<ModelName, (Option<Digest>, Option<Digest>)>,
}

/// Looks at everything that the workspace's declarations name.
///
/// # Errors
/// The first file or tool that cannot be read; what a declaration is to blame for was reported by
/// [`crate::workspace::check`].
pub fn observe(
    paths: &Paths,
    workspace: &Workspace,
    files: &mut FileIndex,
) -> Result<Observation, BuildError> {
    let mut facts = Facts {
        host_architecture: std::env::consts::ARCH.to_owned(),
        code: code_digests(),
        ..Facts::default()
    };
    let mut observation = Observation {
        facts: Facts::default(),
        modules: BTreeMap::new(),
        records: BTreeMap::new(),
        measured: BTreeMap::new(),
        record_files: BTreeMap::new(),
    };
    for model in workspace.models.values() {
        for path in [Some(&model.path), model.labels_path.as_ref()]
            .into_iter()
            .flatten()
        {
            facts.files.insert(path.clone(), files.digest(&paths.file(path))?);
        }
        for path in [Some(&model.evaluation_path), model.calibration_path.as_ref()]
            .into_iter()
            .flatten()
        {
            if !facts.datasets.contains_key(path) {
                facts
                    .datasets
                    .insert(path.clone(), files.dataset(&paths.file(path))?);
            }
        }
        read_records(paths, &model.name, &mut facts, &mut observation)?;
    }
    if !workspace.models.is_empty() {
        let sources = SourceWorkspace::read(&paths.root).map_err(BuildError::other)?;
        for model in workspace.models.values() {
            if observation.modules.contains_key(&model.module) {
                continue;
            }
            let module = sources.module(model.module.as_str()).map_err(BuildError::other)?;
            facts
                .modules
                .insert(model.module.clone(), module_digest(paths, &module, files)?);
            if facts.rustc.is_empty() {
                let channel = module.toolchain_channel.as_deref();
                let rustc = rustc_version(&paths.root, channel).map_err(BuildError::other)?;
                facts.rustc = rustc.to_string();
                facts.linkers = linkers(workspace, &rustc.host)?;
            }
            observation.modules.insert(model.module.clone(), module);
        }
    }
    files.save()?;
    observation.facts = facts;
    Ok(observation)
}

/// Versions of the linkers that targets name and that are no wheels. One that is not there is left out: the compile
/// that needs it says what to install, and a workspace whose programs are in the store needs none.
fn linkers(workspace: &Workspace, host: &str) -> Result<BTreeMap<(BuilderKind, String), String>, BuildError> {
    let mut versions = BTreeMap::new();
    for target in workspace.targets.values() {
        let builder = target.builder.unwrap_or_default();
        let program = match builder {
            BuilderKind::Zigbuild => continue,
            BuilderKind::Cargo => triple_facts(&target.triple)
                .ok()
                .and_then(|facts| system_linker(facts, host).ok())
                .map(|linker| linker.gcc),
            BuilderKind::Cross => container_builder().ok().map(|container| container.cross),
        };
        let place = (builder, target.triple.clone());
        if let Some(program) = program
            && !versions.contains_key(&place)
        {
            versions.insert(place, linker_version(&program).map_err(BuildError::other)?);
        }
    }
    Ok(versions)
}

/// Folder of a model's records: beside its file where that is `models/<name>/…`, so that a folder can be copied whole.
pub fn record_dir(paths: &Paths, model: &ModelName) -> PathBuf {
    paths.root.join("models").join(model.as_str())
}

fn read_records(
    paths: &Paths,
    model: &ModelName,
    facts: &mut Facts,
    observation: &mut Observation,
) -> Result<(), BuildError> {
    let dir = record_dir(paths, model);
    let broken = |file: &str, reason: String| {
        BuildError::Other(format!(
            "models/{model}/{file} cannot be read: {reason}; restore it from git, or delete it to have it made anew"
        ))
    };
    let (mut calibration_file, mut measured_file) = (None, None);
    if let Some(bytes) = read_small(&dir.join(CALIBRATION_FILE))? {
        let text = String::from_utf8(bytes).map_err(|_| broken(CALIBRATION_FILE, "not UTF-8".to_owned()))?;
        let calibration = Calibration::parse(&text).map_err(|reason| broken(CALIBRATION_FILE, reason))?;
        let digest = Digest::of(text.as_bytes());
        facts.calibrations.insert(
            model.clone(),
            CalibrationRecord {
                subject: calibration.subject,
                made_from: calibration.made_from,
                file: digest,
            },
        );
        observation.records.insert(digest, text.into_bytes());
        calibration_file = Some(digest);
    }
    if let Some(bytes) = read_small(&dir.join(MEASURED_FILE))? {
        measured_file = Some(Digest::of(&bytes));
        let file: MeasuredFile =
            serde_json::from_slice(&bytes).map_err(|error| broken(MEASURED_FILE, error.to_string()))?;
        for (precision, measured) in &file {
            let entry = measured.to_bytes();
            let digest = Digest::of(&entry);
            facts
                .measurements
                .insert((model.clone(), *precision), (measured.subject, digest));
            observation.records.insert(digest, entry);
        }
        observation.measured.insert(model.clone(), file);
    }
    observation
        .record_files
        .insert(model.clone(), (calibration_file, measured_file));
    Ok(())
}

/// The whole of a small file, `None` where there is none.
///
/// # Errors
/// When it cannot be read or is not small.
pub fn read_small(path: &Path) -> Result<Option<Vec<u8>>, BuildError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io("read", path)(error)),
        Ok(metadata) if metadata.len() > SMALL_FILE_LIMIT_BYTES => Err(BuildError::Other(format!(
            "{} has {} bytes: too many for this kind of file",
            path.display(),
            metadata.len()
        ))),
        Ok(_) => std::fs::read(path).map(Some).map_err(io("read", path)),
    }
}

fn module_digest(paths: &Paths, module: &ModuleSources, files: &mut FileIndex) -> Result<Digest, BuildError> {
    let mut text = String::new();
    for (name, content) in module.generated_files() {
        text.push_str(&format!("{name}\0{}\n", Digest::of(content.as_bytes())));
    }
    for name in module.source_files() {
        text.push_str(&format!("{name}\0{}\n", files.digest(&paths.file(name))?));
    }
    Ok(Digest::of(text.as_bytes()))
}

/// Digests of our own code, found out by the build script.
fn code_digests() -> BTreeMap<String, Digest> {
    [
        ("aiot-onnx", env!("CODE_aiot_onnx")),
        ("aiot-inference", env!("CODE_aiot_inference")),
        ("aiot-oci", env!("CODE_aiot_oci")),
        ("aiot-debian", env!("CODE_aiot_debian")),
        ("aiot-toolchain", env!("CODE_aiot_toolchain")),
    ]
    .into_iter()
    .map(|(name, hex)| {
        (
            name.to_owned(),
            Digest::from_hex(hex).expect("written by the build script"),
        )
    })
    .collect()
}
