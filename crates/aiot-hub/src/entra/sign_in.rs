//! Signing in: one call to a token service, or to the Azure CLI, bounded in time and size.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::{Credential, Token};
use crate::connection::encode;
use crate::error::CallError;

/// What the tokens are for: every hub's data plane.
const RESOURCE: &str = "https://iothubs.azure.net";
/// Largest answer and largest federated token, in bytes.
const LIMIT_BYTES: usize = 64 << 10;
/// Longest wait for a token service or the CLI.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Version of the metadata service's interface.
const METADATA_VERSION: &str = "2018-02-01";

/// An answer of a token service.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    /// A number; the metadata service writes it as text.
    expires_in: Value,
}

/// What it answers otherwise.
#[derive(Default, Deserialize)]
#[serde(default)]
struct NotGranted {
    error: String,
    error_description: String,
}

/// An answer of the CLI.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfCli {
    access_token: String,
    /// Seconds since 1970; CLIs before 2.54 do not say.
    #[serde(rename = "expires_on")]
    expires_on: Option<u64>,
}

impl Credential {
    /// A new token. `now_secs`: seconds since 1970. `https` is for token services, `metadata` may talk plain http and
    /// uses no proxy.
    ///
    /// # Errors
    /// [`CallError`], never with a secret in it; [`CallError::SIGN_IN`] where another try does not help.
    pub(crate) async fn sign_in(
        &self,
        https: &reqwest::Client,
        metadata_client: &reqwest::Client,
        now_secs: u64,
    ) -> Result<Token, CallError> {
        let call = format!("sign in by {}", self.kind());
        match self {
            Credential::ClientSecret {
                authority,
                tenant,
                client,
                secret,
            } => {
                let form = form(client, &[("client_secret", secret)]);
                granted(
                    &call,
                    https.post(token_url(authority, tenant)),
                    Some(form),
                    secret,
                )
                .await
            }
            Credential::WorkloadIdentity {
                authority,
                tenant,
                client,
                token_file,
            } => {
                let token = federated(token_file).map_err(|reason| CallError::sign_in(&call, reason))?;
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                let form = form(
                    client,
                    &[("client_assertion_type", kind), ("client_assertion", &token)],
                );
                granted(
                    &call,
                    https.post(token_url(authority, tenant)),
                    Some(form),
                    &token,
                )
                .await
            }
            Credential::ManagedIdentity { metadata, client } => {
                let mut url = format!(
                    "{metadata}/metadata/identity/oauth2/token?api-version={METADATA_VERSION}&resource={}",
                    encode(RESOURCE)
                );
                if let Some(client) = client {
                    url.push_str(&format!("&client_id={}", encode(client)));
                }
                // The header proves that no proxy or redirect has made the request.
                granted(
                    &call,
                    metadata_client.get(url).header("Metadata", "true"),
                    None,
                    "",
                )
                .await
            }
            Credential::AzureCli { program, tenant } => {
                cli(&call, program, tenant.as_deref(), now_secs).await
            }
        }
    }
}

fn token_url(authority: &str, tenant: &str) -> String {
    format!("{authority}/{tenant}/oauth2/v2.0/token")
}

fn form(client: &str, proof: &[(&str, &str)]) -> String {
    let scope = format!("{RESOURCE}/.default");
    let fixed = [
        ("grant_type", "client_credentials"),
        ("client_id", client),
        ("scope", &scope),
    ];
    let fields: Vec<String> = fixed
        .iter()
        .chain(proof)
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    fields.join("&")
}

fn federated(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let failed = |reason: String| format!("the federated token in {}: {reason}", path.display());
    let file = std::fs::File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut text = String::new();
    file.take(LIMIT_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    match text.trim() {
        "" => Err(failed("it is empty".to_owned())),
        _ if text.len() > LIMIT_BYTES => Err(failed(format!("it is longer than {LIMIT_BYTES} bytes"))),
        token => Ok(token.to_owned()),
    }
}

/// Sends, and reads the token. `secret` is taken out of what the service says, should it repeat it.
async fn granted(
    call: &str,
    request: reqwest::RequestBuilder,
    form: Option<String>,
    secret: &str,
) -> Result<Token, CallError> {
    let request = match form {
        Some(form) => request
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form),
        None => request,
    };
    let cut =
        |error: reqwest::Error| CallError::transport(call, crate::client::with_causes(&error.without_url()));
    let mut answer = request.timeout(TIME_LIMIT).send().await.map_err(cut)?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(cut)? {
        if body.len() + chunk.len() > LIMIT_BYTES {
            return Err(CallError::sign_in(
                call,
                format!("the answer is larger than {LIMIT_BYTES} bytes"),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    if status == 200 {
        let answer: Granted = serde_json::from_slice(&body)
            .map_err(|_| CallError::sign_in(call, "the answer holds no token".to_owned()))?;
        let lifetime_secs = match &answer.expires_in {
            Value::String(text) => text.parse().ok(),
            number => number.as_u64(),
        };
        return token(call, answer.access_token, lifetime_secs);
    }
    let said: NotGranted = serde_json::from_slice(&body).unwrap_or_default();
    // The lines after the first are ids of the request and times.
    let first = said.error_description.lines().next().unwrap_or_default();
    let mut reason = format!("{status} {}: {first}", said.error);
    if !secret.is_empty() {
        reason = reason.replace(secret, "…");
    }
    Err(match status {
        // The metadata service says 410 while it is updated.
        408 | 410 | 429 | 500..=599 => CallError::transport(call, reason),
        _ => CallError::sign_in(call, reason),
    })
}

fn token(call: &str, text: String, lifetime_secs: Option<u64>) -> Result<Token, CallError> {
    let is_header = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    match lifetime_secs {
        Some(lifetime_secs) if is_header(&text) => Ok(Token { text, lifetime_secs }),
        _ => Err(CallError::sign_in(
            call,
            "the answer holds no token, or not how long it lasts".to_owned(),
        )),
    }
}

async fn cli(call: &str, program: &Path, tenant: Option<&str>, now_secs: u64) -> Result<Token, CallError> {
    let failed = |reason: String| CallError::sign_in(call, reason);
    let mut command = tokio::process::Command::new(program);
    command
        .args([
            "account",
            "get-access-token",
            "--output",
            "json",
            "--resource",
            RESOURCE,
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(tenant) = tenant {
        command.args(["--tenant", tenant]);
    }
    let mut child = command
        .spawn()
        .map_err(|error| failed(format!("cannot run `{}`: {error}", program.display())))?;
    let (mut output, mut talk) = (Vec::new(), Vec::new());
    let work = async {
        if let Some(pipe) = child.stdout.take() {
            pipe.take(LIMIT_BYTES as u64).read_to_end(&mut output).await?;
        }
        if let Some(pipe) = child.stderr.take() {
            pipe.take(LIMIT_BYTES as u64).read_to_end(&mut talk).await?;
        }
        child.wait().await
    };
    let status = match tokio::time::timeout(TIME_LIMIT, work).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => {
            return Err(failed(format!(
                "`az` does not answer within {} s",
                TIME_LIMIT.as_secs()
            )));
        }
    };
    if !status.success() {
        let talk = String::from_utf8_lossy(&talk);
        let line = talk
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("no reason given");
        return Err(failed(format!("`az` ended with {status}: {line}")));
    }
    let answer: OfCli =
        serde_json::from_slice(&output).map_err(|_| failed("`az` has not printed a token".to_owned()))?;
    // The CLI gives tokens of five minutes and more; without a time it is asked again each minute.
    let lifetime_secs = answer.expires_on.map_or(60, |end| end.saturating_sub(now_secs));
    token(call, answer.access_token, Some(lifetime_secs))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A stand-in for `az`, which cannot be logged in here: a script that prints what the real one does.
    fn az(script: &str) -> Result<(String, u64), String> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("az");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let result = runtime.block_on(cli("sign in", &program, Some("t"), 1000));
        result
            .map(|token| (token.text, token.lifetime_secs))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_azure_cli() {
        let check = |script: &str, expected: Result<(&str, u64), &str>| match (az(script), expected) {
            (Ok((text, lifetime)), Ok(expected)) => assert_eq!((text.as_str(), lifetime), expected),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        };
        check(
            r#"echo '{"accessToken": "abc", "expires_on": 4600, "tokenType": "Bearer"}'"#,
            Ok(("abc", 3600)),
        );
        check(
            r#"echo '{"accessToken": "abc", "expiresOn": "2026-01-01 00:00:00"}'"#,
            Ok(("abc", 60)),
        );
        let arguments = r#"printf '{"accessToken": "%s", "expires_on": 1001}' "$(echo "$*" | tr ' ' '+')""#;
        check(
            arguments,
            Ok((
                "account+get-access-token+--output+json+--resource+https://iothubs.azure.net+--tenant+t",
                1,
            )),
        );
        check(
            "echo \"Please run 'az login' to setup account.\" >&2; exit 1",
            Err("run 'az login'"),
        );
        check("echo '{}'", Err("has not printed a token"));
        check(
            r#"echo '{"accessToken": "a b", "expires_on": 4600}'"#,
            Err("holds no token"),
        );
        check("yes | head -c 900000", Err("sign in"));
    }

    #[test]
    fn federated_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        assert!(federated(&file).unwrap_err().contains("token: "));
        let check = |text: &str, expected: Result<&str, &str>| {
            std::fs::write(&file, text).unwrap();
            match (federated(&file), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got, expected),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}"),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            }
        };
        check("jwt\n", Ok("jwt"));
        check("\n", Err("is empty"));
        check(&"x".repeat(LIMIT_BYTES + 1), Err("longer than"));
    }
}
