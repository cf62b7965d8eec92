//! How a hub is reached: its connection string and the tokens that are signed with it, or Entra ID (`entra`).
//!
//! The key never leaves this file except as a signature: no error, log line or `Debug` text holds it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use thiserror::Error;

use crate::entra::{CREDENTIAL_VARIABLE, Credential, HOSTNAME_VARIABLE};

/// Variable with the connection string.
pub const CONNECTION_VARIABLE: &str = "AIOT_HUB_CONNECTION_STRING";
/// Variable with the path of a file that holds it.
pub const CONNECTION_FILE_VARIABLE: &str = "AIOT_HUB_CONNECTION_FILE";
/// Longest connection string that is read, in bytes.
const LIMIT_BYTES: u64 = 4096;

/// Why a hub cannot be reached before anything was sent. No message quotes what was given: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConnectionError {
    /// Nothing given.
    #[error(
        "no connection string: set {CONNECTION_VARIABLE}, or {CONNECTION_FILE_VARIABLE} to a file that holds it; \
         the portal shows it under shared access policies, and `cargo xtask hub simulate` makes one. To sign in by \
         Entra ID instead, set {HOSTNAME_VARIABLE} and {CREDENTIAL_VARIABLE}"
    )]
    Missing,
    /// A file that cannot be read.
    #[error("the connection string in {path} cannot be read: {reason}")]
    File {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// A part that is missing or wrong.
    #[error(
        "the connection string: {0}; expected `HostName=<hub>;SharedAccessKeyName=<policy>;SharedAccessKey=<base64>`"
    )]
    Part(&'static str),
    /// Settings of Entra ID that are missing or wrong.
    #[error("signing in by Entra ID: {reason}")]
    Credential {
        /// Which, without its value where that may be a secret.
        reason: String,
    },
    /// A connection string and Entra ID.
    #[error(
        "both a connection string and {HOSTNAME_VARIABLE} are set: unset {CONNECTION_VARIABLE} and \
         {CONNECTION_FILE_VARIABLE} to sign in by Entra ID, or {HOSTNAME_VARIABLE} to sign by key"
    )]
    Both,
}

/// How a hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// By the key of a shared access policy.
    Key(ConnectionString),
    /// By Entra ID.
    Entra {
        /// Host name, with the port where it is not 443.
        authority: String,
        /// Who signs in.
        credential: Credential,
    },
}

impl FromStr for Connection {
    type Err = ConnectionError;

    /// From a connection string.
    fn from_str(text: &str) -> Result<Self, ConnectionError> {
        text.parse().map(Connection::Key)
    }
}

impl Connection {
    /// From `file`, else from the environment: a connection string as [`ConnectionString::find`] finds it, or
    /// [`HOSTNAME_VARIABLE`] and [`Credential::find`]. `file` goes before all variables.
    ///
    /// # Errors
    /// [`ConnectionError`], never with a secret in it.
    pub fn find(
        file: Option<&Path>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Connection, ConnectionError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let Some(host) = set(HOSTNAME_VARIABLE).filter(|_| file.is_none()) else {
            return ConnectionString::find(file, variable).map(Connection::Key);
        };
        if set(CONNECTION_VARIABLE).is_some() || set(CONNECTION_FILE_VARIABLE).is_some() {
            return Err(ConnectionError::Both);
        }
        let authority = authority_of(&host).map_err(|reason| ConnectionError::Credential {
            reason: reason.replace("HostName", HOSTNAME_VARIABLE),
        })?;
        Ok(Connection::Entra {
            authority,
            credential: Credential::find(variable)?,
        })
    }

    /// Host name, with the port where it is not 443.
    pub fn authority(&self) -> &str {
        match self {
            Connection::Key(connection) => &connection.authority,
            Connection::Entra { authority, .. } => authority,
        }
    }

    /// Host name without port.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        authority.split_once(':').map_or(authority, |(host, _)| host)
    }

    /// Whether it names this machine, as a simulated hub's does.
    pub fn is_loopback(&self) -> bool {
        matches!(self.host(), "localhost" | "127.0.0.1")
    }
}

/// A host name with or without port, in lower case.
fn authority_of(host: &str) -> Result<String, &'static str> {
    let authority = host.trim().to_ascii_lowercase();
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    if authority.is_empty() || !authority.bytes().all(named) {
        return Err("HostName is no host name");
    }
    if let Some((_, port)) = authority.split_once(':')
        && port.parse::<u16>().is_err()
    {
        return Err("HostName has a port that is no number");
    }
    Ok(authority)
}

/// A connection string of a hub's shared access policy.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString {
    authority: String,
    policy: String,
    key: Vec<u8>,
}

impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionString({}, policy {})", self.authority, self.policy)
    }
}

impl FromStr for ConnectionString {
    type Err = ConnectionError;

    fn from_str(text: &str) -> Result<Self, ConnectionError> {
        let (mut host, mut policy, mut key) = (None, None, None);
        for part in text.trim().split(';').filter(|part| !part.is_empty()) {
            let (name, value) = part
                .split_once('=')
                .ok_or(ConnectionError::Part("a part has no `=`"))?;
            let place = match name.trim().to_ascii_lowercase().as_str() {
                "hostname" => &mut host,
                "sharedaccesskeyname" => &mut policy,
                "sharedaccesskey" => &mut key,
                "deviceid" | "moduleid" => {
                    return Err(ConnectionError::Part("it is of a device, not of the hub"));
                }
                // The portal adds parts such as GatewayHostName; none of them is needed here.
                _ => continue,
            };
            if place.replace(value.trim()).is_some() {
                return Err(ConnectionError::Part("a part is given twice"));
            }
        }
        let authority =
            authority_of(host.ok_or(ConnectionError::Part("no HostName"))?).map_err(ConnectionError::Part)?;
        let policy = policy.filter(|policy| !policy.is_empty());
        let key = STANDARD
            .decode(key.ok_or(ConnectionError::Part("no SharedAccessKey"))?)
            .map_err(|_| ConnectionError::Part("SharedAccessKey is not base64"))?;
        if key.is_empty() {
            return Err(ConnectionError::Part("SharedAccessKey is empty"));
        }
        Ok(ConnectionString {
            authority,
            policy: policy
                .ok_or(ConnectionError::Part("no SharedAccessKeyName"))?
                .to_owned(),
            key,
        })
    }
}

impl ConnectionString {
    /// From `file`, else from the environment: [`CONNECTION_VARIABLE`], [`CONNECTION_FILE_VARIABLE`]; an empty
    /// variable counts as not set.
    ///
    /// # Errors
    /// [`ConnectionError`], never with the secret in it.
    pub fn find(
        file: Option<&Path>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConnectionError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let file = match (file, set(CONNECTION_VARIABLE)) {
            (Some(file), _) => file.to_owned(),
            (None, Some(text)) => return text.parse(),
            (None, None) => set(CONNECTION_FILE_VARIABLE)
                .ok_or(ConnectionError::Missing)?
                .into(),
        };
        read(&file)?.parse()
    }

    /// Host name, with the port where it is not 443.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The same policy and key for another host; for a simulated hub, which is given its port by the system.
    pub fn text(authority: &str, policy: &str, key: &[u8]) -> String {
        format!(
            "HostName={authority};SharedAccessKeyName={policy};SharedAccessKey={}",
            STANDARD.encode(key)
        )
    }

    /// A token for everything on the hub, valid until `expiry_secs` (seconds since 1970).
    ///
    /// Source: docs "Control access to IoT Hub by using shared access signatures": HMAC-SHA256 over
    /// `<resource, encoded>\n<expiry>`.
    pub fn token(&self, expiry_secs: u64) -> String {
        let resource = encode(&self.authority);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key);
        let signature = hmac::sign(&key, format!("{resource}\n{expiry_secs}").as_bytes());
        let signature = encode(&STANDARD.encode(signature));
        let policy = encode(&self.policy);
        format!("SharedAccessSignature sr={resource}&sig={signature}&se={expiry_secs}&skn={policy}")
    }
}

fn read(path: &Path) -> Result<String, ConnectionError> {
    use std::io::Read;
    let failed = |reason: String| ConnectionError::File {
        path: path.display().to_string(),
        reason,
    };
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    file.take(LIMIT_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > LIMIT_BYTES {
        return Err(failed(format!("it is longer than {LIMIT_BYTES} bytes")));
    }
    Ok(text)
}

/// Percent-encodes all but letters, digits and `-_.~`, for one part of a path or of a token.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "HostName=Hub.azure-devices.net;SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0a2V5";

    #[test]
    fn parts() {
        let check =
            |text: &str, expected: Result<&str, &str>| match (text.parse::<ConnectionString>(), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got.authority(), expected),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            };
        check(GOOD, Ok("hub.azure-devices.net"));
        check(&format!(" {GOOD};\n"), Ok("hub.azure-devices.net"));
        check(
            &GOOD.replace("Hub.azure-devices.net", "localhost:8443"),
            Ok("localhost:8443"),
        );
        check("", Err("no HostName"));
        check(
            "HostName=a/b;SharedAccessKeyName=x;SharedAccessKey=eA==",
            Err("is no host name"),
        );
        check(
            "HostName=a:x;SharedAccessKeyName=x;SharedAccessKey=eA==",
            Err("port"),
        );
        check(
            "HostName=a;SharedAccessKeyName=x;SharedAccessKey=?",
            Err("not base64"),
        );
        check(
            "HostName=a;SharedAccessKeyName=x;SharedAccessKey=",
            Err("is empty"),
        );
        check("HostName=a;SharedAccessKey=eA==", Err("no SharedAccessKeyName"));
        check("HostName=a;HostName=a", Err("twice"));
        check("HostName=a;DeviceId=x;SharedAccessKey=eA==", Err("of a device"));
        check("nonsense", Err("no `=`"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let connection: ConnectionString = GOOD.parse().unwrap();
        let shown = format!("{connection:?}");
        assert!(
            !shown.contains("c2VjcmV0a2V5") && !shown.contains("secretkey"),
            "{shown}"
        );
        let error = "HostName=a;SharedAccessKeyName=x;SharedAccessKey=c2VjcmV0!"
            .parse::<ConnectionString>()
            .unwrap_err();
        assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
    }

    /// Made by the SasToken class of the official Python package, which leaves `/` in the signature as it is.
    #[test]
    fn tokens_are_the_official_clients() {
        let connection: ConnectionString =
            "HostName=localhost:8443;SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0a2V5"
                .parse()
                .unwrap();
        assert_eq!(
            connection.token(1_795_369_299),
            include_str!("testdata/token.txt").trim()
        );
    }

    #[test]
    fn places() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hub");
        std::fs::write(&file, GOOD).unwrap();
        let path = file.display().to_string();
        let find = |file: Option<&Path>, set: &[(&str, &str)]| {
            ConnectionString::find(file, &|name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        let expected = GOOD.parse();
        assert_eq!(find(Some(&file), &[(CONNECTION_VARIABLE, "bad")]), expected);
        assert_eq!(find(None, &[(CONNECTION_VARIABLE, GOOD)]), expected);
        assert_eq!(
            find(
                None,
                &[(CONNECTION_VARIABLE, ""), (CONNECTION_FILE_VARIABLE, &path)]
            ),
            expected
        );
        assert_eq!(find(None, &[]), Err(ConnectionError::Missing));
        let gone = find(Some(&folder.path().join("gone")), &[])
            .unwrap_err()
            .to_string();
        assert!(gone.contains("gone") && gone.contains("cannot be read"), "{gone}");
        std::fs::write(&file, "x".repeat(5000)).unwrap();
        assert!(find(Some(&file), &[]).unwrap_err().to_string().contains("longer"));
    }

    #[test]
    fn keys_or_entra_id() {
        let check = |set: &[(&str, &str)], expected: Result<&str, &str>| {
            let found = Connection::find(None, &|name| {
                let (_, value) = set.iter().find(|(key, _)| *key == name)?;
                Some((*value).to_owned())
            });
            match (found, expected) {
                (Ok(found), Ok(host)) => assert_eq!(found.host(), host),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (found, expected) => panic!("{found:?} is not {expected:?}"),
            }
        };
        let (host, kind) = (
            (HOSTNAME_VARIABLE, "H.azure-devices.net"),
            (CREDENTIAL_VARIABLE, "azure-cli"),
        );
        check(&[host, kind], Ok("h.azure-devices.net"));
        check(&[host], Err("AIOT_HUB_CREDENTIAL is not set"));
        check(
            &[(HOSTNAME_VARIABLE, "a/b"), kind],
            Err("AIOT_HUB_HOSTNAME is no host name"),
        );
        check(
            &[host, kind, (CONNECTION_VARIABLE, GOOD)],
            Err("both a connection string and"),
        );
        check(&[kind, (CONNECTION_VARIABLE, GOOD)], Ok("hub.azure-devices.net"));
        check(&[kind], Err("To sign in by Entra ID instead"));
    }
}
