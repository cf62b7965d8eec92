//! The signature of an `InRelease` file, checked by `gpgv` where the host has it and Debian's keyring.
//!
//! OpenPGP is not written again here: every Debian has `gpgv`, since apt needs it. Elsewhere the answer is
//! [`Signature::Unverified`], which the caller reports: the SHA-256 pins in the lock are then trust on first use.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `debian-archive-keyring` keeps the keys.
pub const DEFAULT_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How far an index can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Signed by these primary keys (fingerprints) of the keyring; none of the signatures is bad.
    Verified {
        /// Upper-case hexadecimal, sorted.
        fingerprints: Vec<String>,
    },
    /// Nobody checked; the pins in the lock are trust on first use.
    Unverified {
        /// What is missing, and which package brings it.
        reason: String,
    },
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signature::Verified { fingerprints } => write!(f, "signed by {}", fingerprints.join(", ")),
            Signature::Unverified { reason } => write!(f, "signature not checked: {reason}"),
        }
    }
}

/// Why an `InRelease` is refused.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// `gpgv` finds no good signature, or a bad one.
    #[error(
        "gpgv does not accept the signature ({status}): the mirror is broken or lies, or {keyring} is older than \
         the suite (update the package debian-archive-keyring)"
    )]
    Refused {
        /// The deciding lines of gpgv's status.
        status: String,
        /// The keyring.
        keyring: PathBuf,
    },
    /// `gpgv` cannot be run.
    #[error("cannot run `{command}`: {source}")]
    Run {
        /// The program.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// The file is no clear-signed text.
    #[error("not a clear-signed text: {0}; is there a proxy or login page between here and the mirror?")]
    Malformed(&'static str),
}

/// Checks signatures with one keyring.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// The program, by name or path.
    pub gpgv: PathBuf,
    /// The keyring; must be an absolute path, since gpgv looks for others in its home.
    pub keyring: PathBuf,
}

impl Default for Verifier {
    fn default() -> Self {
        Verifier {
            gpgv: "gpgv".into(),
            keyring: DEFAULT_KEYRING.into(),
        }
    }
}

impl Verifier {
    /// The signed text of `in_release` and how far to trust it.
    ///
    /// Accepted with at least one good signature and no bad one; signatures by keys that the keyring lacks do not
    /// count either way, since a release is signed by the keys of two releases (apt's rule).
    ///
    /// # Errors
    /// [`SignatureError`]; that a tool or the keyring is missing is no error but [`Signature::Unverified`].
    pub fn verify(&self, in_release: &[u8]) -> Result<(String, Signature), SignatureError> {
        let unverified =
            |reason: String| Ok((clear_signed_text(in_release)?, Signature::Unverified { reason }));
        if !self.keyring.exists() {
            let keyring = self.keyring.display();
            return unverified(format!("{keyring} is absent (package debian-archive-keyring)"));
        }
        let (stdout, status) = match run_gpgv(&self.gpgv, &self.keyring, in_release) {
            Ok(output) => output,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return unverified(format!(
                    "`{}` is not installed (package gpgv)",
                    self.gpgv.display()
                ));
            }
            Err(source) => {
                return Err(SignatureError::Run {
                    command: self.gpgv.display().to_string(),
                    source,
                });
            }
        };
        let fingerprints = good_signatures(&status).map_err(|status| SignatureError::Refused {
            status,
            keyring: self.keyring.clone(),
        })?;
        let text = String::from_utf8(stdout).map_err(|_| SignatureError::Malformed("no UTF-8"))?;
        Ok((text, Signature::Verified { fingerprints }))
    }
}

/// What gpgv writes: the signed text, and its status lines.
fn run_gpgv(gpgv: &Path, keyring: &Path, in_release: &[u8]) -> io::Result<(Vec<u8>, String)> {
    let mut child = Command::new(gpgv)
        .args(["--status-fd", "2", "--output", "-", "--keyring"])
        .arg(keyring)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take();
    // A thread writes: gpgv answers before it has read all, and both pipes are shorter than the text.
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            // A gpgv that stops reading says why in its status.
            stdin.map(|mut stdin| stdin.write_all(in_release))
        });
        child.wait_with_output()
    })?;
    Ok((
        output.stdout,
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

/// The fingerprints behind the good signatures; else the status that decided.
fn good_signatures(status: &str) -> Result<Vec<String>, String> {
    let lines: Vec<&str> = status
        .lines()
        .filter_map(|line| line.strip_prefix("[GNUPG:] "))
        .collect();
    let mut fingerprints = Vec::new();
    let mut good = false;
    for line in &lines {
        let mut words = line.split_whitespace();
        match words.next() {
            // An expired or revoked key gives EXPKEYSIG or REVKEYSIG in place of GOODSIG, but VALIDSIG as well.
            Some("NEWSIG") => good = false,
            Some("GOODSIG") => good = true,
            Some("VALIDSIG") if good => fingerprints.extend(words.next_back().map(str::to_string)),
            Some("BADSIG") => return Err((*line).to_string()),
            _ => {}
        }
    }
    if fingerprints.is_empty() {
        let deciding = [
            "ERRSIG",
            "NO_PUBKEY",
            "EXPKEYSIG",
            "REVKEYSIG",
            "EXPSIG",
            "NODATA",
        ];
        let told: Vec<_> = lines
            .into_iter()
            .filter(|line| deciding.iter().any(|word| line.starts_with(word)))
            .collect();
        let tail = || {
            status
                .trim()
                .chars()
                .rev()
                .take(400)
                .collect::<String>()
                .chars()
                .rev()
                .collect()
        };
        return Err(if told.is_empty() { tail() } else { told.join(", ") });
    }
    fingerprints.sort();
    fingerprints.dedup();
    Ok(fingerprints)
}

/// The text between the armour lines, dashes unescaped. Source: RFC 9580, 7.
fn clear_signed_text(bytes: &[u8]) -> Result<String, SignatureError> {
    let text = std::str::from_utf8(bytes).map_err(|_| SignatureError::Malformed("no UTF-8"))?;
    let mut lines = text
        .lines()
        .skip_while(|line| *line != "-----BEGIN PGP SIGNED MESSAGE-----");
    if lines.next().is_none() {
        return Err(SignatureError::Malformed("no `BEGIN PGP SIGNED MESSAGE` line"));
    }
    let mut signed = String::with_capacity(text.len());
    for line in lines.skip_while(|line| !line.is_empty()).skip(1) {
        if line == "-----BEGIN PGP SIGNATURE-----" {
            return Ok(signed);
        }
        signed.push_str(line.strip_prefix("- ").unwrap_or(line));
        signed.push('\n');
    }
    Err(SignatureError::Malformed("no `BEGIN PGP SIGNATURE` line"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_decide() {
        let good = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 1 A\n[GNUPG:] VALIDSIG F1 x P1\n";
        let missing = "[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG 2\n[GNUPG:] NO_PUBKEY 2\n";
        let expired = "[GNUPG:] NEWSIG\n[GNUPG:] EXPKEYSIG 3 C\n[GNUPG:] VALIDSIG F3 x P3\n";
        let bad = "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG 4 D\n";
        let check = |status: &str, expected: Result<&str, &str>| {
            let found = good_signatures(status).map(|keys| keys.join(","));
            assert_eq!(
                found,
                expected.map(str::to_string).map_err(str::to_string),
                "{status}"
            );
        };
        check(good, Ok("P1"));
        check(&format!("{good}{missing}"), Ok("P1"));
        check(&format!("{good}{expired}"), Ok("P1"));
        check(&format!("{good}{bad}"), Err("BADSIG 4 D"));
        check(missing, Err("ERRSIG 2, NO_PUBKEY 2"));
        check(expired, Err("EXPKEYSIG 3 C"));
        check("gpgv: no keyring\n", Err("gpgv: no keyring"));
    }

    #[test]
    fn reads_clear_signed_text() {
        let signed = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: D\n- -x\n\
                      -----BEGIN PGP SIGNATURE-----\nxx\n";
        assert_eq!(clear_signed_text(signed.as_bytes()).unwrap(), "Origin: D\n-x\n");
        for wrong in ["", "<html>", "-----BEGIN PGP SIGNED MESSAGE-----\n\nOrigin: D\n"] {
            assert!(clear_signed_text(wrong.as_bytes()).is_err());
        }
        assert!(clear_signed_text(b"\xff").is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let signed = b"-----BEGIN PGP SIGNED MESSAGE-----\n\nA: b\n-----BEGIN PGP SIGNATURE-----\n";
        let folder = tempfile::tempdir().unwrap();
        let keyring = folder.path().join("keys.gpg");
        let verifier = Verifier {
            gpgv: folder.path().join("no-gpgv"),
            keyring: keyring.clone(),
        };
        let (text, signature) = verifier.verify(signed).unwrap();
        assert_eq!(text, "A: b\n");
        assert!(
            signature.to_string().contains("package debian-archive-keyring"),
            "{signature}"
        );
        std::fs::write(&keyring, "").unwrap();
        let (_, signature) = verifier.verify(signed).unwrap();
        assert!(signature.to_string().contains("package gpgv"), "{signature}");
    }
}
