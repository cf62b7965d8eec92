//! What an image is made of, how it was made, and who says so: CycloneDX 1.6 bills of materials with model cards, SLSA
//! provenance v1, and Sigstore bundles v0.3. Pure: values in, bytes out; only signing draws random numbers.
//!
//! | module | content |
//! | --- | --- |
//! | [`bom`] | the bill of materials of one image |
//! | [`provenance`] | where it comes from, as in-toto statement; the only place of commit and branch |
//! | [`bill_check`], [`check`] | reading both back: whole, about this image, in agreement with the lock |
//! | [`signature`] | DSSE envelopes in Sigstore bundles, signed and verified with ECDSA P-256 |
//!
//! None of these is part of an image, so none can change its digest. All but the signature are the same bytes for the
//! same inputs: no time, no random serial number, sorted keys.

pub mod bill_check;
pub mod bom;
pub mod check;
pub mod provenance;
pub mod signature;

pub use bill_check::check_bill;
pub use bom::{BomInput, BomModel, Crate, SystemPackage, bill_of_materials, crates_of_lock, licences};
pub use check::{
    LOCK_DEPENDENCY, ProvenanceFacts, check_dependencies, check_provenance, predicate_type, signed_subjects,
};
pub use provenance::{ProvenanceInput, SourceCommit, provenance};
pub use signature::{SignatureError, Signer, Verifier, image_statement};

use serde_json::Value;

/// JSON with sorted keys and a final newline.
fn to_bytes(value: &Value) -> Vec<u8> {
    let mut text = aiot_plan::action::canonical(value);
    text.push('\n');
    text.into_bytes()
}
