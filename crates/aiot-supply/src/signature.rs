//! Signatures: an in-toto statement over digests, in a DSSE envelope, in a Sigstore bundle v0.3, with ECDSA P-256 and
//! SHA-256. No certificate and no transparency log: the key is what an environment trusts.

use aiot_package::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};

use crate::provenance::STATEMENT_TYPE;

/// The media type of a bundle, also the artifact type of its referrer.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The payload type of a statement in an envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// The predicate type with which cosign signs images.
pub const SIGN_TYPE: &str = "https://sigstore.dev/cosign/sign/v1";
/// The longest bundle that is read.
pub const MAX_BUNDLE_BYTES: usize = 4 << 20;

/// What stands before the point in the DER form of a P-256 public key (RFC 5480): two object identifiers and lengths.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Digits of a key's short name.
const KEY_ID_DIGITS: usize = 16;
/// Length of an uncompressed point.
const POINT_BYTES: usize = 65;

/// What can be wrong with a key or a signature. Never holds a part of a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No private key that is known here.
    #[error(
        "the signing key cannot be used: {0}; make one with `openssl genpkey -algorithm EC -pkeyopt \
         ec_paramgen_curve:P-256`"
    )]
    PrivateKey(&'static str),
    /// No public key that is known here.
    #[error("the public key cannot be used: {0}; write it with `openssl pkey -in KEY -pubout`")]
    PublicKey(&'static str),
    /// The random number generator of the system failed.
    #[error("the system gave no random numbers to sign with")]
    Random,
    /// Not a bundle.
    #[error("the signature is no Sigstore bundle v0.3 with one DSSE signature: {0}")]
    Bundle(&'static str),
    /// Signed with another key, or changed since.
    #[error("the signature does not fit the key and the signed statement")]
    Wrong,
}

/// Signs statements.
pub struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// Reads a private key: PKCS #8 in PEM, not encrypted, P-256.
    ///
    /// # Errors
    /// [`SignatureError::PrivateKey`].
    pub fn from_pem(text: &str) -> Result<Signer, SignatureError> {
        if text.contains("ENCRYPTED") {
            return Err(SignatureError::PrivateKey("it is encrypted"));
        }
        let der =
            pem(text, "PRIVATE KEY").ok_or(SignatureError::PrivateKey("it is no PKCS #8 key in PEM"))?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &random)
            .map_err(|_| SignatureError::PrivateKey("it is no P-256 key with its public half"))?;
        Ok(Signer { pair, random })
    }

    /// The key that verifies what this one signs.
    pub fn verifier(&self) -> Verifier {
        Verifier {
            point: self.pair.public_key().as_ref().to_vec(),
        }
    }

    /// A bundle around a statement.
    ///
    /// # Errors
    /// [`SignatureError::Random`].
    pub fn sign(&self, statement: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let signature = self
            .pair
            .sign(&self.random, &pre_authentication(statement))
            .map_err(|_| SignatureError::Random)?;
        let hint = STANDARD.encode(hex_bytes(&Digest::of(&self.verifier().der())));
        Ok(crate::to_bytes(&json!({
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": { "publicKey": { "hint": hint } },
            "dsseEnvelope": {
                "payload": STANDARD.encode(statement),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{ "sig": STANDARD.encode(signature.as_ref()) }],
            },
        })))
    }
}

/// Verifies bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    point: Vec<u8>,
}

impl Verifier {
    /// Reads a public key: `SubjectPublicKeyInfo` in PEM, P-256, uncompressed.
    ///
    /// # Errors
    /// [`SignatureError::PublicKey`].
    pub fn from_pem(text: &str) -> Result<Verifier, SignatureError> {
        let der = pem(text, "PUBLIC KEY").ok_or(SignatureError::PublicKey("it is no public key in PEM"))?;
        match der.strip_prefix(&SPKI_PREFIX) {
            Some(point) if point.len() == POINT_BYTES && point[0] == 4 => Ok(Verifier {
                point: point.to_vec(),
            }),
            _ => Err(SignatureError::PublicKey("it is no P-256 key")),
        }
    }

    /// The key in PEM.
    pub fn to_pem(&self) -> String {
        let text = STANDARD.encode(self.der());
        let lines: Vec<&str> = (0..text.len())
            .step_by(64)
            .map(|at| &text[at..text.len().min(at + 64)])
            .collect();
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            lines.join("\n")
        )
    }

    /// A short name of the key: the first digits of the SHA-256 of its DER form, as `openssl pkey -pubin -outform DER |
    /// sha256sum` prints them.
    pub fn key_id(&self) -> String {
        Digest::of(&self.der()).hex()[..KEY_ID_DIGITS].to_owned()
    }

    fn der(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.point].concat()
    }

    /// Verifies a bundle; returns the statement that it signs, byte for byte.
    ///
    /// # Errors
    /// [`SignatureError::Bundle`], [`SignatureError::Wrong`].
    pub fn verify(&self, bundle: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let fail = SignatureError::Bundle;
        if bundle.len() > MAX_BUNDLE_BYTES {
            return Err(fail("it is too long"));
        }
        let json: Value = serde_json::from_slice(bundle).map_err(|_| fail("it is no JSON"))?;
        if json["mediaType"] != BUNDLE_TYPE {
            return Err(fail("its media type is another"));
        }
        let envelope = &json["dsseEnvelope"];
        if envelope["payloadType"] != PAYLOAD_TYPE {
            return Err(fail("its payload is no in-toto statement"));
        }
        let decode = |value: &Value| STANDARD.decode(value.as_str()?).ok();
        let payload = decode(&envelope["payload"]).ok_or(fail("its payload is no base64"))?;
        let signatures = envelope["signatures"]
            .as_array()
            .ok_or(fail("it has no signature"))?;
        let [signature] = signatures.as_slice() else {
            return Err(fail("it does not have one signature"));
        };
        let signature = decode(&signature["sig"]).ok_or(fail("its signature is no base64"))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(&pre_authentication(&payload), &signature)
            .map_err(|_| SignatureError::Wrong)?;
        Ok(payload)
    }
}

/// What a bundle calls the key that signed it; nothing vouches for that. `None` where it does not say.
pub fn key_hint(bundle: &[u8]) -> Option<String> {
    if bundle.len() > MAX_BUNDLE_BYTES {
        return None;
    }
    let json: Value = serde_json::from_slice(bundle).ok()?;
    json["verificationMaterial"]["publicKey"]["hint"]
        .as_str()
        .map(str::to_owned)
}

/// The statement that is signed for an image: its digest first, then those of what is said about it.
pub fn image_statement(subjects: &[(&str, Digest)]) -> Vec<u8> {
    let subjects: Vec<Value> = subjects
        .iter()
        .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest.hex() } }))
        .collect();
    crate::to_bytes(&json!({
        "_type": STATEMENT_TYPE, "subject": subjects, "predicateType": SIGN_TYPE, "predicate": {},
    }))
}

/// DSSE's pre-authentication encoding.
fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

fn hex_bytes(digest: &Digest) -> Vec<u8> {
    let hex = digest.hex();
    (0..hex.len())
        .step_by(2)
        .filter_map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok())
        .collect()
}

/// The content of the one block of a PEM text with this label.
fn pem(text: &str, label: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let text = STANDARD.encode(der.as_ref());
        Signer::from_pem(&format!(
            "-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"
        ))
        .unwrap()
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else() {
        let signer = signer();
        let statement = image_statement(&[("a", Digest::of(b"a"))]);
        let bundle = signer.sign(&statement).unwrap();
        assert_eq!(signer.verifier().verify(&bundle), Ok(statement.clone()));
        assert_eq!(
            self::signer().verifier().verify(&bundle),
            Err(SignatureError::Wrong)
        );
        let other = String::from_utf8(bundle.clone()).unwrap().replace(
            &STANDARD.encode(&statement),
            &STANDARD.encode(image_statement(&[("a", Digest::of(b"b"))])),
        );
        assert_eq!(
            signer.verifier().verify(other.as_bytes()),
            Err(SignatureError::Wrong)
        );
        for at in 0..bundle.len() {
            let mut changed = bundle.clone();
            changed[at] ^= 1;
            // The hint is for people; everything else is signed or needed.
            if let Ok(found) = signer.verifier().verify(&changed) {
                assert_eq!(found, statement, "byte {at}");
            }
            // The last byte is a newline.
            assert!(at == bundle.len() - 1 || signer.verifier().verify(&bundle[..at]).is_err());
        }
    }

    #[test]
    fn keys_are_read_and_refused() {
        let verifier = signer().verifier();
        assert_eq!(Verifier::from_pem(&verifier.to_pem()), Ok(verifier.clone()));
        for text in [
            "",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
            "-----BEGIN PUBLIC KEY-----",
        ] {
            assert!(
                matches!(Verifier::from_pem(text), Err(SignatureError::PublicKey(_))),
                "{text}"
            );
            assert!(
                matches!(Signer::from_pem(text), Err(SignatureError::PrivateKey(_))),
                "{text}"
            );
        }
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n";
        assert!(
            Signer::from_pem(encrypted)
                .unwrap_err()
                .to_string()
                .contains("encrypted")
        );
    }
}
