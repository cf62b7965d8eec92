//! How many requests a push needs, and how long they take at a registry's rates.
//!
//! The same steps as the push's own, walked without asking anybody: an image under its digest, what is said about it,
//! its name, and the index last. Of repositories that are pushed at the same time each may find a little more or less
//! done by the others than here, where they come one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aiot_oci::Digest;
use serde::Serialize;

/// One thing to send, with its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToSend {
    /// Repository.
    pub repository: String,
    /// Manifest or index.
    pub root: Option<Digest>,
    /// Whether the root is an index.
    pub is_index: bool,
    /// Its images; the root itself, where it is one.
    pub images: Vec<ImageToSend>,
    /// Indexes below the root.
    pub inner_indexes: usize,
    /// Length of each statement that is attached, bytes.
    pub statements: Vec<u64>,
    /// Whether it gets a tag.
    pub has_tag: bool,
    /// Whether its tag is known to name nothing.
    pub tag_is_free: bool,
    /// Whether an index that comes after it names it.
    pub is_named: bool,
    /// Whether only statements are missing.
    pub is_there: bool,
}

/// One image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageToSend {
    /// Its manifest.
    pub digest: Digest,
    /// Layers and their lengths, bytes.
    pub layers: BTreeMap<Digest, u64>,
    /// Config and its length, bytes.
    pub config: (Digest, u64),
}

/// What is known of the registry before.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// Repository → blobs and manifests that it has.
    pub has: BTreeMap<String, BTreeSet<Digest>>,
    /// Blobs that some other repository has, to mount from.
    pub elsewhere: BTreeSet<Digest>,
    /// Whether the registry lists referrers itself.
    pub keeps_referrers: bool,
}

/// What a push needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RequestPlan {
    /// HEAD and GET.
    pub reads: u64,
    /// POST and PUT.
    pub writes: u64,
    /// Bytes of blobs.
    pub sent_bytes: u64,
}

/// What a tier of Azure Container Registry lets through at least, as Microsoft's page on service tiers estimates it
/// (azure-docs, `container-registry-limits.md`, 2019). It may let through more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tier {
    /// Its name.
    pub name: &'static str,
    /// HEAD and GET.
    pub reads_per_minute: u64,
    /// POST and PUT.
    pub writes_per_minute: u64,
    /// Bytes that it takes.
    pub upload_bytes_per_second: u64,
}

/// Azure's tiers.
pub const ACR_TIERS: [Tier; 3] = [
    Tier {
        name: "Basic",
        reads_per_minute: 1_000,
        writes_per_minute: 100,
        upload_bytes_per_second: 10_000_000,
    },
    Tier {
        name: "Standard",
        reads_per_minute: 3_000,
        writes_per_minute: 500,
        upload_bytes_per_second: 20_000_000,
    },
    Tier {
        name: "Premium",
        reads_per_minute: 10_000,
        writes_per_minute: 2_000,
        upload_bytes_per_second: 50_000_000,
    },
];

/// Whether a registry is one of Azure's, whose tiers limit the rate of requests.
pub fn is_acr(registry: &str) -> bool {
    registry.ends_with(".azurecr.io")
}

impl RequestPlan {
    /// Minutes at a tier's rates: whatever of reads, writes and bytes takes longest.
    pub fn minutes(&self, tier: &Tier) -> f64 {
        let per_minute = [
            (self.reads, tier.reads_per_minute),
            (self.writes, tier.writes_per_minute),
            (self.sent_bytes, 60 * tier.upload_bytes_per_second),
        ];
        let minutes = per_minute.map(|(count, rate)| count as f64 / rate as f64);
        minutes.into_iter().fold(0.0, f64::max)
    }
}

impl fmt::Display for RequestPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reads, {} writes and {:.1} MB; Azure Container Registry lets that through in",
            self.reads,
            self.writes,
            self.sent_bytes as f64 / 1e6
        )?;
        for (position, tier) in ACR_TIERS.iter().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            write!(f, "{comma} {:.1} min ({})", self.minutes(tier), tier.name)?;
        }
        Ok(())
    }
}

/// Counts the requests that sending these takes, one after the other.
pub fn plan(items: &[ToSend], before: &Before) -> RequestPlan {
    let mut walk = Walk {
        before,
        repositories_with: BTreeMap::new(),
        manifests: BTreeSet::new(),
        asked_for_referrers: false,
        plan: RequestPlan::default(),
    };
    for item in items {
        walk.item(item);
    }
    walk.plan
}

struct Walk<'a> {
    before: &'a Before,
    /// Blob → repositories that have it now.
    repositories_with: BTreeMap<Digest, BTreeSet<&'a str>>,
    /// Manifests that were put or seen.
    manifests: BTreeSet<(&'a str, Digest)>,
    asked_for_referrers: bool,
    plan: RequestPlan,
}

impl<'a> Walk<'a> {
    fn item(&mut self, item: &'a ToSend) {
        let repository = item.repository.as_str();
        if !item.statements.is_empty() && !item.is_there {
            self.push(item, false);
        }
        for bytes in &item.statements {
            // Is it there; its document and its manifest; `{}`, which all share, only once.
            self.plan.reads += 2;
            self.plan.writes += 3;
            self.plan.sent_bytes += bytes;
            self.blob(repository, Digest::of(b"{}"), 2, true);
            if !self.asked_for_referrers {
                self.asked_for_referrers = true;
                self.plan.reads += 1;
            }
            if !self.before.keeps_referrers {
                self.plan.reads += 2;
                self.plan.writes += 1;
            }
        }
        if !item.is_there {
            self.push(item, item.has_tag);
        }
    }

    fn push(&mut self, item: &'a ToSend, under_tag: bool) {
        let (repository, Some(root)) = (item.repository.as_str(), item.root) else {
            return;
        };
        if under_tag && !item.tag_is_free {
            self.plan.reads += 1;
        }
        let mut layers = item.images.iter().flat_map(|image| image.layers.keys());
        let is_quick = under_tag
            && !item.is_index
            && layers.all(|layer| self.repositories_with.contains_key(layer) || self.is_elsewhere(layer));
        let is_there = match is_quick {
            true => self.manifests.contains(&(repository, root)),
            false => self.has_manifest(repository, root),
        };
        if !is_there {
            self.children(item, root);
        } else if !under_tag {
            return;
        }
        self.plan.writes += 1;
        self.manifests.insert((repository, root));
        self.plan.reads += u64::from(!item.is_named);
    }

    fn children(&mut self, item: &'a ToSend, root: Digest) {
        let repository = item.repository.as_str();
        let (mut layers, mut configs) = (BTreeMap::new(), BTreeMap::new());
        for image in &item.images {
            if image.digest != root && self.has_manifest(repository, image.digest) {
                continue;
            }
            layers.extend(image.layers.iter().map(|(digest, bytes)| (*digest, *bytes)));
            configs.insert(image.config.0, image.config.1);
            if image.digest != root {
                self.plan.writes += 1;
                self.manifests.insert((repository, image.digest));
            }
        }
        let mut all_there = true;
        for (digest, bytes) in layers {
            all_there &= self.blob(repository, digest, bytes, true);
        }
        for (digest, bytes) in configs {
            self.blob(repository, digest, bytes, all_there);
        }
        self.plan.writes += item.inner_indexes as u64;
    }

    /// Whether the repository has a manifest, which costs a request unless that is known.
    fn has_manifest(&mut self, repository: &'a str, digest: Digest) -> bool {
        if self.manifests.contains(&(repository, digest)) {
            return true;
        }
        self.plan.reads += 1;
        let is_there = self.is_before(repository, &digest);
        if is_there {
            self.manifests.insert((repository, digest));
        }
        is_there
    }

    /// Brings a blob into a repository; whether it was there.
    fn blob(&mut self, repository: &'a str, digest: Digest, bytes: u64, ask: bool) -> bool {
        let is_before = self.is_before(repository, &digest);
        let is_elsewhere = self.is_elsewhere(&digest);
        let with = self.repositories_with.entry(digest).or_default();
        if with.contains(repository) {
            return true;
        }
        let is_known = !with.is_empty() || (is_elsewhere && !is_before);
        with.insert(repository);
        if is_known {
            self.plan.writes += 1;
            return false;
        }
        self.plan.reads += u64::from(ask);
        if ask && is_before {
            return true;
        }
        self.plan.writes += 2;
        self.plan.sent_bytes += bytes;
        false
    }

    fn is_before(&self, repository: &str, digest: &Digest) -> bool {
        let has = self.before.has.get(repository);
        has.is_some_and(|has| has.contains(digest))
    }

    fn is_elsewhere(&self, digest: &Digest) -> bool {
        self.before.elsewhere.contains(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    /// An image of a model for a target: a shared layer of the target, 10 bytes, the model's, 100, a config of 1.
    fn image(model: &str, target: &str) -> ImageToSend {
        ImageToSend {
            digest: digest(&format!("{model}-{target}")),
            layers: BTreeMap::from([(digest(target), 10), (digest(model), 100)]),
            config: (digest(&format!("config {model}-{target}")), 1),
        }
    }

    /// Images and index of each model.
    fn fleet(models: &[&str], targets: &[&str]) -> Vec<ToSend> {
        let mut items = Vec::new();
        for model in models {
            let images: Vec<_> = targets.iter().map(|target| image(model, target)).collect();
            items.extend(images.iter().map(|image| ToSend {
                repository: (*model).to_owned(),
                root: Some(image.digest),
                images: vec![image.clone()],
                has_tag: true,
                tag_is_free: true,
                is_named: true,
                ..ToSend::default()
            }));
            items.push(ToSend {
                repository: (*model).to_owned(),
                root: Some(digest(model)),
                is_index: true,
                images,
                has_tag: true,
                tag_is_free: true,
                ..ToSend::default()
            });
        }
        items
    }

    fn check(items: &[ToSend], before: &Before, expected: (u64, u64, u64)) {
        let found = plan(items, before);
        assert_eq!((found.reads, found.writes, found.sent_bytes), expected);
    }

    #[test]
    fn requests_are_counted() {
        let nothing = Before::default();
        check(&[], &nothing, (0, 0, 0));
        // HEAD of the image and of two layers; two requests for each of three blobs; image, index. The index: HEAD, and
        // read back.
        check(&fleet(&["m"], &["t"]), &nothing, (3 + 2, 3 * 2 + 2, 111));
        // A second target: HEAD of the image and of its own layer; two blobs, image. The model's layer is known.
        check(
            &fleet(&["m"], &["t", "u"]),
            &nothing,
            (5 + 2, 8 + 2 * 2 + 1, 111 + 11),
        );
        // A second model: HEAD of the image and of one layer; the target's is mounted.
        check(
            &fleet(&["m", "n"], &["t"]),
            &nothing,
            (5 + 4, 8 + 1 + 2 * 2 + 2, 111 + 101),
        );
        // Shared blobs cost one request in each repository, whatever their length.
        let many: Vec<String> = (0..500).map(|number| format!("m{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let full = plan(&fleet(&many, &["a", "b", "c", "d"]), &nothing);
        assert_eq!(full.sent_bytes, 4 * 10 + 500 * 100 + 2_000);
        // Each repository: four shared layers sent or mounted, its model, four configs, five names.
        let (first, each) = (4 * 2 + 2 + 8 + 5, 4 + 2 + 8 + 5);
        assert_eq!(full.writes, first + 499 * each);
    }

    #[test]
    fn what_is_there_is_not_sent() {
        let items = fleet(&["m"], &["t"]);
        let has = |names: &[&str]| Before {
            has: BTreeMap::from([("m".to_owned(), names.iter().map(|name| digest(name)).collect())]),
            ..Before::default()
        };
        check(&items, &has(&["t"]), (5, 6, 101));
        check(&items, &has(&["t", "m"]), (6, 4, 1));
        // The image itself proves its blobs; both names are left.
        check(&items, &has(&["m-t"]), (3, 2, 0));
        let elsewhere = Before {
            elsewhere: BTreeSet::from([digest("t"), digest("m")]),
            ..Before::default()
        };
        // Nothing is asked of an image whose layers are known.
        check(&items, &elsewhere, (2, 6, 1));
    }

    #[test]
    fn statements_cost_requests_too() {
        let mut items = fleet(&["m"], &["t"]);
        let bare = plan(&items, &Before::default());
        items[0].statements = vec![1_000, 2_000];
        let with = plan(&items, &Before::default());
        assert_eq!(with.sent_bytes, bare.sent_bytes + 3_000 + 2);
        // For both: HEAD, HEAD, POST, PUT, PUT, and the tag's list, GET, PUT, GET; once `{}` and whether there is a list.
        assert_eq!(with.reads, bare.reads + 2 * 4 + 2);
        assert_eq!(with.writes, bare.writes + 2 * 4 + 2 + 1);
        let listed = Before {
            keeps_referrers: true,
            ..Before::default()
        };
        assert_eq!(plan(&items, &listed).writes, with.writes - 2);
        items[0].is_there = true;
        assert!(plan(&items[..1], &listed).writes < with.writes);
    }

    #[test]
    fn the_slowest_of_reads_writes_and_bytes_counts() {
        let plan = |reads, writes, sent_bytes| RequestPlan {
            reads,
            writes,
            sent_bytes,
        };
        let minutes = |plan: RequestPlan| ACR_TIERS.map(|tier| (plan.minutes(&tier) * 10.0).round() / 10.0);
        assert_eq!(minutes(plan(0, 0, 0)), [0.0, 0.0, 0.0]);
        assert_eq!(minutes(plan(3_000, 10, 0)), [3.0, 1.0, 0.3]);
        // The fleet of the facts: about two hours on Basic, six minutes on Premium.
        assert_eq!(minutes(plan(2_000, 11_000, 2_000_000_000)), [110.0, 22.0, 5.5]);
        assert_eq!(minutes(plan(1, 1, 12_000_000_000)), [20.0, 10.0, 4.0]);
        let text = plan(2_000, 11_000, 2_000_000_000).to_string();
        assert!(text.contains("2000 reads, 11000 writes and 2000.0 MB"), "{text}");
        assert!(
            text.ends_with("110.0 min (Basic), 22.0 min (Standard), 5.5 min (Premium)"),
            "{text}"
        );
        assert!(is_acr("plant.azurecr.io") && !is_acr("azurecr.io.example") && !is_acr("localhost:5000"));
    }
}
