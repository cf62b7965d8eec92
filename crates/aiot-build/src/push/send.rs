//! Sends what a registry lacks: a few repositories at the same time, each in the order of its items.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aiot_oci::{
    Descriptor, Digest, PushEvent, PushOptions, PushReceipt, RegistryClient, RegistryError, Repository,
    Store, image,
};
use tokio::task::JoinSet;

use super::places::KnownPlaces;
use super::{Placed, PushItem, PushRow, PushSettings};
use crate::error::BuildError;
use crate::events::{Event, Sink};
use crate::network::Network;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(200);

/// Repositories at the same time, and uploads in all of them; fewer where the registry wants it slower.
const REPOSITORIES_IN_PARALLEL: usize = 4;

/// Runs jobs, a few at a time and fewer after the registry asked to slow down, and hands over what they return in the
/// order in which they end. `tick` is called now and then.
///
/// # Errors
/// The first of a job; the others end where they are.
pub(super) async fn in_turn<
    T: Send + 'static,
    J: Future<Output = Result<T, RegistryError>> + Send + 'static,
>(
    client: &RegistryClient,
    jobs: impl Iterator<Item = (String, J)>,
    mut take: impl FnMut(T),
    tick: impl Fn(),
) -> Result<(), BuildError> {
    let mut jobs = jobs.peekable();
    // Dropped on an error, which ends the jobs that still run.
    let mut running: JoinSet<Result<T, RegistryError>> = JoinSet::new();
    loop {
        while let Some((registry, _)) = jobs.peek()
            && running.len() < client.uploads_now(registry, REPOSITORIES_IN_PARALLEL)
            && let Some((_, job)) = jobs.next()
        {
            running.spawn(job);
        }
        match tokio::time::timeout(TICK, running.join_next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(result))) => take(result.map_err(named)?),
            Ok(Some(Err(error))) => std::panic::resume_unwind(error.into_panic()),
            Err(_) => tick(),
        }
    }
}

/// An error with what to do about it here.
fn named(error: RegistryError) -> BuildError {
    match error {
        RegistryError::TagExists { .. } => BuildError::Other(format!(
            "{error}: raise the model's version, or move the tag with --move-tags"
        )),
        error => BuildError::other(error),
    }
}

/// Sends what is left over, and fills its rows.
#[allow(
    clippy::too_many_arguments,
    reason = "the parts of one push, named at its only call"
)]
pub(super) fn send(
    network: &Network,
    client: &RegistryClient,
    store: &Store,
    remaining: &[Vec<Placed<'_>>],
    settings: PushSettings<'_>,
    events: Sink<'_>,
    places: &mut KnownPlaces,
    rows: &mut [Option<PushRow>],
    total: &mut PushReceipt,
) -> Result<(), BuildError> {
    let mut sizes = BTreeMap::new();
    for placed in remaining.iter().flatten().filter(|placed| !placed.is_there) {
        blob_sizes(store, &placed.item.descriptor, &mut sizes)?;
    }
    let total_bytes: u64 = sizes.values().sum();
    let there: Arc<Mutex<BTreeMap<Digest, u64>>> = Arc::default();
    let listener = Arc::clone(&there);
    let options = PushOptions {
        overwrite_tag: settings.move_tags,
        on_event: Some(Arc::new(move |event| {
            let (digest, bytes) = match event {
                PushEvent::Sent {
                    digest,
                    position_bytes,
                    ..
                } => (*digest, *position_bytes),
                PushEvent::Delivered {
                    digest, size_bytes, ..
                } => (*digest, *size_bytes),
                PushEvent::Manifest { .. } => return,
            };
            listener
                .lock()
                .expect("no panic while held")
                .insert(digest, bytes);
        })),
        ..PushOptions::default()
    };
    let tell = || {
        let there_bytes = there.lock().expect("no panic while held").values().sum();
        events(Event::Sent {
            there_bytes,
            total_bytes,
        });
    };
    let scratch = tempfile::tempdir().map_err(BuildError::other)?;
    let documents = Store::create(scratch.path()).map_err(BuildError::other)?;
    let jobs = remaining.iter().map(|group| {
        let sender = Sender {
            client: client.clone(),
            store: store.clone(),
            documents: documents.clone(),
            options: PushOptions {
                // As many at the same time in all, whether they are of one repository or of several.
                uploads_in_parallel: (REPOSITORIES_IN_PARALLEL / remaining.len().max(1)).max(1),
                ..options.clone()
            },
        };
        let items: Vec<Sending> = group.iter().map(Placed::sending).collect();
        let registry = group[0].to.registry().to_owned();
        (registry, async move {
            let mut sent = Vec::with_capacity(items.len());
            for item in items {
                sent.push(sender.send(item).await?);
            }
            Ok(sent)
        })
    });
    let by_position: BTreeMap<usize, &Placed<'_>> = remaining
        .iter()
        .flatten()
        .map(|placed| (placed.position, placed))
        .collect();
    let take = |sent: Vec<Sent>| {
        tell();
        // One that cannot be written is told of at the end.
        let _ = places.write_sometimes(client);
        for Sent {
            position,
            receipt,
            artifacts_sent,
        } in sent
        {
            let placed = by_position[&position];
            *total += &receipt;
            let up_to_date = receipt == PushReceipt::default() && artifacts_sent == 0;
            if !up_to_date {
                events(Event::Note(match placed.is_there {
                    true => format!("attached {artifacts_sent} statements to {}", placed.reference()),
                    false => format!(
                        "pushed {} ({} blobs sent, {} there)",
                        placed.reference(),
                        receipt.blobs_uploaded,
                        receipt.blobs_present + receipt.blobs_mounted
                    ),
                }));
            }
            rows[position] = Some(PushRow {
                artifacts_sent,
                ..placed.row(&receipt, up_to_date)
            });
        }
    };
    network.block_on(in_turn(client, jobs, take, tell))
}

/// One item on its way.
pub(super) struct Sending {
    pub item: PushItem,
    pub to: Repository,
    pub position: usize,
    pub is_there: bool,
    pub tag_is_free: bool,
    pub is_named: bool,
}

/// What was sent of it.
struct Sent {
    position: usize,
    receipt: PushReceipt,
    artifacts_sent: usize,
}

/// What one repository's items are sent with.
struct Sender {
    client: RegistryClient,
    store: Store,
    /// Takes the documents of what is attached.
    documents: Store,
    options: PushOptions,
}

impl Sender {
    /// The image, what is said about it, and only then its name.
    async fn send(&self, sending: Sending) -> Result<Sent, RegistryError> {
        let Sending {
            item, to, position, ..
        } = sending;
        let options = PushOptions {
            tag_is_free: sending.tag_is_free,
            // Read back through the index that names it and comes after it.
            read_back: !sending.is_named,
            ..self.options.clone()
        };
        let (client, descriptor) = (&self.client, &item.descriptor);
        let mut receipt = PushReceipt::default();
        if !item.artifacts.is_empty() && !sending.is_there {
            receipt += &client.push(&self.store, descriptor, &to, None, &options).await?;
        }
        let mut artifacts_sent = 0;
        for artifact in &item.artifacts {
            let attached = client
                .attach(&self.documents, &to, descriptor, artifact, &options)
                .await?;
            artifacts_sent += attached.manifests_uploaded;
        }
        if !sending.is_there {
            receipt += &client
                .push(&self.store, descriptor, &to, item.tag.as_deref(), &options)
                .await?;
        }
        Ok(Sent {
            position,
            receipt,
            artifacts_sent,
        })
    }
}

/// Adds the blobs of all images below a node, each once.
fn blob_sizes(store: &Store, node: &Descriptor, sizes: &mut BTreeMap<Digest, u64>) -> Result<(), BuildError> {
    let mut waiting = vec![(node.clone(), 0)];
    while let Some((node, depth)) = waiting.pop() {
        if node.media_type.is_index() && depth < 4 {
            let index = image::read_index(store, &node.digest).map_err(BuildError::other)?;
            waiting.extend(index.manifests.into_iter().map(|child| (child, depth + 1)));
        } else if node.media_type.is_manifest() {
            let manifest = image::read_manifest(store, &node.digest).map_err(BuildError::other)?;
            let blobs = manifest.layers.iter().chain([&manifest.config]);
            sizes.extend(blobs.map(|blob| (blob.digest, blob.size)));
        }
    }
    Ok(())
}
