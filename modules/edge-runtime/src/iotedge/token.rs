//! Shared access signatures: the password of a module, signed by the device's daemon.

use super::EdgeEnvironment;
use super::names::encode;

/// What a token is about: `{hub}/devices/{device}/modules/{module}`, ids encoded in it and all of it once more.
fn resource(edge: &EdgeEnvironment) -> String {
    let path = format!(
        "{}/devices/{}/modules/{}",
        edge.hub,
        encode(&edge.device),
        encode(&edge.module)
    );
    encode(&path)
}

/// The text to be signed for a token that ends at `expiry`, in seconds since 1970.
pub(super) fn to_sign(edge: &EdgeEnvironment, expiry: u64) -> String {
    format!("{}\n{expiry}", resource(edge))
}

/// The token; `signature` is the daemon's answer, base64.
pub(super) fn token(edge: &EdgeEnvironment, signature: &str, expiry: u64) -> String {
    format!(
        "SharedAccessSignature sr={}&sig={}&se={expiry}",
        resource(edge),
        encode(signature)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_official_client_asks_for_it() {
        let values = [
            ("IOTEDGE_WORKLOADURI", "unix:///w"),
            ("IOTEDGE_MODULEGENERATIONID", "1"),
            ("IOTEDGE_IOTHUBHOSTNAME", "hub1.azure-devices.net"),
            ("IOTEDGE_GATEWAYHOSTNAME", "g"),
            ("IOTEDGE_DEVICEID", "edge1"),
            ("IOTEDGE_MODULEID", "mod1"),
        ];
        let find = |name: &str| {
            values
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_string())
        };
        let edge = EdgeEnvironment::new(find).unwrap().unwrap();
        // Seen at the workload socket from azure-iot-device 2.14.0.
        let signed = "hub1.azure-devices.net%2Fdevices%2Fedge1%2Fmodules%2Fmod1\n1795369299";
        assert_eq!(to_sign(&edge, 1_795_369_299), signed);
        let expected = "SharedAccessSignature sr=hub1.azure-devices.net%2Fdevices%2Fedge1%2Fmodules%2Fmod1&\
                        sig=a%2Bb%2F%3D&se=7";
        assert_eq!(token(&edge, "a+b/=", 7), expected);
        let odd = EdgeEnvironment {
            device: "a:b".into(),
            ..edge
        };
        assert!(to_sign(&odd, 1).contains("%2Fdevices%2Fa%253Ab%2F"));
    }
}
