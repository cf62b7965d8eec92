//! Where the Debian mirror is: declared, from the environment, or what the host's apt is set up with.
//!
//! No host stands in this repository, so that a site with its own mirror needs no patch. The choice takes texts and
//! gives a URL; only [`read_apt_sources`] touches the disk.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::stanza::stanzas;

/// The environment variable that names the mirror; the caller reads it.
pub const MIRROR_VARIABLE: &str = "AIOT_DEBIAN_MIRROR";

/// Least upper bound on what a sane apt configuration needs.
const APT_FILE_LIMIT_BYTES: u64 = 1 << 20;
const APT_FILES_LIMIT: usize = 256;

/// Suites that only Debian has; `stable` and `testing` are used by third parties too.
const RELEASES: [&str; 10] = [
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "unstable",
    "oldstable",
    "oldoldstable",
];

/// One file of the host's apt configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AptSource {
    /// File name; its ending (`.sources` or `.list`) decides the format.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A mirror: the folder that has `dists` and `pool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// `http` or `https`, without a slash at the end.
    pub url: String,
    /// Who said so.
    pub origin: MirrorOrigin,
}

/// Who named the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorOrigin {
    /// The declaration or the command line.
    Declared,
    /// [`MIRROR_VARIABLE`].
    Environment,
    /// The host's apt configuration, in the file of this name.
    Apt(String),
}

impl fmt::Display for MirrorOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorOrigin::Declared => f.write_str("the declaration"),
            MirrorOrigin::Environment => f.write_str(MIRROR_VARIABLE),
            MirrorOrigin::Apt(file) => write!(f, "apt's {file}"),
        }
    }
}

/// Why there is no mirror.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Nothing names one.
    #[error(
        "no Debian mirror is known: set {MIRROR_VARIABLE} to the URL of the folder that has `dists` and `pool`, \
         or name it in the environment file (the host's apt configuration names none either; {looked_at})"
    )]
    Unknown {
        /// Which apt files were read.
        looked_at: String,
    },
    /// What names one is no URL.
    #[error("{origin} names the Debian mirror `{url}`, which is no http or https URL")]
    NotAUrl {
        /// Who named it.
        origin: MirrorOrigin,
        /// As written, without credentials.
        url: String,
    },
    /// The apt configuration cannot be read.
    #[error("cannot read apt's configuration {path}: {source}; set {MIRROR_VARIABLE} instead")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Chooses the mirror: `declared`, else `environment` (the value of [`MIRROR_VARIABLE`]), else the best archive in
/// `apt`. Empty strings count as absent.
///
/// From apt's configuration the first binary `main` archive is taken that is signed by Debian's archive keyring,
/// else one whose path ends in `/debian`, else one with a suite of Debian's; security archives never.
///
/// # Errors
/// [`MirrorError::Unknown`] or [`MirrorError::NotAUrl`].
pub fn choose_mirror(
    declared: Option<&str>,
    environment: Option<&str>,
    apt: &[AptSource],
) -> Result<Mirror, MirrorError> {
    let given = [
        (declared, MirrorOrigin::Declared),
        (environment, MirrorOrigin::Environment),
    ];
    for (url, origin) in given {
        let Some(url) = url.map(str::trim).filter(|url| !url.is_empty()) else {
            continue;
        };
        if !is_web_url(url) {
            return Err(MirrorError::NotAUrl {
                origin,
                url: crate::fetch::redact_url(url),
            });
        }
        return Ok(Mirror {
            url: url.trim_end_matches('/').to_string(),
            origin,
        });
    }
    let mut archives = Vec::new();
    for source in apt {
        let found = if source.name.ends_with(".sources") {
            read_deb822(&source.text)
        } else {
            read_one_line(&source.text)
        };
        archives.extend(found.into_iter().map(|archive| (archive, &source.name)));
    }
    // `min_by_key` keeps the first of equals: the order in the configuration decides within a rank.
    let best = archives
        .iter()
        .filter_map(|(archive, name)| Some((archive.rank()?, archive, name)));
    match best.min_by_key(|(rank, _, _)| *rank) {
        Some((_, archive, name)) => Ok(Mirror {
            url: archive.uri.trim_end_matches('/').to_string(),
            origin: MirrorOrigin::Apt((*name).clone()),
        }),
        None => Err(MirrorError::Unknown {
            looked_at: match apt {
                [] => "it has no files here".to_string(),
                files => {
                    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
                    format!("read: {}", names.join(", "))
                }
            },
        }),
    }
}

/// Reads the host's apt configuration below `etc_apt` (`/etc/apt`): `sources.list`, then `sources.list.d/*.sources`
/// and `*.list`, by name. A folder that is not there gives none.
///
/// # Errors
/// [`MirrorError::Read`] on a file that is there but not readable; text that is no UTF-8 is taken with replacements.
pub fn read_apt_sources(etc_apt: &Path) -> Result<Vec<AptSource>, MirrorError> {
    let mut paths = vec![etc_apt.join("sources.list")];
    let folder = etc_apt.join("sources.list.d");
    let read_error = |path: &Path, source| MirrorError::Read {
        path: path.to_path_buf(),
        source,
    };
    match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(read_error(&folder, error)),
        Ok(entries) => {
            let mut found = Vec::new();
            for entry in entries.take(APT_FILES_LIMIT) {
                let path = entry.map_err(|error| read_error(&folder, error))?.path();
                if path
                    .extension()
                    .is_some_and(|ending| ending == "sources" || ending == "list")
                {
                    found.push(path);
                }
            }
            found.sort();
            paths.extend(found);
        }
    }
    let mut sources = Vec::new();
    for path in paths {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|error| read_error(&path, error))?,
        };
        let mut bytes = Vec::new();
        file.take(APT_FILE_LIMIT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| read_error(&path, error))?;
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        sources.push(AptSource {
            name,
            text: String::from_utf8_lossy(&bytes).into_owned(),
        });
    }
    Ok(sources)
}

/// One archive of the apt configuration.
struct Archive {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: String,
}

impl Archive {
    /// How surely this is Debian's main archive, 0 = most; `None` = it is not.
    fn rank(&self) -> Option<u8> {
        let path = self.uri.trim_end_matches('/');
        let security =
            path.ends_with("security") || self.suites.iter().all(|suite| suite.contains("security"));
        if !is_web_url(&self.uri) || security || !self.components.iter().any(|name| name == "main") {
            return None;
        }
        let debian_suite = self.suites.iter().any(|suite| {
            let release = suite.split(['-', '/']).next().unwrap_or_default();
            RELEASES.contains(&release)
        });
        if self.signed_by.contains("debian-archive") {
            Some(0)
        } else if path.ends_with("/debian") {
            Some(1)
        } else if debian_suite {
            Some(2)
        } else {
            None
        }
    }
}

fn is_web_url(url: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        url.strip_prefix(scheme)
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
    }) && !url.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// `Types: deb`, `URIs: …`, `Suites: …`, `Components: …` stanzas.
fn read_deb822(text: &str) -> Vec<Archive> {
    let mut plain = String::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        plain.push_str(line.trim_end());
        plain.push('\n');
    }
    let mut archives = Vec::new();
    for stanza in stanzas(&plain) {
        let words = |field| -> Vec<String> {
            stanza
                .field(field)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_string)
                .collect()
        };
        let disabled = stanza.field("Enabled").is_some_and(|value| {
            ["no", "false", "without", "off", "disable"]
                .iter()
                .any(|no| value.eq_ignore_ascii_case(no))
        });
        if disabled || !words("Types").iter().any(|kind| kind == "deb") {
            continue;
        }
        archives.extend(words("URIs").into_iter().map(|uri| Archive {
            uri,
            suites: words("Suites"),
            components: words("Components"),
            signed_by: stanza.field("Signed-By").unwrap_or_default().to_string(),
        }));
    }
    archives
}

/// `deb [options] URI suite component…` lines.
fn read_one_line(text: &str) -> Vec<Archive> {
    let mut archives = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|rest| rest.starts_with([' ', '\t']))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_string);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        archives.push(Archive {
            uri,
            suites: vec![suite],
            components: words.collect(),
            signed_by: options.to_string(),
        });
    }
    archives
}

#[cfg(test)]
mod tests;
