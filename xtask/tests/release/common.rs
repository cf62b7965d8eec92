//! What the release holds, and running releases.

use std::collections::BTreeMap;

use aiot_oci::{Digest, Platform, read_layout};
use aiot_plan::{Model, Workspace};
use aiot_testkit::released::{Copy, Released};
use aiot_testkit::tools::Ended;
use serde_json::Value;

/// The program that is tested.
pub const XTASK: &str = env!("CARGO_BIN_EXE_xtask");

/// An image of the release.
#[derive(Clone, Debug)]
pub struct Image {
    pub model: Model,
    pub target: String,
    pub platform: Platform,
    /// Name in the layout.
    pub name: String,
    /// Of its manifest.
    pub digest: Digest,
}

/// The declarations of a workspace.
pub fn declared(root: &std::path::Path) -> Workspace {
    let paths = aiot_build::paths::Paths::new(root, None);
    aiot_plan::resolve(&aiot_build::workspace::read_texts(&paths).unwrap()).unwrap()
}

/// All images that the declarations ask for, from the layout.
pub fn images(released: &Released) -> Vec<Image> {
    let workspace = declared(&released.root);
    let layout: BTreeMap<String, Digest> = read_layout(&released.images())
        .unwrap()
        .into_iter()
        .map(|(name, descriptor)| (name, descriptor.digest))
        .collect();
    let images: Vec<Image> = workspace
        .images()
        .map(|(model, target)| {
            let name = format!("{}-{}-{}", model.name, model.version, target.name);
            let platform = &target.platform;
            Image {
                model: model.clone(),
                target: target.name.to_string(),
                platform: Platform::new(&platform.os, &platform.architecture, platform.variant.as_deref()),
                digest: *layout
                    .get(&name)
                    .unwrap_or_else(|| panic!("{name} is not in the layout: {layout:?}")),
                name,
            }
        })
        .collect();
    assert!(!images.is_empty());
    images
}

/// One image per architecture, the first of each.
pub fn one_per_architecture(released: &Released) -> BTreeMap<String, Image> {
    let mut found = BTreeMap::new();
    for image in images(released) {
        found
            .entry(image.platform.architecture().to_owned())
            .or_insert(image);
    }
    found
}

/// What `release --format json` says.
#[derive(Clone, Debug)]
pub struct Report {
    json: Value,
    /// Progress.
    pub stderr: String,
}

impl Report {
    pub fn of(ended: Ended) -> Report {
        let ended = ended.expect(0);
        let json: Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stdout));
        Report {
            json,
            stderr: ended.stderr,
        }
    }

    /// Actions that ran.
    pub fn ran(&self) -> u64 {
        self.json["ran"].as_u64().unwrap()
    }

    /// (model, target) → what was rebuilt, and why. Only rows where something was.
    pub fn rebuilt(&self) -> BTreeMap<(String, String), Vec<String>> {
        let rows = self.rows().map(|(pair, row)| {
            let reasons = row["rebuilt"]
                .as_array()
                .unwrap()
                .iter()
                .map(|text| text.as_str().unwrap().to_owned());
            (pair, reasons.collect::<Vec<_>>())
        });
        rows.filter(|(_, reasons)| !reasons.is_empty()).collect()
    }

    /// (model, target) → digest of the image's manifest.
    pub fn digests(&self) -> BTreeMap<(String, String), String> {
        self.rows()
            .map(|(pair, row)| (pair, row["digest"].as_str().unwrap().to_owned()))
            .collect()
    }

    /// Files of the workspace that changed.
    pub fn written(&self) -> Vec<String> {
        self.json["written"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| path.as_str().unwrap().to_owned())
            .collect()
    }

    fn rows(&self) -> impl Iterator<Item = ((String, String), &Value)> {
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        self.json["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(move |row| ((word(&row["model"]), word(&row["target"])), row))
    }
}

/// `release --offline --format json`, which must succeed.
pub fn release(copy: &Copy, more: &[&str]) -> Report {
    let mut arguments = vec!["release", "--offline", "--format", "json"];
    arguments.extend(more);
    Report::of(copy.run(XTASK, &arguments))
}

/// The model whose rebuilding is quickest: the one with the smallest file that `wanted` accepts.
pub fn smallest_model(copy: &Copy, wanted: impl Fn(&Model) -> bool) -> Model {
    let workspace = declared(&copy.root);
    let size = |model: &&Model| std::fs::metadata(copy.root.join(&model.path)).unwrap().len();
    workspace
        .models
        .values()
        .filter(|model| wanted(model))
        .min_by_key(size)
        .expect("a model for this test")
        .clone()
}

/// Changes the one line of a table in a declaration, `[HEADER]` … `key = …`; adds it where there is none.
pub fn set_key(copy: &Copy, file: &str, header: &str, key: &str, value: &str) {
    let text = copy.read(file);
    let title = format!("[{header}]");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let start = lines
        .iter()
        .position(|line| line.trim() == title)
        .unwrap_or_else(|| panic!("{file} has no {title}"));
    let end = lines
        .iter()
        .skip(start + 1)
        .position(|line| line.starts_with('['))
        .map_or(lines.len(), |n| n + start + 1);
    let new = format!("{key} = {value}");
    match lines[start + 1..end]
        .iter()
        .position(|line| line.split('=').next().unwrap_or_default().trim() == key)
    {
        Some(line) => lines[start + 1 + line] = new,
        None => lines.insert(start + 1, new),
    }
    copy.write(file, lines.join("\n") + "\n");
}
