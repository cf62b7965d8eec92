//! Images of a layout or a release to a registry: repositories, tags, order, and what has to be sent.
//!
//! A repository's index is named last. So an index that its tag names already proves the images below it, and pushing
//! a release again costs one request for each model. What is said about these images may be newer than their push: it
//! is attached where it is missing.

mod attached;
mod kept;
mod places;
pub mod requests;
mod send;
mod tags;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aiot_oci::{
    Artifact, Descriptor, Digest, Places, PlannedBlobs, PushReceipt, Reference, RegistryClient, Repository,
    Store, image,
};
use serde::Serialize;

use self::requests::{Before, ImageToSend, RequestPlan, ToSend};
use self::send::{Sending, in_turn, send};
use self::tags::{Tags, ask};
use crate::error::BuildError;
use crate::events::{Event, Sink};
use crate::network::Network;
use crate::registry::{client_that_knows, read_habits, write_habits};

/// One thing to push: what, below the prefix where to, under which tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushItem {
    /// Repository below the prefix; empty = the prefix itself.
    pub repository: String,
    /// Tag; `None` = by digest only.
    pub tag: Option<String>,
    /// Manifest or index.
    pub descriptor: Descriptor,
    /// What is attached to it.
    pub artifacts: Vec<Artifact>,
}

/// How to push.
#[derive(Clone, Copy, Debug, Default)]
pub struct PushSettings<'a> {
    /// Whether a tag that names another image is moved.
    pub move_tags: bool,
    /// Ask, and send nothing.
    pub dry_run: bool,
    /// File with what is known of registries, see [`crate::paths::Paths::registries`]; `None` keeps nothing.
    pub habits: Option<&'a Path>,
    /// Where layers of base images were pulled from: in the same registry they are mounted, not sent.
    pub bases: Option<&'a Places>,
}

/// What became, or would become, of one item.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PushRow {
    /// `registry/repository:tag`, or with a digest where there is no tag.
    pub reference: String,
    /// The digest of manifest or index.
    pub digest: Digest,
    /// Whether nothing had to be done.
    pub up_to_date: bool,
    /// What the tag names instead, where that is another image.
    pub tag_names: Option<Digest>,
    /// Blobs that were there.
    pub blobs_present: usize,
    /// Blobs taken over from another repository; in a dry run those that would be.
    pub blobs_mounted: usize,
    /// Blobs sent; in a dry run those that would be.
    pub blobs_sent: usize,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Manifests and indexes sent; in a dry run those that would be.
    pub manifests_sent: usize,
    /// Bills of materials, provenance and signatures attached anew; in a dry run those that an image lacks that the
    /// registry has already.
    pub artifacts_sent: usize,
}

/// What a push did, or would do.
#[derive(Clone, Debug, Default)]
pub struct PushReport {
    /// One per item, in the order of the items.
    pub rows: Vec<PushRow>,
    /// Their sum; nothing in a dry run.
    pub total: PushReceipt,
    /// The requests that it needs, the first look at the tags among them: in a dry run, and towards Azure Container
    /// Registry, whose tiers limit their rate. Before a push it is not asked what is there, so they are at most these.
    pub requests: Option<RequestPlan>,
}

/// The entries of a layout as things to push.
///
/// An image of ours goes where a release pushes it: `<model>:<version>` and `<model>:<version>-<target>`. Of others,
/// a name with a colon or slash is a reference whose registry is left out, any other name is a tag of the prefix
/// itself, and an entry without name goes by its digest. What `supply_chain` says about an image is attached to it.
///
/// # Errors
/// When the folder is no layout, or a document in it cannot be read.
pub fn layout_items(dir: &Path, supply_chain: &Path) -> Result<(Store, Vec<PushItem>), BuildError> {
    let entries = aiot_oci::read_layout(dir).map_err(BuildError::other)?;
    let store = Store::open_read_only(dir).map_err(BuildError::other)?;
    let mut items = Vec::new();
    for (name, descriptor) in entries {
        let annotations = if descriptor.media_type.is_index() {
            image::read_index(&store, &descriptor.digest).map(|index| index.annotations)
        } else {
            image::read_manifest(&store, &descriptor.digest).map(|manifest| manifest.annotations)
        };
        let annotations = annotations.map_err(BuildError::other)?;
        let (repository, tag) = place(&name, &annotations);
        items.push(PushItem {
            repository,
            tag,
            artifacts: crate::supply::artifacts(supply_chain, &name, &descriptor.digest)?,
            descriptor,
        });
    }
    // Indexes after the images that they name.
    items.sort_by_key(|item| (item.repository.clone(), item.descriptor.media_type.is_index()));
    Ok((store, items))
}

/// Repository below the prefix and tag for an entry of a layout.
fn place(name: &str, annotations: &BTreeMap<String, String>) -> (String, Option<String>) {
    let ours = annotations
        .get("dev.aiot-ops.model.name")
        .and_then(|model| Some((model, name.strip_prefix(&format!("{model}-"))?)));
    if let Some((model, tag)) = ours.filter(|(_, tag)| aiot_oci::reference::is_tag(tag)) {
        return (model.clone(), Some(tag.to_owned()));
    }
    if let Ok(reference) = name.parse::<Reference>() {
        let repository = reference.repository.name().to_owned();
        return (repository, reference.tag);
    }
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository.to_owned(), Some(tag.to_owned())),
        _ if name.contains('/') => (name.to_owned(), None),
        _ if name.is_empty() => (String::new(), None),
        _ => (String::new(), Some(name.to_owned())),
    }
}

/// An item with its full address.
struct Placed<'a> {
    item: &'a PushItem,
    to: Repository,
    /// Its place in the list of items.
    position: usize,
    /// Whether the registry has it under its name already, and lacks something that is said about it only.
    is_there: bool,
    /// Whether the registry said that its tag names nothing.
    tag_is_free: bool,
    /// Whether an index of the same repository that is pushed after it names it.
    is_named: bool,
}

impl Placed<'_> {
    fn reference(&self) -> String {
        match &self.item.tag {
            Some(tag) => format!("{}:{tag}", self.to),
            None => format!("{}@{}", self.to, self.item.descriptor.digest),
        }
    }

    fn sending(&self) -> Sending {
        Sending {
            item: self.item.clone(),
            to: self.to.clone(),
            position: self.position,
            is_there: self.is_there,
            tag_is_free: self.tag_is_free,
            is_named: self.is_named,
        }
    }

    fn row(&self, receipt: &PushReceipt, up_to_date: bool) -> PushRow {
        PushRow {
            reference: self.reference(),
            digest: self.item.descriptor.digest,
            up_to_date,
            tag_names: None,
            blobs_present: receipt.blobs_present,
            blobs_mounted: receipt.blobs_mounted,
            blobs_sent: receipt.blobs_uploaded,
            sent_bytes: receipt.uploaded_bytes,
            manifests_sent: receipt.manifests_uploaded,
            artifacts_sent: 0,
        }
    }
}

/// Pushes items, a few repositories at a time; a blob that several need is sent once and mounted elsewhere. The images of
/// one repository go one after the other, the index last.
///
/// An index whose tag names another one is reported before anything is sent.
///
/// # Errors
/// The first that fails, with registry, repository and what to do. Pushing again continues.
pub fn push(
    network: &Network,
    store: &Store,
    prefix: &str,
    items: &[PushItem],
    settings: PushSettings<'_>,
    events: Sink<'_>,
) -> Result<PushReport, BuildError> {
    let prefix: Repository = prefix.parse().map_err(|error| {
        BuildError::Other(format!(
            "{prefix}: {error}; expected REGISTRY/PREFIX, for example localhost:5000/aiot"
        ))
    })?;
    let mut placed = Vec::new();
    for (position, item) in items.iter().enumerate() {
        let to = if item.repository.is_empty() {
            prefix.clone()
        } else {
            prefix.join(&item.repository).map_err(BuildError::other)?
        };
        placed.push(Placed {
            item,
            to,
            position,
            is_there: false,
            tag_is_free: false,
            is_named: false,
        });
    }
    let known = settings.habits.map(read_habits).unwrap_or_default();
    let client = client_that_knows(known.clone())?;
    let result = push_with(network, &client, store, items.len(), placed, settings, events);
    // Also of a push that failed: the next one begins with what works.
    let found = client.chunk_bytes();
    if let Some(path) = settings.habits.filter(|_| found != known) {
        write_habits(path, &found)?;
    }
    result
}

fn push_with(
    network: &Network,
    client: &RegistryClient,
    store: &Store,
    count: usize,
    placed: Vec<Placed<'_>>,
    settings: PushSettings<'_>,
    events: Sink<'_>,
) -> Result<PushReport, BuildError> {
    let mut rows: Vec<Option<PushRow>> = (0..count).map(|_| None).collect();
    let mut known = attached::Known::read(settings.habits);
    let registry = placed.first().map(|placed| placed.to.registry().to_owned());
    let keeps_referrers = registry.is_some_and(|registry| requests::is_acr(&registry));
    let (remaining, looked) = look(network, client, store, placed, settings, &mut known, &mut rows)?;
    let mut report = PushReport::default();
    if settings.dry_run || keeps_referrers {
        report.requests = Some(RequestPlan {
            reads: looked,
            ..RequestPlan::default()
        });
    }
    if remaining.is_empty() {
        known.write()?;
        report.rows = rows.into_iter().flatten().collect();
        return Ok(report);
    }
    if let Some(bases) = settings.bases {
        client.hint_places(bases);
    }
    let mut places = places::KnownPlaces::read(settings.habits, client);
    let mut before = Before {
        keeps_referrers,
        ..Before::default()
    };
    if settings.dry_run {
        survey(network, client, store, &remaining, &mut rows, &mut before)?;
    }
    if let Some(requests) = &mut report.requests {
        *requests = requests::plan(&to_send(store, &remaining)?, &before);
        requests.reads += looked;
        if !settings.dry_run {
            events(Event::Note(format!("needs at most {requests}")));
        }
    }
    if !settings.dry_run {
        let sent = send(
            network,
            client,
            store,
            &remaining,
            settings,
            events,
            &mut places,
            &mut rows,
            &mut report.total,
        );
        // Also of a push that failed.
        places.write(client)?;
        sent?;
        for placed in remaining.iter().flatten() {
            known.add(&placed.to, &placed.item.descriptor, &placed.item.artifacts);
        }
    }
    known.write()?;
    report.rows = rows.into_iter().flatten().collect();
    Ok(report)
}

/// What is left over, as the plan of requests wants it.
fn to_send(store: &Store, remaining: &[Vec<Placed<'_>>]) -> Result<Vec<ToSend>, BuildError> {
    let mut all = Vec::new();
    for placed in remaining.iter().flatten() {
        let root = &placed.item.descriptor;
        let (mut images, mut inner_indexes) = (Vec::new(), 0);
        let mut waiting = vec![root.clone()];
        // Bounded: an index does not name itself, and each is read once.
        let mut seen = BTreeSet::new();
        while let Some(node) = waiting.pop() {
            if !seen.insert(node.digest) {
                continue;
            }
            if node.media_type.is_index() {
                inner_indexes += usize::from(node.digest != root.digest);
                let index = image::read_index(store, &node.digest).map_err(BuildError::other)?;
                waiting.extend(index.manifests);
            } else {
                let manifest = image::read_manifest(store, &node.digest).map_err(BuildError::other)?;
                let layers = manifest.layers.iter();
                images.push(ImageToSend {
                    digest: node.digest,
                    layers: layers.map(|layer| (layer.digest, layer.size)).collect(),
                    config: (manifest.config.digest, manifest.config.size),
                });
            }
        }
        all.push(ToSend {
            repository: placed.to.to_string(),
            root: Some(root.digest),
            is_index: root.media_type.is_index(),
            images,
            inner_indexes,
            statements: placed
                .item
                .artifacts
                .iter()
                .map(|artifact| artifact.bytes.len() as u64)
                .collect(),
            has_tag: placed.item.tag.is_some(),
            tag_is_free: placed.tag_is_free,
            is_named: placed.is_named,
            is_there: placed.is_there,
        });
    }
    Ok(all)
}

/// Asks for the tag of every repository's index; returns what is not proved by one, repository by repository, and the
/// requests that the asking took.
fn look<'a>(
    network: &Network,
    client: &RegistryClient,
    store: &Store,
    placed: Vec<Placed<'a>>,
    settings: PushSettings<'_>,
    known: &mut attached::Known,
    rows: &mut [Option<PushRow>],
) -> Result<(Vec<Vec<Placed<'a>>>, u64), BuildError> {
    let mut groups: BTreeMap<Repository, Vec<Placed<'a>>> = BTreeMap::new();
    for item in placed {
        groups.entry(item.to.clone()).or_default().push(item);
    }
    let waiting = groups.iter().map(|(to, group)| {
        let (client, to) = (client.clone(), to.clone());
        let tags = |indexes: bool| -> Vec<String> {
            let items = group.iter().map(|placed| placed.item);
            items
                .filter(|item| item.descriptor.media_type.is_index() == indexes)
                .filter_map(|item| item.tag.clone())
                .collect()
        };
        let (indexes, images) = (tags(true), tags(false).len());
        let registry = to.registry().to_owned();
        (registry, async move {
            ask(&client, &to, indexes, images).await.map(|tags| (to, tags))
        })
    });
    let mut tags_of: BTreeMap<Repository, Tags> = BTreeMap::new();
    network.block_on(in_turn(
        client,
        waiting,
        |(to, tags)| {
            tags_of.insert(to, tags);
        },
        || {},
    ))?;
    let looked = tags_of.values().map(|tags| tags.requests).sum();
    let mut remaining = Vec::new();
    for (to, mut group) in groups {
        // An index after its images, whatever the order that they came in.
        group.sort_by_key(|placed| placed.item.descriptor.media_type.is_index());
        let tags = tags_of.remove(&to).unwrap_or_default();
        // Of images that an index names: where the registry has it, it has them.
        let (mut proved, mut named) = (BTreeSet::new(), BTreeSet::new());
        for placed in &group {
            let (descriptor, Some(tag)) = (&placed.item.descriptor, &placed.item.tag) else {
                continue;
            };
            if !descriptor.media_type.is_index() {
                continue;
            }
            let index = image::read_index(store, &descriptor.digest).map_err(BuildError::other)?;
            let images = index.manifests.iter().map(|manifest| manifest.digest);
            match tags.indexes.get(tag).copied().flatten() {
                Some(found) if found == descriptor.digest => {
                    proved.insert(found);
                    proved.extend(images);
                }
                Some(found) if !settings.move_tags && !settings.dry_run => {
                    return Err(BuildError::Other(format!(
                        "{to}:{tag} already names {found}, not {}; raise the model's version, or move the tag with \
                         --move-tags",
                        descriptor.digest
                    )));
                }
                _ => named.extend(images),
            }
        }
        let mut left = Vec::new();
        for mut placed in group {
            let (image, artifacts) = (&placed.item.descriptor, &placed.item.artifacts);
            if proved.contains(&image.digest) {
                let missing = match artifacts.is_empty() {
                    true => 0,
                    false => network
                        .block_on(known.missing(client, &to, image, artifacts))
                        .map_err(BuildError::other)?,
                };
                if missing == 0 || settings.dry_run {
                    rows[placed.position] = Some(PushRow {
                        artifacts_sent: missing,
                        ..placed.row(&PushReceipt::default(), missing == 0)
                    });
                    continue;
                }
                placed.is_there = true;
            }
            placed.tag_is_free = placed.item.tag.as_ref().is_some_and(|tag| tags.is_free(tag));
            placed.is_named = named.contains(&placed.item.descriptor.digest);
            left.push(placed);
        }
        if !left.is_empty() {
            remaining.push(left);
        }
    }
    Ok((remaining, looked))
}

fn survey(
    network: &Network,
    client: &RegistryClient,
    store: &Store,
    remaining: &[Vec<Placed<'_>>],
    rows: &mut [Option<PushRow>],
    before: &mut Before,
) -> Result<(), BuildError> {
    let mut planned = PlannedBlobs::new();
    for placed in remaining.iter().flatten() {
        let (descriptor, tag) = (&placed.item.descriptor, placed.item.tag.as_deref());
        let found = network
            .block_on(client.survey(store, descriptor, &placed.to, tag, &mut planned))
            .map_err(BuildError::other)?;
        rows[placed.position] = Some(PushRow {
            reference: placed.reference(),
            digest: descriptor.digest,
            up_to_date: found.manifests_missing == 0,
            tag_names: found.tag.filter(|found| *found != descriptor.digest),
            blobs_present: found.blobs_present,
            blobs_mounted: found.blobs_mountable,
            blobs_sent: found.blobs_missing,
            sent_bytes: found.missing_bytes,
            manifests_sent: found.manifests_missing,
            artifacts_sent: 0,
        });
        let has = before.has.entry(placed.to.to_string()).or_default();
        has.extend(found.has);
        before.elsewhere.extend(found.elsewhere);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_layouts_find_their_place() {
        let ours = BTreeMap::from([("dev.aiot-ops.model.name".to_owned(), "a-b".to_owned())]);
        let check =
            |name: &str, annotations: &BTreeMap<String, String>, repository: &str, tag: Option<&str>| {
                let (found, found_tag) = place(name, annotations);
                assert_eq!(
                    (found.as_str(), found_tag.as_deref()),
                    (repository, tag),
                    "{name}"
                );
            };
        let none = BTreeMap::new();
        check("a-b-1.0.0", &ours, "a-b", Some("1.0.0"));
        check("a-b-1.0.0-rpi-arm32", &ours, "a-b", Some("1.0.0-rpi-arm32"));
        // A layout of ours that somebody renamed.
        check("latest", &ours, "", Some("latest"));
        check("a-b-1.0.0", &none, "", Some("a-b-1.0.0"));
        check("vision:1", &none, "vision", Some("1"));
        check("edge/vision:1", &none, "edge/vision", Some("1"));
        check(
            "registry.example:5000/edge/vision:1",
            &none,
            "edge/vision",
            Some("1"),
        );
        check("edge/vision", &none, "edge/vision", None);
        check("", &none, "", None);
    }
}
