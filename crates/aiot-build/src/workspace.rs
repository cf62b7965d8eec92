//! Reads the declarations and checks them, with facts about the files that they name. All mistakes in one run.

use std::collections::BTreeMap;
use std::path::Path;

use aiot_iothub::condition::Condition;
use aiot_oci::Digest;
use aiot_plan::compatibility::{self, ModelFacts};
use aiot_plan::diagnose::{ConfigError, Site};
use aiot_plan::{Model, ModelName, Texts, Workspace};

use crate::error::{BuildError, io};
use crate::model_file::{MODEL_LIMIT_BYTES, read_model_with};
use crate::observe::{FileIndex, read_small};
use crate::paths::Paths;

/// Most labels of a model.
const LABEL_LIMIT: usize = 100_000;

/// Reads all declaration files.
///
/// # Errors
/// A file that cannot be read. Missing `models.toml` or `targets.toml` say what to write.
pub fn read_texts(paths: &Paths) -> Result<Texts, BuildError> {
    let text = |name: &str| {
        let bytes = read_small(&paths.root.join(name))?.ok_or_else(|| {
            BuildError::Other(format!(
                "there is no {name} in {}; run in the folder of the workspace, or begin with the sample in the README",
                paths.root.display()
            ))
        })?;
        String::from_utf8(bytes).map_err(|_| BuildError::Other(format!("{name} is not UTF-8 text")))
    };
    let mut texts = Texts {
        models: text("models.toml")?,
        targets: text("targets.toml")?,
        ..Texts::default()
    };
    for name in names(&paths.root.join("deployments"))? {
        if let Some(environment) = name.strip_suffix(".toml") {
            texts
                .environments
                .insert(environment.to_owned(), text(&format!("deployments/{name}"))?);
        }
    }
    for name in names(&paths.root.join("modules"))? {
        if paths
            .root
            .join("modules")
            .join(&name)
            .join("src/main.rs")
            .is_file()
        {
            texts.modules.push(name);
        }
    }
    Ok(texts)
}

/// Names of a folder's entries, sorted; none where there is no folder.
fn names(dir: &Path) -> Result<Vec<String>, BuildError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io("list", dir))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(
            entry
                .map_err(io("list", dir))?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    names.sort();
    Ok(names)
}

/// Reads and checks all declarations.
///
/// # Errors
/// [`BuildError::Config`] with every mistake of every file.
pub fn check(paths: &Paths, files: &mut FileIndex) -> Result<Workspace, BuildError> {
    let workspace = aiot_plan::resolve(&read_texts(paths)?).map_err(BuildError::Config)?;
    let mut errors = Vec::new();
    let mut facts = BTreeMap::new();
    for model in workspace.models.values() {
        if let Some(found) = check_model(paths, &workspace, model, files, &mut errors)? {
            facts.insert(model.name.clone(), found);
        }
    }
    check_conditions(&workspace, &mut errors);
    check_shadow_labels(paths, &workspace, &mut errors);
    crate::policy::check_keys(paths, &workspace, &mut errors);
    errors.extend(compatibility::check(&workspace, &facts));
    files.save()?;
    if errors.is_empty() {
        Ok(workspace)
    } else {
        Err(BuildError::Config(errors))
    }
}

/// The files of one model: there, the declared ones, and what is in them.
fn check_model(
    paths: &Paths,
    workspace: &Workspace,
    model: &Model,
    files: &mut FileIndex,
    errors: &mut Vec<ConfigError>,
) -> Result<Option<ModelFacts>, BuildError> {
    for (path, site) in [
        (Some(&model.evaluation_path), Some(&model.sites.evaluation)),
        (model.calibration_path.as_ref(), model.sites.calibration.as_ref()),
    ] {
        let (Some(path), Some(site)) = (path, site) else {
            continue;
        };
        if !paths.file(path).join("labels.csv").is_file() {
            errors.push(
                ConfigError::new(
                    "files::dataset",
                    site.clone(),
                    format!("model `{}`: there is no data set in {path}", model.name),
                    "needs a folder of inputs with a labels.csv",
                )
                .with_help("labels.csv has the header `file,label` and one line per input"),
            );
        }
    }
    if let (Some(path), Some(site)) = (&model.labels_path, &model.sites.labels)
        && let Err(reason) = read_labels(paths, path)
    {
        let message = format!("model `{}`: the labels cannot be used", model.name);
        errors.push(ConfigError::new(
            "files::labels",
            site.clone(),
            message,
            reason.to_string(),
        ));
    }
    let Some((size_bytes, content)) = check_files(paths, model, files, errors)? else {
        return Ok(None);
    };
    if size_bytes > MODEL_LIMIT_BYTES {
        let message = format!("{size_bytes} bytes: larger than an ONNX file can be, data beside it included");
        errors.push(unusable(model, message));
        return Ok(None);
    }
    let graph = match graph_facts(paths, model, content)? {
        Ok(graph) => graph,
        Err(error) => {
            errors.push(*error);
            return Ok(None);
        }
    };
    let mut engine_problems = BTreeMap::new();
    for target in model.targets.keys().map(|name| &workspace.targets[name]) {
        let minor = aiot_plan::resolve::parse_version(&target.engine.version).map_or(0, |numbers| numbers[1]);
        let list = aiot_onnx::problems(&graph, minor)
            .iter()
            .map(ToString::to_string)
            .collect();
        engine_problems.insert(target.engine.version.clone(), list);
    }
    Ok(Some(ModelFacts {
        size_bytes,
        engine_problems,
    }))
}

/// A model's own files: there, and the declared ones. Returns their length and a digest of their names and content;
/// `None` where one is missing.
fn check_files(
    paths: &Paths,
    model: &Model,
    files: &mut FileIndex,
    errors: &mut Vec<ConfigError>,
) -> Result<Option<(u64, Digest)>, BuildError> {
    let own = [(&model.sites.path, &model.sites.sha256)];
    let data = model.data.values().map(|file| (&file.site, &file.site));
    let (mut size_bytes, mut lines) = (0, String::new());
    let mut is_whole = true;
    for ((name, expected), (site, sha256)) in model.files().zip(own.into_iter().chain(data)) {
        let path = paths.file(&name);
        let Ok(metadata) = std::fs::metadata(&path) else {
            errors.push(ConfigError::new(
                "files::model",
                site.clone(),
                format!("model `{}`: its file is missing", model.name),
                "no such file",
            ));
            is_whole = false;
            continue;
        };
        let digest = files.digest(&path)?;
        if digest != expected {
            errors.push(
                ConfigError::new(
                    "files::digest",
                    sha256.clone(),
                    format!("model `{}`: its file is another one", model.name),
                    format!("the file has {}", digest.hex()),
                )
                .with_help("if the new file is meant, write its digest here and raise the version"),
            );
        }
        size_bytes += metadata.len();
        lines += &format!("{}  {name}\n", digest.hex());
    }
    Ok(is_whole.then(|| (size_bytes, Digest::of(lines.as_bytes()))))
}

/// A model whose file cannot be used.
fn unusable(model: &Model, reason: String) -> ConfigError {
    ConfigError::new(
        "files::onnx",
        model.sites.path.clone(),
        format!("model `{}` cannot be used", model.name),
        reason,
    )
}

/// What a graph needs, remembered by what is in its files: a check has 100 ms for hundreds of models.
fn graph_facts(
    paths: &Paths,
    declared: &Model,
    content: Digest,
) -> Result<Result<aiot_onnx::ModelFacts, Box<ConfigError>>, BuildError> {
    let folder = paths.state.join("graphs").join(&env!("CODE_aiot_onnx")[..16]);
    let memory = folder.join(content.hex());
    if let Some(facts) = std::fs::read(&memory)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
    {
        return Ok(Ok(facts));
    }
    let mut used = BTreeMap::new();
    let look = |place: &str, bytes: &[u8]| {
        // The declared ones were compared with their digests before.
        let known = declared.data.get(place).map(|file| file.digest);
        used.insert(place.to_owned(), known.unwrap_or_else(|| Digest::of(bytes)));
        Ok(())
    };
    let model = match read_model_with(&paths.file(&declared.path), look)? {
        Ok(model) => model,
        Err(error) => return Ok(Err(Box::new(unusable(declared, error.to_string())))),
    };
    if let Some(error) = check_data(declared, &used) {
        return Ok(Err(Box::new(error)));
    }
    let facts = aiot_onnx::inspect(&model);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        let file = tempfile::NamedTempFile::new_in(&folder)?;
        std::fs::write(file.path(), serde_json::to_vec(&facts)?)?;
        file.persist(&memory)?;
        Ok(())
    };
    write().map_err(io("write", &memory))?;
    Ok(Ok(facts))
}

/// The data files that a model uses must be those that are declared.
fn check_data(model: &Model, used: &BTreeMap<String, Digest>) -> Option<ConfigError> {
    if let Some((path, file)) = model.data.iter().find(|(path, _)| !used.contains_key(*path)) {
        return Some(ConfigError::new(
            "files::data",
            file.site.clone(),
            format!("model `{}` does not use {path}", model.name),
            "none of its tensors has its data there",
        ));
    }
    if used.len() == model.data.len() {
        return None;
    }
    let entries = used
        .iter()
        .map(|(path, digest)| format!("\"{path}\" = \"{}\"", digest.hex()));
    let data = format!("data = {{ {} }}", entries.collect::<Vec<_>>().join(", "));
    let error = ConfigError::new(
        "files::data",
        model.sites.path.clone(),
        format!("model `{}` keeps data in files that are not declared", model.name),
        "without them it is not the same model",
    );
    Some(error.with_help(format!("add to source.file: {data}")))
}

/// The labels of a model, one a line.
///
/// # Errors
/// A file that is missing, empty, or has an empty or repeated label.
pub fn read_labels(paths: &Paths, path: &str) -> Result<Vec<String>, BuildError> {
    let fail = |reason: String| BuildError::Other(format!("{path}: {reason}"));
    let bytes = read_small(&paths.file(path))?.ok_or_else(|| fail("no such file".to_owned()))?;
    parse_labels(&bytes).map_err(fail)
}

/// The labels in a file's bytes.
///
/// # Errors
/// What is wrong with them.
pub fn parse_labels(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())?;
    let labels: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    if labels.is_empty() || labels.len() > LABEL_LIMIT {
        return Err(format!(
            "{} labels: expected 1 to {LABEL_LIMIT}, one a line",
            labels.len()
        ));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (index, label) in labels.iter().enumerate() {
        if label.is_empty() || !seen.insert(label) {
            return Err(format!("line {}: empty or repeated label `{label}`", index + 1));
        }
    }
    Ok(labels)
}

/// Conditions of targets, models and rings.
fn check_conditions(workspace: &Workspace, errors: &mut Vec<ConfigError>) {
    let mut one = |text: &str, site: &Site| {
        if let Err(error) = text.parse::<Condition>() {
            errors.push(
                ConfigError::new(
                    "hub::condition",
                    site.clone(),
                    format!("the condition `{text}` is none"),
                    error.to_string(),
                )
                .with_help("for example tags.device = 'rpi-arm64' AND tags.line IN ['1', '2']"),
            );
        }
    };
    for target in workspace.targets.values() {
        one(&target.condition, &target.condition_site);
    }
    for model in workspace.models.values() {
        if let (Some(text), Some(site)) = (&model.edge.condition, &model.sites.condition) {
            one(text, site);
        }
    }
    for environment in workspace.environments.values() {
        for ring in &environment.rings {
            if let Some(text) = &ring.condition {
                one(text, &ring.site);
            }
        }
    }
}

/// A challenger must speak of the same classes. Labels that cannot be read are told elsewhere.
fn check_shadow_labels(paths: &Paths, workspace: &Workspace, errors: &mut Vec<ConfigError>) {
    let labels = |model: &Model| read_labels(paths, model.labels_path.as_ref()?).ok();
    for challenger in workspace.models.values() {
        let Some(shadow) = &challenger.shadow else {
            continue;
        };
        let of = workspace.models.get(&shadow.of).and_then(labels);
        if let (Some(of), Some(own)) = (of, labels(challenger))
            && of != own
        {
            errors.push(
                ConfigError::new(
                    "plan::shadow",
                    shadow.site.clone(),
                    format!(
                        "model `{}` cannot be compared with `{}`",
                        challenger.name, shadow.of
                    ),
                    "their labels differ",
                )
                .with_help("both need the same labels in the same order"),
            );
        }
    }
}

/// A model of the workspace by name.
///
/// # Errors
/// With the names that there are.
pub fn find_model<'a>(workspace: &'a Workspace, name: &str) -> Result<&'a Model, BuildError> {
    ModelName::new(name)
        .and_then(|name| workspace.models.get(&name))
        .ok_or_else(|| {
            let known = workspace.models.keys().map(ModelName::as_str);
            BuildError::Other(format!(
                "there is no model `{name}`: {}",
                aiot_plan::diagnose::suggest("models.toml", name, known)
            ))
        })
}

/// A target of the workspace by name.
///
/// # Errors
/// With the names that there are.
pub fn find_target<'a>(workspace: &'a Workspace, name: &str) -> Result<&'a aiot_plan::Target, BuildError> {
    aiot_plan::TargetName::new(name)
        .and_then(|name| workspace.targets.get(&name))
        .ok_or_else(|| {
            let known = workspace.targets.keys().map(aiot_plan::TargetName::as_str);
            BuildError::Other(format!(
                "there is no target `{name}`: {}",
                aiot_plan::diagnose::suggest("targets.toml", name, known)
            ))
        })
}
