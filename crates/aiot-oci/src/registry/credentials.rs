//! Who we are, per registry: Docker's and podman's config files and the helper programs that they name.
//!
//! A helper that is missing or broken is no error here, since a public image needs no credentials: what it said is
//! kept and shown only if the registry then refuses us.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

const MAX_CONFIG_BYTES: u64 = 4 << 20;
const MAX_HELPER_ANSWER_BYTES: u64 = 64 << 10;
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

/// How Docker's config file names Docker Hub.
const DOCKER_HUB_KEY: &str = "index.docker.io";

/// The user name by which a helper says that the secret is an identity token.
const IDENTITY_TOKEN_USER: &str = "<token>";

/// A config file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("credentials in {}: {reason}", path.display())]
pub struct CredentialsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong; never holds a secret.
    pub reason: String,
}

/// Credentials for any number of registries. Never shown.
#[derive(Clone, Default)]
pub struct Credentials {
    logins: BTreeMap<String, Login>,
    files: Arc<Vec<ConfigFile>>,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Login {
    Password { username: String, password: String },
    IdentityToken(String),
}

/// What was found for a registry, and what went wrong while looking.
pub(super) struct Found {
    pub login: Option<Login>,
    note: Option<String>,
}

impl Found {
    /// A reason for a refusal, with what there is to know about our credentials.
    pub fn explain(&self, reason: &str) -> String {
        match (&self.login, &self.note) {
            (Some(_), _) => format!("{reason} (with the credentials found for it)"),
            (None, Some(note)) => format!("{reason}; {note}"),
            (None, None) => format!("{reason}; no credentials for it were found"),
        }
    }
}

#[derive(Default, Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    default_helper: Option<String>,
}

#[derive(Default, Deserialize)]
struct AuthEntry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Credentials({} registries, {} files)",
            self.logins.len(),
            self.files.len()
        )
    }
}

impl Credentials {
    /// None at all: public images only.
    pub fn anonymous() -> Credentials {
        Credentials::default()
    }

    /// Adds user and password for one registry; these come before any file.
    pub fn with_password(mut self, registry: &str, username: &str, password: &str) -> Credentials {
        self.logins.insert(registry.to_owned(), login(username, password));
        self
    }

    /// Reads the config files of this user: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` or
    /// `~/.docker/config.json`, `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json`; the first
    /// one that knows a registry decides. A file that does not exist is skipped.
    ///
    /// # Errors
    /// [`CredentialsError`] for a file that is there but no config.
    pub fn from_environment() -> Result<Credentials, CredentialsError> {
        let folder = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = folder("HOME");
        let docker = folder("DOCKER_CONFIG").or_else(|| home.as_ref().map(|home| home.join(".docker")));
        let paths: Vec<PathBuf> = [
            folder("REGISTRY_AUTH_FILE"),
            docker.map(|folder| folder.join("config.json")),
            folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            home.map(|home| home.join(".config/containers/auth.json")),
        ]
        .into_iter()
        .flatten()
        .collect();
        Credentials::from_files(&paths)
    }

    /// Reads config files, skipping those that do not exist.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn from_files(paths: &[PathBuf]) -> Result<Credentials, CredentialsError> {
        let files = paths
            .iter()
            .filter_map(|path| read_config(path).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Credentials {
            logins: BTreeMap::new(),
            files: Arc::new(files),
        })
    }

    pub(super) async fn look_up(&self, registry: &str) -> Found {
        if let Some(login) = self.logins.get(registry) {
            return Found {
                login: Some(login.clone()),
                note: None,
            };
        }
        let mut note = None;
        for file in self.files.iter() {
            if let Some((name, key)) = file.helper(registry) {
                match ask_helper(name, key).await {
                    Ok(Some(login)) => {
                        return Found {
                            login: Some(login),
                            note: None,
                        };
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        note = Some(format!("the program docker-credential-{name} failed: {reason}"))
                    }
                }
            }
            if let Some(login) = file.login(registry) {
                return Found {
                    login: Some(login),
                    note: None,
                };
            }
        }
        Found { login: None, note }
    }
}

impl ConfigFile {
    /// The helper for a registry and the key to ask it for.
    fn helper<'a>(&'a self, registry: &'a str) -> Option<(&'a str, &'a str)> {
        if let Some((key, name)) = self.helpers.iter().find(|(key, _)| names(key, registry)) {
            return Some((name, key));
        }
        let key = self
            .auths
            .keys()
            .find(|key| names(key, registry))
            .map_or(registry, String::as_str);
        self.default_helper
            .as_deref()
            .filter(|name| !name.is_empty())
            .map(|name| (name, key))
    }

    fn login(&self, registry: &str) -> Option<Login> {
        let (_, entry) = self.auths.iter().find(|(key, _)| names(key, registry))?;
        if !entry.identity_token.is_empty() {
            return Some(Login::IdentityToken(entry.identity_token.clone()));
        }
        if !entry.username.is_empty() {
            return Some(login(&entry.username, &entry.password));
        }
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(entry.auth.trim())
            .ok()?;
        let decoded = String::from_utf8(decoded).ok()?;
        let (username, password) = decoded.split_once(':')?;
        (!username.is_empty()).then(|| login(username, password.trim_end_matches('\0')))
    }
}

fn login(username: &str, password: &str) -> Login {
    if username == IDENTITY_TOKEN_USER {
        return Login::IdentityToken(password.to_owned());
    }
    Login::Password {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}

/// Whether a key of a config file (`host`, `host:port`, `https://host/v1/`) means the registry.
fn names(key: &str, registry: &str) -> bool {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let host = key.split('/').next().unwrap_or_default();
    host == registry || (registry == "docker.io" && host == DOCKER_HUB_KEY)
}

fn read_config(path: &Path) -> Result<Option<ConfigFile>, CredentialsError> {
    let fail = |reason: String| CredentialsError {
        path: path.to_owned(),
        reason,
    };
    let mut text = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => file
            .take(MAX_CONFIG_BYTES)
            .read_to_end(&mut text)
            .map_err(|error| fail(error.to_string()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    };
    // Line and column only: the message of a JSON error can quote the text.
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        fail(format!(
            "not Docker's config format (line {}, column {})",
            error.line(),
            error.column()
        ))
    })
}

/// Asks `docker-credential-<name> get`, the protocol of Docker's credential helpers.
async fn ask_helper(name: &str, key: &str) -> Result<Option<Login>, String> {
    if name.is_empty()
        || !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    {
        return Err("its name is no program name".to_owned());
    }
    let helper = Command::new(format!("docker-credential-{name}"));
    let (status, answer) = converse(helper, key, HELPER_TIMEOUT).await?;
    read_answer(status, &answer)
}

/// One question to a helper, its end and its answer. No helper has more time than `timeout`: one that gives no answer,
/// or answers and goes on, is killed.
async fn converse(
    mut helper: Command,
    question: &str,
    timeout: Duration,
) -> Result<(ExitStatus, Vec<u8>), String> {
    let mut child = helper
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let question = question.to_owned();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread, not a task: the runtime would wait at its end for one whose pipe the helper's own child holds open.
    std::thread::spawn(move || {
        // A helper that does not read its question shows by its answer.
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(question.as_bytes());
        }
        let mut answer = Vec::new();
        let read = stdout.map(|stdout| stdout.take(MAX_HELPER_ANSWER_BYTES).read_to_end(&mut answer));
        // Nobody listens any more if it took too long.
        let _ = sender.send(read.transpose().map(|_| answer));
    });
    let conversation = async {
        let answer = receiver.await.map_err(|error| error.to_string())?;
        let answer = answer.map_err(|error| error.to_string())?;
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok((status, answer)),
                Ok(None) => tokio::time::sleep(Duration::from_millis(2)).await,
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    let Ok(result) = tokio::time::timeout(timeout, conversation).await else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("it did not answer and end within {timeout:?}"));
    };
    result
}

/// What a helper's end and its output mean.
fn read_answer(status: ExitStatus, answer: &[u8]) -> Result<Option<Login>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    if !status.success() {
        // The protocol's way to say that it has nothing; whatever else it printed may be secret.
        let nothing = String::from_utf8_lossy(answer).contains("credentials not found");
        return if nothing {
            Ok(None)
        } else {
            Err(format!("it ended with {status}"))
        };
    }
    match serde_json::from_slice::<Answer>(answer) {
        Ok(answer) if answer.secret.is_empty() => Ok(None),
        Ok(answer) => Ok(Some(login(&answer.username, &answer.secret))),
        Err(_) => Err("its answer is no credential".to_owned()),
    }
}

#[cfg(test)]
mod tests;
