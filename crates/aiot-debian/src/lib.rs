//! Debian packages as base of an image: resolve, verify, unpack, without root, apt or dpkg.
//!
//! In: root package names, a mirror, and the caller's [`Fetch`] and [`Store`]. Out:
//! [`LockedPackage`](aiot_plan::lock::LockedPackage)s for the lock and the exact [`RuntimeFile`]s to bake. The way
//! from one to the other:
//!
//! 1. [`choose_mirror`]: which mirror, from the declaration, the environment or the host's apt configuration;
//! 2. [`fetch_index`]: `InRelease` (signature checked by `gpgv` where there is one) → `Packages.xz` → [`Index`];
//! 3. [`resolve`]: root packages → their closure, each with pool path, size and digest;
//! 4. [`fetch_package`]: one locked package from the store, the mirror or a declared snapshot archive;
//! 5. [`FileTree::add_package`]: unpacks a `.deb` into memory, refusing what a package must not hold;
//! 6. [`runtime_files`]: walks `DT_NEEDED` from root libraries and keeps only what the loader will ask for.
//!
//! Deliberately not here: maintainer scripts (none runs, none is needed for libraries), `Conflicts` and `Breaks`
//! (two packages that both bring one path are refused when they are unpacked), source packages, writing to disk.

mod archive;
mod compression;
mod dependency;
mod elf;
mod fetch;
mod index;
mod lock;
mod mirror;
mod resolve;
mod runtime;
mod signature;
mod stanza;
#[cfg(test)]
mod test_support;
mod tree;
mod version;

pub use archive::{ArchiveError, Entry, EntryKind, Package, read_package};
pub use dependency::{Alternatives, Constraint, DependencyError, Operator, Relation, parse_dependencies};
pub use elf::{ElfError, ElfLibrary, read_elf};
pub use fetch::{
    Attempt, Fetch, FetchError, FetchedPackage, PackageError, PackageOrigin, PackageSources, Store,
};
pub use fetch::{fetch_package, redact_url};
pub use index::{Index, IndexError, PackageRecord, fetch_index};
pub use lock::{LockedPackageError, PackageChange, check_package, package_changes};
pub use mirror::{
    AptSource, MIRROR_VARIABLE, Mirror, MirrorError, MirrorOrigin, choose_mirror, read_apt_sources,
};
pub use resolve::{ResolveError, resolve};
pub use runtime::{RuntimeError, RuntimeFile, RuntimeFileKind, runtime_files};
pub use signature::{DEFAULT_KEYRING, Signature, SignatureError, Verifier};
pub use stanza::{Stanza, stanzas};
pub use tree::{FileTree, TreeError};
pub use version::compare_versions;
