//! Entra ID instead of a shared access key: which identity, and how its tokens are had.
//!
//! In: settings named as the Azure SDKs name them. Out: bearer tokens for the hub's data plane, and how long they last.
//! Four ways: a client secret, a workload identity (a federated token in a file, as Kubernetes and CI give it), a
//! managed identity (the machine's own, asked of its metadata service), and the login of the Azure CLI.
//!
//! It is written here and not taken from `azure_identity`: without a second TLS provider that crate (1.0.0) has no HTTP
//! client, so one would have to be written against its core crate, and the address of the metadata service is fixed in
//! it. No secret and no token is in any error or `Debug` text.
//!
//! Sources: docs "Microsoft identity platform and the OAuth 2.0 client credentials flow", "How to use managed
//! identities on an Azure VM to acquire an access token", `az account get-access-token --help`; the scope is of
//! "Control access to IoT Hub by using Microsoft Entra ID".

mod sign_in;

use std::fmt;
use std::path::PathBuf;

use crate::connection::ConnectionError;

/// Variable with the hub's host name, for those who sign in and have no connection string.
pub const HOSTNAME_VARIABLE: &str = "AIOT_HUB_HOSTNAME";
/// Variable with the kind of credential: one of [`KINDS`].
pub const CREDENTIAL_VARIABLE: &str = "AIOT_HUB_CREDENTIAL";
/// Kinds of credentials.
pub const KINDS: [&str; 4] = [
    "azure-cli",
    "client-secret",
    "managed-identity",
    "workload-identity",
];
/// Who gives tokens, unless `AZURE_AUTHORITY_HOST` says otherwise (national clouds do).
const AUTHORITY: &str = "https://login.microsoftonline.com";
/// A machine's metadata service, unless `AZURE_POD_IDENTITY_AUTHORITY_HOST` says otherwise.
const METADATA: &str = "http://169.254.169.254";

/// Who signs in.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// An application with a secret.
    ClientSecret {
        /// Base address of the token service, without `/` at the end.
        authority: String,
        /// Tenant id or name.
        tenant: String,
        /// The application's id.
        client: String,
        /// Its secret.
        secret: String,
    },
    /// An application that another issuer vouches for.
    WorkloadIdentity {
        /// As above.
        authority: String,
        /// As above.
        tenant: String,
        /// As above.
        client: String,
        /// File with the other issuer's token; read anew each time, since it is replaced.
        token_file: PathBuf,
    },
    /// The identity of this machine.
    ManagedIdentity {
        /// Base address of its metadata service, without `/` at the end.
        metadata: String,
        /// Id of a user-assigned identity; none: the machine's own.
        client: Option<String>,
    },
    /// Whoever has run `az login`.
    AzureCli {
        /// The program.
        program: PathBuf,
        /// Another tenant than the CLI's own.
        tenant: Option<String>,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.kind())
    }
}

impl Credential {
    /// Its kind, of [`KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            Credential::AzureCli { .. } => KINDS[0],
            Credential::ClientSecret { .. } => KINDS[1],
            Credential::ManagedIdentity { .. } => KINDS[2],
            Credential::WorkloadIdentity { .. } => KINDS[3],
        }
    }

    /// From [`CREDENTIAL_VARIABLE`] and the variables of the Azure SDKs: `AZURE_TENANT_ID`, `AZURE_CLIENT_ID`,
    /// `AZURE_CLIENT_SECRET`, `AZURE_FEDERATED_TOKEN_FILE`, `AZURE_AUTHORITY_HOST`,
    /// `AZURE_POD_IDENTITY_AUTHORITY_HOST`. The kind is said and never guessed: a machine that tries one after the
    /// other signs in as somebody nobody thought of.
    ///
    /// # Errors
    /// [`ConnectionError::Credential`], which variable is missing or wrong.
    pub fn find(variable: &dyn Fn(&str) -> Option<String>) -> Result<Credential, ConnectionError> {
        let wrong = |reason: String| ConnectionError::Credential { reason };
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let needed = |name: &str, kind: &str| {
            set(name).ok_or_else(|| wrong(format!("{name} is not set, and {kind} needs it")))
        };
        let address = |name: &str, default: &str| {
            let text = set(name).unwrap_or_else(|| default.to_owned());
            let text = if text.contains("://") {
                text
            } else {
                format!("https://{text}")
            };
            text.trim_end_matches('/').to_owned()
        };
        let authority = || {
            let authority = address("AZURE_AUTHORITY_HOST", AUTHORITY);
            match authority.starts_with("https://") {
                true => Ok(authority),
                false => Err(wrong("AZURE_AUTHORITY_HOST is not https".to_owned())),
            }
        };
        let tenant = |kind: &str| {
            let tenant = needed("AZURE_TENANT_ID", kind)?;
            let named = |byte: u8| byte.is_ascii_alphanumeric() || b".-".contains(&byte);
            match tenant.bytes().all(named) {
                true => Ok(tenant),
                false => Err(wrong("AZURE_TENANT_ID is no tenant id or name".to_owned())),
            }
        };
        let kind = set(CREDENTIAL_VARIABLE);
        match kind.as_deref() {
            Some(kind @ "client-secret") => Ok(Credential::ClientSecret {
                authority: authority()?,
                tenant: tenant(kind)?,
                client: needed("AZURE_CLIENT_ID", kind)?,
                secret: needed("AZURE_CLIENT_SECRET", kind)?,
            }),
            Some(kind @ "workload-identity") => Ok(Credential::WorkloadIdentity {
                authority: authority()?,
                tenant: tenant(kind)?,
                client: needed("AZURE_CLIENT_ID", kind)?,
                token_file: needed("AZURE_FEDERATED_TOKEN_FILE", kind)?.into(),
            }),
            Some("managed-identity") => Ok(Credential::ManagedIdentity {
                metadata: address("AZURE_POD_IDENTITY_AUTHORITY_HOST", METADATA),
                client: set("AZURE_CLIENT_ID"),
            }),
            Some(kind @ "azure-cli") => Ok(Credential::AzureCli {
                program: "az".into(),
                tenant: set("AZURE_TENANT_ID").map(|_| tenant(kind)).transpose()?,
            }),
            other => Err(wrong(format!(
                "{CREDENTIAL_VARIABLE} is {}; expected one of {}",
                other.map_or("not set".to_owned(), |kind| format!("`{kind}`")),
                KINDS.join(", ")
            ))),
        }
    }
}

/// A token, and when it ends.
#[derive(Clone)]
pub struct Token {
    /// What is sent after `Bearer `.
    pub(crate) text: String,
    /// Seconds from when it was given to its end.
    pub(crate) lifetime_secs: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let check = |set: &[(&str, &str)], expected: Result<&str, &str>| {
            let found = Credential::find(&|name| {
                let (_, value) = set.iter().find(|(key, _)| *key == name)?;
                Some((*value).to_owned())
            });
            match (found, expected) {
                (Ok(found), Ok(kind)) => assert_eq!(format!("{found:?}"), format!("Credential({kind})")),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (found, expected) => panic!("{found:?} is not {expected:?}"),
            }
        };
        let kind = |kind| (CREDENTIAL_VARIABLE, kind);
        let (tenant, client) = (("AZURE_TENANT_ID", "t-1"), ("AZURE_CLIENT_ID", "c"));
        let secret = ("AZURE_CLIENT_SECRET", "hush");
        check(
            &[],
            Err("AIOT_HUB_CREDENTIAL is not set; expected one of azure-cli"),
        );
        check(&[kind("password")], Err("is `password`; expected one of"));
        check(&[kind("azure-cli")], Ok("azure-cli"));
        check(&[kind("managed-identity")], Ok("managed-identity"));
        check(
            &[kind("client-secret")],
            Err("AZURE_TENANT_ID is not set, and client-secret needs it"),
        );
        check(
            &[kind("client-secret"), tenant, client],
            Err("AZURE_CLIENT_SECRET is not set"),
        );
        check(
            &[kind("client-secret"), tenant, client, secret],
            Ok("client-secret"),
        );
        check(
            &[kind("workload-identity"), tenant, client],
            Err("AZURE_FEDERATED_TOKEN_FILE is not set"),
        );
        let file = ("AZURE_FEDERATED_TOKEN_FILE", "/token");
        check(
            &[kind("workload-identity"), tenant, client, file],
            Ok("workload-identity"),
        );
        let odd = ("AZURE_TENANT_ID", "../x");
        check(
            &[kind("client-secret"), odd, client, secret],
            Err("is no tenant id"),
        );
        let open = ("AZURE_AUTHORITY_HOST", "http://login.example");
        check(
            &[kind("client-secret"), tenant, client, secret, open],
            Err("is not https"),
        );
    }
}
