//! Workspaces made from another one: copies of it, and ones with hundreds of models, for measurements at size.
//!
//! A generated workspace is a real one: its models are ONNX files of their own (the smallest classifier of the source,
//! each with one bias moved a little, so that all digests differ while all models work), with real inputs, the
//! source's modules and targets. It can be checked, planned and released like any other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aiot_onnx::{Model, OnnxError};
use aiot_package::Digest;
use toml::{Table, Value};

/// Models that share a device: with 2 system modules well below IoT Edge's 50, and few enough layers that four
/// targets with 500 models stay below a hub's 100 deployments.
pub const MODELS_PER_SITE: usize = 25;
/// Data sets of a generated workspace, shared by its models in turn.
pub const DATASETS: usize = 4;
/// Inputs per generated data set.
pub const SAMPLES: usize = 16;

/// What is no part of a workspace's sources.
const LEFT_OUT: [&str; 6] = [".git", ".aiot", ".venv", "dist", "target", "__pycache__"];

/// Why a workspace could not be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// A file or folder.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A declaration file of the source.
    #[error("{file}: {reason}")]
    Declaration {
        /// Name below the workspace.
        file: &'static str,
        /// What it lacks.
        reason: String,
    },
    /// The model that all are made from.
    #[error("{}: {reason}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GenerateError + use<> {
    let path = path.to_owned();
    move |source| GenerateError::Io { action, path, source }
}

/// Copies a workspace's sources: everything but build state, outputs and version control. Links are not followed.
///
/// # Errors
/// A file that cannot be read or written.
pub fn copy_workspace(from: &Path, to: &Path) -> Result<(), GenerateError> {
    copy_tree(from, to, &mut |source, destination| {
        fs::copy(source, destination).map(|_| ())
    })
}

/// Gives `to` the store of `from` (the folders that `AIOT_STORE` names) without copying bytes: blobs are never
/// written twice, so hard links do; another file system gets copies. Compiled modules are then there already.
///
/// # Errors
/// A file that cannot be linked or copied.
pub fn share_store(from: &Path, to: &Path) -> Result<(), GenerateError> {
    for folder in ["store", "actions"] {
        if from.join(folder).is_dir() {
            copy_tree(
                &from.join(folder),
                &to.join(folder),
                &mut |source, destination| {
                    fs::hard_link(source, destination).or_else(|_| fs::copy(source, destination).map(|_| ()))
                },
            )?;
        }
    }
    Ok(())
}

fn copy_tree(
    from: &Path,
    to: &Path,
    copy: &mut dyn FnMut(&Path, &Path) -> io::Result<()>,
) -> Result<(), GenerateError> {
    fs::create_dir_all(to).map_err(failed("create", to))?;
    for entry in fs::read_dir(from).map_err(failed("list", from))? {
        let entry = entry.map_err(failed("list", from))?;
        let (source, destination) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().map_err(failed("read", &source))?;
        if LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            copy_tree(&source, &destination, copy)?;
        } else if kind.is_file() {
            copy(&source, &destination).map_err(failed("copy", &source))?;
        }
    }
    Ok(())
}

/// Makes a workspace of `models` models that all go to `targets` targets, from the workspace `from`.
///
/// Targets beyond those of `from` are copies of them for devices of their own. Each device is at one site and gets
/// the models of that site, [`MODELS_PER_SITE`]. There is one environment, `dev`.
///
/// # Errors
/// [`GenerateError`]: `from` has no classifier with a bias, no target, or files that cannot be read.
pub fn large_workspace(from: &Path, to: &Path, models: usize, targets: usize) -> Result<(), GenerateError> {
    copy_workspace(from, to)?;
    for folder in ["models", "deployments"] {
        let path = to.join(folder);
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
    }
    copy_file(from, to, "deployments/dev.toml")?;
    let names = write_targets(to, targets)?;
    let template = Template::choose(from)?;
    template.write_data(to)?;
    let mut declared = Table::new();
    for index in 0..models {
        let name = format!("model-{index:04}");
        let file = template.model_file(index)?;
        let path = format!("models/{name}/model.onnx");
        write(&to.join(&path), &file)?;
        declared.insert(
            name.clone(),
            template.declaration(index, &path, &file, &names)?.into(),
        );
    }
    write_toml(to, "models.toml", "model", declared)?;
    // What it says of the source's models is not true of these; what it pins stays.
    let mut lock = read_toml(to, "aiot.lock").unwrap_or_default();
    lock.remove("model");
    write(&to.join("aiot.lock"), lock.to_string().as_bytes())
}

/// Makes one model another one, as a retraining would: moves a bias and declares the new file.
///
/// # Errors
/// [`GenerateError`]: no such model, or one without a bias.
pub fn change_model(root: &Path, name: &str) -> Result<(), GenerateError> {
    let mut declared = read_toml(root, "models.toml")?;
    let missing = || declaration("models.toml", format!("no file of model `{name}`"));
    let file = declared
        .get_mut("model")
        .and_then(|models| models.get_mut(name)?.get_mut("source")?.get_mut("file"));
    let file = file.and_then(Value::as_table_mut).ok_or_else(missing)?;
    let path = root.join(file.get("path").and_then(Value::as_str).ok_or_else(missing)?);
    let bytes = shift_bias(&path, &read(&path)?, 1e-3)?;
    write(&path, &bytes)?;
    file.insert("sha256".to_owned(), Digest::of(&bytes).hex().into());
    write(&root.join("models.toml"), declared.to_string().as_bytes())
}

/// Writes `targets.toml` with `count` targets; returns their names.
fn write_targets(root: &Path, count: usize) -> Result<Vec<String>, GenerateError> {
    let declared = read_toml(root, "targets.toml")?;
    let given = tables(&declared, "target");
    if given.is_empty() {
        return Err(declaration("targets.toml", "no target".to_owned()));
    }
    let mut targets = Table::new();
    for index in 0..count {
        let (name, target) = given[index % given.len()];
        let (mut name, mut target) = (name.clone(), target.clone());
        if index >= given.len() {
            name = format!("{name}-{}", index / given.len() + 1);
            target.insert("condition".to_owned(), format!("tags.device = '{name}'").into());
        }
        targets.insert(name, target.into());
    }
    let names = targets.keys().cloned().collect();
    write_toml(root, "targets.toml", "target", targets)?;
    Ok(names)
}

/// What all models of a generated workspace are made from.
struct Template {
    /// The workspace that it is taken from.
    from: PathBuf,
    declared: Table,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Template {
    /// The smallest classifier of a workspace.
    fn choose(from: &Path) -> Result<Template, GenerateError> {
        let declared = read_toml(from, "models.toml")?;
        let mut smallest: Option<Template> = None;
        for (_, model) in tables(&declared, "model") {
            let file = model
                .get("source")
                .and_then(|source| source.get("file")?.get("path")?.as_str());
            let (Some(file), Some("classification")) = (file, model.get("task").and_then(Value::as_str))
            else {
                continue;
            };
            let path = from.join(file);
            let bytes = read(&path)?;
            if smallest
                .as_ref()
                .is_none_or(|smallest| bytes.len() < smallest.bytes.len())
            {
                smallest = Some(Template {
                    from: from.to_owned(),
                    declared: model.clone(),
                    path,
                    bytes,
                });
            }
        }
        smallest.ok_or_else(|| {
            declaration(
                "models.toml",
                "no classifier with a file to make models from".to_owned(),
            )
        })
    }

    fn text(&self, table: &str, key: &str) -> Option<&str> {
        self.declared.get(table)?.get(key)?.as_str()
    }

    /// Data sets and labels: [`DATASETS`] pairs of [`SAMPLES`] inputs each.
    fn write_data(&self, to: &Path) -> Result<(), GenerateError> {
        for (kind, folder) in [
            ("calibration", self.text("quantization", "calibration")),
            ("evaluation", self.text("acceptance", "evaluation")),
        ] {
            let Some(folder) = folder else { continue };
            let source = self.from.join(folder);
            let labels = source.join("labels.csv");
            let text = fs::read_to_string(&labels).map_err(failed("read", &labels))?;
            let rows: Vec<&str> = text.lines().skip(1).filter(|row| !row.is_empty()).collect();
            if rows.is_empty() {
                return Err(declaration("models.toml", format!("{folder} has no inputs")));
            }
            for set in 0..DATASETS {
                let destination = to.join(dataset(kind, set));
                let mut list = "file,label\n".to_owned();
                let first = set * SAMPLES % rows.len();
                for row in rows.iter().cycle().skip(first).take(SAMPLES.min(rows.len())) {
                    let file = row.split(',').next().unwrap_or_default();
                    write(&destination.join(file), &read(&source.join(file))?)?;
                    list.push_str(row);
                    list.push('\n');
                }
                write(&destination.join("labels.csv"), list.as_bytes())?;
            }
        }
        match self.text("output", "labels") {
            Some(labels) => write(&to.join(LABELS), &read(&self.from.join(labels))?),
            None => Ok(()),
        }
    }

    /// A file that differs from that of every other index.
    fn model_file(&self, index: usize) -> Result<Vec<u8>, GenerateError> {
        shift_bias(&self.path, &self.bytes, index as f32 * 1e-4)
    }

    fn declaration(
        &self,
        index: usize,
        path: &str,
        file: &[u8],
        targets: &[String],
    ) -> Result<Table, GenerateError> {
        let mut model = self.declared.clone();
        let mut set = |table: &str, values: Vec<(&str, Value)>| {
            let entry = model.entry(table).or_insert_with(|| Table::new().into());
            if let Value::Table(entry) = entry {
                entry.extend(values.into_iter().map(|(key, value)| (key.to_owned(), value)));
            }
        };
        let source = Table::from_iter([
            ("path".to_owned(), path.into()),
            ("sha256".to_owned(), Digest::of(file).hex().into()),
        ]);
        set("source", vec![("file", source.into())]);
        if self.text("output", "labels").is_some() {
            set("output", vec![("labels", LABELS.into())]);
        }
        if self.text("quantization", "calibration").is_some() {
            set(
                "quantization",
                vec![("calibration", dataset("calibration", index % DATASETS).into())],
            );
        }
        let metric = self.text("acceptance", "metric").unwrap_or("accuracy").to_owned();
        let acceptance = Table::from_iter([
            (
                "evaluation".to_owned(),
                dataset("evaluation", index % DATASETS).into(),
            ),
            ("metric".to_owned(), metric.into()),
            // Few inputs say little: this is for measuring the release, not the models.
            ("at-least".to_owned(), 0.0.into()),
            ("max-drop".to_owned(), 1.0.into()),
        ]);
        let edge = Table::from_iter([
            (
                "condition".to_owned(),
                format!("tags.site = 'site-{:02}'", index / MODELS_PER_SITE).into(),
            ),
            (
                "routes".to_owned(),
                Table::from_iter([(
                    format!("results-{index:04}"),
                    "FROM /messages/modules/{module}/outputs/* INTO $upstream".into(),
                )])
                .into(),
            ),
        ]);
        model.insert("acceptance".to_owned(), acceptance.into());
        model.insert("edge".to_owned(), edge.into());
        model.insert("targets".to_owned(), targets.to_vec().into());
        model.insert(
            "description".to_owned(),
            format!("Generated model {index}").into(),
        );
        Ok(model)
    }
}

/// Labels of all generated models.
const LABELS: &str = "data/labels.txt";

fn dataset(kind: &str, set: usize) -> String {
    format!("data/{kind}-{set}")
}

/// The model with `step` added to one number of its smallest list of float32 weights, which is a bias.
fn shift_bias(path: &Path, bytes: &[u8], step: f32) -> Result<Vec<u8>, GenerateError> {
    const FLOAT32: i32 = 1;
    let wrong = |reason: String| GenerateError::Model {
        path: path.to_owned(),
        reason,
    };
    let model = Model::parse(bytes.to_vec()).map_err(|error: OnnxError| wrong(error.to_string()))?;
    let mut proto = model.into_proto();
    let bias = proto
        .graph
        .iter_mut()
        .flat_map(|graph| &mut graph.initializer)
        .filter(|tensor| tensor.data_type == Some(FLOAT32) && tensor.dims.len() == 1)
        .filter(|tensor| tensor.raw_data.as_ref().is_some_and(|raw| raw.len() >= 4))
        .min_by_key(|tensor| tensor.dims[0]);
    let bias = bias.ok_or_else(|| wrong("no float32 bias to change".to_owned()))?;
    let mut raw = bias.raw_data.take().unwrap_or_default().to_vec();
    let value = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]) + step;
    raw[..4].copy_from_slice(&value.to_le_bytes());
    bias.raw_data = Some(raw.into());
    Ok(Model::from_proto(proto)
        .map_err(|error| wrong(error.to_string()))?
        .to_bytes())
}

fn tables<'a>(declared: &'a Table, key: &str) -> Vec<(&'a String, &'a Table)> {
    let table = declared.get(key).and_then(Value::as_table);
    table
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name, value.as_table()?)))
        .collect()
}

fn declaration(file: &'static str, reason: String) -> GenerateError {
    GenerateError::Declaration { file, reason }
}

fn read(path: &Path) -> Result<Vec<u8>, GenerateError> {
    fs::read(path).map_err(failed("read", path))
}

fn read_toml(root: &Path, file: &'static str) -> Result<Table, GenerateError> {
    let path = root.join(file);
    let text = fs::read_to_string(&path).map_err(failed("read", &path))?;
    text.parse()
        .map_err(|error: toml::de::Error| declaration(file, error.to_string()))
}

fn write_toml(root: &Path, file: &str, key: &str, entries: Table) -> Result<(), GenerateError> {
    let whole = Table::from_iter([(key.to_owned(), entries.into())]);
    write(&root.join(file), whole.to_string().as_bytes())
}

fn copy_file(from: &Path, to: &Path, file: &str) -> Result<(), GenerateError> {
    write(&to.join(file), &read(&from.join(file))?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), GenerateError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("create", folder))?;
    fs::write(path, bytes).map_err(failed("write", path))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Name → (file, digest) of all declared models; the files have these digests.
    fn declared(root: &Path) -> Vec<(String, String)> {
        let declared = read_toml(root, "models.toml").unwrap();
        let models = tables(&declared, "model").into_iter().map(|(name, model)| {
            let file = &model["source"]["file"];
            let sha256 = file["sha256"].as_str().unwrap().to_owned();
            let bytes = read(&root.join(file["path"].as_str().unwrap())).unwrap();
            assert_eq!(Digest::of(&bytes).hex(), sha256, "{name}");
            (name.clone(), sha256)
        });
        models.collect()
    }

    #[test]
    fn models_differ_and_change() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let to = tempfile::tempdir().unwrap();
        large_workspace(&from, to.path(), 27, 5).unwrap();
        let before = declared(to.path());
        assert_eq!(before.len(), 27);
        assert_eq!(
            before
                .iter()
                .map(|(_, digest)| digest)
                .collect::<BTreeSet<_>>()
                .len(),
            27
        );

        let models = read_toml(to.path(), "models.toml").unwrap();
        let condition = |name: &str| {
            models["model"][name]["edge"]["condition"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(condition("model-0024"), "tags.site = 'site-00'");
        assert_eq!(condition("model-0025"), "tags.site = 'site-01'");
        let targets = read_toml(to.path(), "targets.toml").unwrap();
        let conditions: BTreeSet<_> = tables(&targets, "target")
            .iter()
            .map(|(_, target)| target["condition"].to_string())
            .collect();
        assert_eq!(conditions.len(), 5, "{conditions:?}");
        for data in [
            "data/calibration-3/labels.csv",
            "data/evaluation-0/labels.csv",
            LABELS,
            "Cargo.toml",
        ] {
            assert!(to.path().join(data).is_file(), "{data}");
        }

        change_model(to.path(), "model-0003").unwrap();
        let changed: Vec<_> = declared(to.path())
            .into_iter()
            .filter(|model| !before.contains(model))
            .collect();
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].0, "model-0003");
        let error = change_model(to.path(), "none").unwrap_err().to_string();
        assert_eq!(error, "models.toml: no file of model `none`");
    }

    #[test]
    fn stores_are_shared_and_sources_copied() {
        let from = tempfile::tempdir().unwrap();
        for file in [
            "store/blobs/a",
            "actions/results/b",
            "downloads/c",
            ".git/d",
            "src/target/e",
        ] {
            write(&from.path().join(file), b"x").unwrap();
        }
        let to = tempfile::tempdir().unwrap();
        share_store(from.path(), to.path()).unwrap();
        assert!(to.path().join("store/blobs/a").is_file() && to.path().join("actions/results/b").is_file());
        assert!(!to.path().join("downloads").exists());
        copy_workspace(from.path(), to.path()).unwrap();
        assert!(to.path().join("downloads/c").is_file() && to.path().join("src").is_dir());
        assert!(!to.path().join(".git").exists() && !to.path().join("src/target").exists());
    }
}
