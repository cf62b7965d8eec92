//! How long versions of the IoT Edge runtime are supported.

use crate::quiet::{time_of_text, time_text};

/// Versions with the last day of their support. Source: change log of Azure/iotedge.
const SUPPORT: [(&str, &str); 3] = [
    ("1.4", "2024-11-12T00:00:00Z"),
    ("1.5", "2026-11-10T00:00:00Z"),
    ("1.6", "2028-11-14T00:00:00Z"),
];
/// Names of the runtime's images.
const IMAGES: [&str; 2] = ["azureiotedge-agent", "azureiotedge-hub"];

/// What is to be said of a runtime image that is supported no longer, and where to move. None: it is supported, or
/// nothing is known of it. `now_secs`: since 1970.
pub fn ended_support(image: &str, now_secs: u64) -> Option<String> {
    let (repository, version) = image.rsplit_once(':')?;
    let name = repository.rsplit('/').next()?;
    if !IMAGES.contains(&name) {
        return None;
    }
    let mut parts = version.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (parts.next(), parts.next()) else {
        return None;
    };
    let oldest = (1, 4);
    let last = SUPPORT.iter().find(|(of, _)| *of == format!("{major}.{minor}"));
    let end_secs = match last {
        Some((_, end)) => time_of_text(end)?,
        None if (major, minor) < oldest => 0,
        None => return None,
    };
    (end_secs < now_secs).then(|| {
        let since = if end_secs == 0 {
            String::new()
        } else {
            format!(" since {}", time_text(end_secs))
        };
        format!(
            "runtime image `{image}` is not supported any more{since}: move to {}",
            SUPPORT[2].0
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_images() {
        let now_secs = time_of_text("2026-11-23T00:00:00Z").unwrap();
        for (image, said) in [
            ("mcr.microsoft.com/azureiotedge-agent:1.6.1", None),
            (
                "mcr.microsoft.com/azureiotedge-hub:1.5.9",
                Some("since 2026-11-10T00:00:00Z: move to 1.6"),
            ),
            (
                "mcr.microsoft.com/azureiotedge-hub:1.2.0",
                Some("any more: move to 1.6"),
            ),
            ("mcr.microsoft.com/azureiotedge-hub:1.7.0", None),
            ("mcr.microsoft.com/azureiotedge-hub:latest", None),
            ("r/azureiotedge-hub@sha256:12", None),
            ("r/other:1.2.0", None),
        ] {
            let found = ended_support(image, now_secs);
            match said {
                Some(said) => assert!(
                    found.as_ref().is_some_and(|text| text.contains(said)),
                    "{image}: {found:?}"
                ),
                None => assert_eq!(found, None),
            }
        }
    }
}
