//! Content store, layers, images, indexes, layouts, registries: everything between "these files belong in an image"
//! and "the registry has it".
//!
//! ```text
//! files --LayerBuilder--> Layer --assemble_image--> image --assemble_index--> index
//!                  all bytes in a Store, all names are Descriptors
//! Store --write_layout--> OCI image layout on disk      Store --RegistryClient::push--> registry
//! registry --RegistryClient::pull_image--> Store        layout --validate_layout--> problems
//! ```
//!
//! | module | content |
//! | --- | --- |
//! | [`document`] | the JSON documents of OCI as typed structs whose bytes have one order |
//! | [`store`] | blobs by digest in a folder, verified when they are read |
//! | [`layer`] | USTAR layers field by field, plain or gzip; reading foreign layers with bounds |
//! | [`image`] | config, manifest and index from layers |
//! | [`compare`] | what two images hold, file by file, and where they differ |
//! | [`layout`], [`validate`] | the OCI image layout that a release leaves, and its check |
//! | [`mod@reference`] | `registry/repository:tag@digest` |
//! | [`registry`] | push and pull over HTTP; the only asynchronous part |
//!
//! The same inputs give the same bytes on any machine: no time, owner, path or hash-map order gets into a blob.
//!
//! Two libraries that one would expect are not here, on purpose. `oci-spec` keeps labels and annotations in hash
//! maps, so its JSON changes from run to run. `oci-client` cannot retry, sign in again in the middle of an upload,
//! ask for the two scopes that a mount needs, or exchange an identity token; with the uploads being ours, what is
//! left of it is smaller than the second connection pool and the dozen crates that it brings.

pub mod compare;
pub mod document;
pub mod image;
pub mod layer;
pub mod layout;
pub mod reference;
pub mod registry;
pub mod store;
pub mod validate;

pub use aiot_package::{Digest, DigestError};
pub use compare::{Change, FileFacts, first_difference, image_files};
pub use document::{Descriptor, ImageConfig, ImageIndex, ImageManifest, MediaType, Platform};
pub use image::{BaseImage, ImageError, ImageSpec, assemble_image, assemble_index};
pub use layer::{
    Compression, DirectoryMode, EntryKind, FileMode, FileSource, LAYER_FORMAT_VERSION, Layer, LayerBuilder,
    LayerEntry, LayerError, LayerLimits,
};
pub use layout::{LayoutError, LayoutReport, read_layout, write_layout};
pub use reference::{Reference, ReferenceError, Repository};
pub use registry::{
    Artifact, BlobDelivery, CheckedBlob, ClientOptions, Credentials, CredentialsError, Places, PlannedBlobs,
    PullLayers, PulledImage, PushEvent, PushListener, PushOptions, PushReceipt, PushSurvey, RegistryClient,
    RegistryError, ResolvedReference, Retry, RetryPolicy,
};
pub use store::{Blob, BlobWriter, Store, StoreError, VerifiedReader};
pub use validate::{Problem, validate_layout};
