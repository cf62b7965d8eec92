//! What a layer hides of the layers below it.
//!
//! Source: OCI image specification, layer.md, "Whiteouts": an entry `.wh.NAME` hides `NAME`, an entry
//! `.wh..wh..opq` all that lower layers have in its folder.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

/// How the name of every whiteout begins.
pub(super) const PREFIX: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// An entry that stands for the absence of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whiteout {
    /// Hides a path and all below it.
    Path(String),
    /// Hides all below a folder; empty: everything.
    Below(String),
}

impl Whiteout {
    /// What an entry hides; `None` of an entry that is a path of the image.
    pub fn of(path: &str) -> Option<Whiteout> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name == OPAQUE {
            return Some(Whiteout::Below(folder.to_owned()));
        }
        let hidden = name.strip_prefix(PREFIX).filter(|hidden| !hidden.is_empty())?;
        Some(Whiteout::Path(if folder.is_empty() {
            hidden.to_owned()
        } else {
            format!("{folder}/{hidden}")
        }))
    }

    /// Takes what it hides out of the paths of the layers below. The cost follows from what goes, not from what is
    /// there: a layer may hold as many whiteouts as entries.
    pub fn apply<K: Borrow<str> + Ord + Clone, V>(&self, paths: &mut BTreeMap<K, V>) {
        let folder = match self {
            Whiteout::Path(path) => {
                paths.remove(path.as_str());
                path
            }
            Whiteout::Below(folder) if folder.is_empty() => return paths.clear(),
            Whiteout::Below(folder) => folder,
        };
        let below = format!("{folder}/");
        let from = (Bound::Included(below.as_str()), Bound::Unbounded);
        while let Some((found, _)) = paths.range::<str, _>(from).next()
            && found.borrow().starts_with(&below)
        {
            let found = found.clone();
            paths.remove(found.borrow());
        }
    }
}
