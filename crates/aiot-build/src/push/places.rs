//! Which repository of a registry has a blob, kept from one push to the next: what goes to another repository of the
//! same registry is then mounted, not sent.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aiot_oci::{Places, RegistryClient};

use super::kept::kept;
use crate::error::BuildError;
use crate::lockfile::write_if_changed;

/// File beside the registries' habits.
const FILE: &str = "places.json";
/// Blobs of one registry that are kept; beyond them only those of the last push are.
const MAX_BLOBS: usize = 200_000;

/// Between two times that it is kept while a push runs: the file of a large fleet has megabytes.
const PAUSE: Duration = Duration::from_secs(1);

/// What is kept, and where.
pub(super) struct KnownPlaces {
    path: Option<PathBuf>,
    places: Places,
    /// When it was written last, or read.
    kept: Instant,
}

impl KnownPlaces {
    /// What earlier pushes left beside `habits`, told to the client; nothing where there is no such file or it is
    /// damaged.
    pub(super) fn read(habits: Option<&Path>, client: &RegistryClient) -> KnownPlaces {
        let (path, places): (_, Places) = kept(habits, FILE);
        client.hint_places(&places);
        KnownPlaces {
            path,
            places,
            kept: Instant::now(),
        }
    }

    /// As [`KnownPlaces::write`], from time to time: so that little is forgotten when the push is killed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write_sometimes(&mut self, client: &RegistryClient) -> Result<(), BuildError> {
        match self.kept.elapsed() < PAUSE {
            true => Ok(()),
            false => self.write(client),
        }
    }

    /// Adds what the client found, and keeps it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&mut self, client: &RegistryClient) -> Result<(), BuildError> {
        self.kept = Instant::now();
        let Some(path) = &self.path else {
            return Ok(());
        };
        for (registry, found) in client.places() {
            let blobs = self.places.entry(registry).or_default();
            if blobs.len() + found.len() > MAX_BLOBS {
                blobs.clear();
            }
            blobs.extend(found);
        }
        let bytes = serde_json::to_vec(&self.places).expect("plain data");
        write_if_changed(path, &bytes).map(|_| ())
    }
}
