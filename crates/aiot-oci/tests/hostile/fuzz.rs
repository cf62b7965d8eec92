//! Valid inputs with some bytes changed: no panic, and what is accepted is what is written again.

use aiot_oci::image::{parse_index, parse_manifest};
use aiot_oci::layer::list_layer;
use aiot_oci::{ImageConfig, LayerLimits, MediaType, Reference, document};
use proptest::prelude::*;

use crate::support::{END, Place, entry, gzip, link, pax};

const MANIFEST: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":9}],"annotations":{"a":"b"}}"#;
const INDEX: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"platform":{"architecture":"arm","os":"linux","variant":"v7"},"annotations":{"a":"b"}}]}"#;
const CONFIG: &str = r#"{"architecture":"arm","os":"linux","variant":"v7","config":{"Env":["A=b"],"Entrypoint":["/app"],"Cmd":null,"ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"},"User":"1:1"},"rootfs":{"type":"layers","diff_ids":["sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"]}}"#;

type Flips = Vec<(prop::sample::Index, u8)>;

fn flips(most: usize) -> impl Strategy<Value = Flips> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..most)
}

fn damaged(bytes: &[u8], flips: &Flips, end: prop::sample::Index) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, byte) in flips {
        let place = place.index(bytes.len());
        bytes[place] = *byte;
    }
    // Whole in most cases.
    let end = end.index(bytes.len() * 3);
    bytes.truncate(end);
    bytes
}

/// Letters and signs that documents are made of: more of the damage is still JSON.
fn textual(flips: &Flips) -> Flips {
    let signs = b"\"{}[]:,0123456789-.eEnulltruefasha256/ ";
    flips
        .iter()
        .map(|(place, byte)| (*place, signs[usize::from(*byte) % signs.len()]))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn documents(flips in flips(8), end in any::<prop::sample::Index>(), raw in any::<bool>()) {
        let flips = if raw { flips } else { textual(&flips) };
        let bytes = damaged(MANIFEST.as_bytes(), &flips, end);
        if let Ok(manifest) = parse_manifest(&bytes) {
            let again = document::to_bytes(&manifest);
            prop_assert_eq!(parse_manifest(&again).unwrap(), manifest);
        }
        let bytes = damaged(INDEX.as_bytes(), &flips, end);
        if let Ok(index) = parse_index(&bytes) {
            let again = document::to_bytes(&index);
            prop_assert_eq!(parse_index(&again).unwrap(), index);
        }
        let bytes = damaged(CONFIG.as_bytes(), &flips, end);
        if let Ok(config) = serde_json::from_slice::<ImageConfig>(&bytes) {
            let again = document::to_bytes(&config);
            prop_assert_eq!(serde_json::from_slice::<ImageConfig>(&again).unwrap(), config);
        }
    }

    #[test]
    fn references(flips in flips(6), end in any::<prop::sample::Index>()) {
        let text = "registry.example:5000/team/model:1.2.3@sha256:\
                    44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        let bytes = damaged(text.as_bytes(), &flips, end);
        if let Ok(reference) = String::from_utf8_lossy(&bytes).parse::<Reference>() {
            let shown = reference.to_string();
            prop_assert_eq!(shown.parse::<Reference>().unwrap().to_string(), shown.clone());
            prop_assert!(!shown.contains("..//") && !shown.contains(char::is_control), "{}", shown);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn archives(flips in flips(12), end in any::<prop::sample::Index>(), zipped in 0..3u8, sum in any::<bool>()) {
        let mut tar = [
            entry(b"etc/", b'5', b""),
            entry(b"etc/passwd", b'0', b"root"),
            entry(b"././@LongLink", b'L', &[b'n'; 200]),
            entry(b"n", b'0', &[7; 1000]),
            entry(b"p", b'x', &[pax("path", b"long/name"), pax("mtime", b"1.5")].concat()),
            entry(b"q", b'0', b"x"),
            link(b"l", b'2', b"../x"),
            link(b"h", b'1', b"etc/passwd"),
            END.to_vec(),
        ]
        .concat();
        let whole = tar.clone();
        if zipped != 1 {
            tar = damaged(&tar, &flips, end);
        }
        if sum {
            // With good check sums, or hardly any damage would be looked at.
            for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let place = Place::new();
        let (media_type, bytes) = match zipped {
            0 => (MediaType::LayerTar, tar),
            1 => (MediaType::LayerGzip, damaged(&gzip(&whole), &flips, end)),
            _ => (MediaType::LayerGzip, gzip(&tar)),
        };
        let layer = place.blob(media_type, &bytes);
        if let Ok(entries) = list_layer(&place.store, &layer, LayerLimits::default()) {
            for entry in entries {
                let outside = entry.path.starts_with('/') || entry.path.split('/').any(|part| part == "..");
                prop_assert!(!outside && !entry.path.contains('\0'), "{}", entry.path);
            }
        }
        place.is_clean();
    }
}
