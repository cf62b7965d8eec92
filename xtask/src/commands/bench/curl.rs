//! The floor of a push: real `curl`, one process for many requests over kept-alive connections. It asks nothing, retries
//! nothing and checks nothing but the status; all digests are known before.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use aiot_build::BuildError;
use aiot_oci::{Descriptor, Digest, Store};

use super::measure::{Ran, ran};

/// The program.
pub const CURL: &str = "curl";

/// One request.
pub struct Transfer {
    method: &'static str,
    url: String,
    content_type: Option<String>,
    body: Option<PathBuf>,
}

/// The start of an upload; `mount`: a blob to take over instead, and the repository that has it.
pub fn start(address: &str, repository: &str, mount: Option<(&Digest, &str)>) -> Transfer {
    let mut url = format!("http://{address}/v2/{repository}/blobs/uploads/");
    if let Some((digest, from)) = mount {
        let _ = write!(url, "?mount={digest}&from={from}");
    }
    Transfer {
        method: "POST",
        url,
        content_type: None,
        body: None,
    }
}

/// A whole blob into an upload that was started.
pub fn blob(location: &str, store: &Store, blob: &Descriptor) -> Transfer {
    let joint = if location.contains('?') { '&' } else { '?' };
    Transfer {
        method: "PUT",
        url: format!("{location}{joint}digest={}", blob.digest),
        content_type: Some("application/octet-stream".to_owned()),
        body: Some(store.path(&blob.digest)),
    }
}

/// A manifest or index under a name.
pub fn manifest(
    address: &str,
    repository: &str,
    name: &str,
    store: &Store,
    manifest: &Descriptor,
) -> Transfer {
    Transfer {
        method: "PUT",
        url: format!("http://{address}/v2/{repository}/manifests/{name}"),
        content_type: Some(manifest.media_type.to_string()),
        body: Some(store.path(&manifest.digest)),
    }
}

/// Sends all in one process, `parallel` of them at the same time; returns the `Location` of each answer, empty where
/// there was none.
///
/// # Errors
/// When one is answered with anything but success.
pub fn send(place: &Path, transfers: &[Transfer], parallel: usize) -> Result<(Ran, Vec<String>), BuildError> {
    let path = place.join("curl.conf");
    std::fs::write(&path, config(transfers, parallel)).map_err(BuildError::other)?;
    let mut command = Command::new(CURL);
    command
        .args(["--disable", "--config"])
        .arg(&path)
        .env("NO_PROXY", "*");
    let ran = ran(&mut command)?;
    let mut locations = vec![None; transfers.len()];
    for line in ran.stdout.lines() {
        let mut words = line.split(' ');
        let place = words
            .next()
            .and_then(|number| locations.get_mut(number.parse::<usize>().ok()?));
        if let (Some(place), Some(location)) = (place, words.next()) {
            *place = Some(location.to_owned());
        }
    }
    let all: Option<Vec<String>> = locations.into_iter().collect();
    let all = all.ok_or_else(|| BuildError::Other("curl did not end all its transfers".to_owned()))?;
    Ok((ran, all))
}

/// The configuration file: one section for each request. Paths are of temporary folders and hold no quotes.
fn config(transfers: &[Transfer], parallel: usize) -> String {
    let mut text = "silent\nshow-error\n".to_owned();
    if parallel > 1 {
        let _ = writeln!(text, "parallel\nparallel-immediate\nparallel-max = {parallel}");
    }
    for (number, transfer) in transfers.iter().enumerate() {
        if number > 0 {
            text.push_str("next\n");
        }
        let _ = writeln!(text, "fail\nurl = \"{}\"\nnoproxy = \"*\"", transfer.url);
        let _ = writeln!(
            text,
            "output = \"/dev/null\"\nwrite-out = \"{number} %header{{location}}\\n\""
        );
        if let Some(content_type) = &transfer.content_type {
            let _ = writeln!(
                text,
                "header = \"Content-Type: {content_type}\"\nheader = \"Expect:\""
            );
        }
        let _ = match &transfer.body {
            Some(body) => writeln!(text, "upload-file = \"{}\"", body.display()),
            None => writeln!(
                text,
                "request = \"{}\"\nheader = \"Content-Length: 0\"",
                transfer.method
            ),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_section() {
        let digest = Digest::of(b"x");
        let all = [
            start("127.0.0.1:5", "a/b", None),
            start("127.0.0.1:5", "a/b", Some((&digest, "c"))),
        ];
        let text = config(&all, 4);
        assert!(text.contains("parallel-max = 4"), "{text}");
        assert_eq!(text.matches("\nnext\n").count(), 1, "{text}");
        assert!(
            text.contains(&format!("uploads/?mount={digest}&from=c\"")),
            "{text}"
        );
        assert!(!config(&all, 1).contains("parallel"));
    }
}
