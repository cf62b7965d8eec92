//! The web page of a simulated hub: its fleet as a picture, a square per device.

use std::collections::BTreeMap;
use std::fmt::Write;

use aiot_iothub::quiet::time_text;
use aiot_iothub::rollout::RuntimeStatus;

use crate::fleet::SimulatedDevice;
use crate::rest::Simulator;

/// Devices that are drawn; a larger fleet is drawn in part, and the page says so.
const DRAWN_LIMIT: usize = 10_000;
/// Squares in a row.
const COLUMNS: usize = 100;
/// Side of a square with its gap, in pixels.
const SIDE: usize = 9;

/// Colour and word for how a device does. The word stands in the square's title, so that colour is not all there is.
fn standing(device: &SimulatedDevice) -> (&'static str, &'static str) {
    let modules = || device.heard().modules.values();
    let is = |statuses: &[RuntimeStatus]| modules().any(|module| statuses.contains(&module.status));
    if !device.online {
        ("#9e9e9e", "offline")
    } else if is(&[RuntimeStatus::Failed, RuntimeStatus::Dead, RuntimeStatus::Backoff]) {
        ("#c62828", "failed")
    } else if is(&[RuntimeStatus::Unhealthy]) {
        ("#ef6c00", "unhealthy")
    } else if modules().any(|module| module.self_check == Some(false)) {
        ("#ad1457", "self-check failed")
    } else if device.running.is_empty() {
        ("#e0e0e0", "runs nothing")
    } else if device.running != *device.desired_images() {
        ("#1565c0", "updates")
    } else {
        ("#2e7d32", "good")
    }
}

/// The page as HTML, by itself: no scripts, nothing from elsewhere; it loads anew every three seconds.
pub(crate) fn page(simulator: &Simulator) -> String {
    let service = &simulator.service;
    let devices = &service.fleet.devices;
    let mut squares = String::new();
    let mut counts: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for (index, device) in devices.values().enumerate() {
        let (colour, word) = standing(device);
        counts.entry(word).or_insert((0, colour)).0 += 1;
        if index < DRAWN_LIMIT {
            let (x, y) = (index % COLUMNS * SIDE, index / COLUMNS * SIDE);
            let id = escaped(&device.id);
            let _ = write!(
                squares,
                "<rect x={x} y={y} width=8 height=8 fill='{colour}'><title>{id}: {word}</title></rect>"
            );
        }
    }
    let height = devices.len().min(DRAWN_LIMIT).div_ceil(COLUMNS) * SIDE;
    let legend: String = counts
        .iter()
        .map(|(word, (count, colour))| {
            format!("<li><span style='color:{colour}'>■</span> {count} {word}</li>")
        })
        .collect();
    let mut rows = String::new();
    for one in service.peek() {
        let label = |name: &str| escaped(one.labels.get(name).map_or("", String::as_str));
        let targeted = devices
            .values()
            .filter(|device| device.desired().deployments.contains(&one.id))
            .count();
        let _ = write!(
            rows,
            "<tr><td>{}<td>{}<td>{}<td>{targeted}<td>{}",
            escaped(&one.id),
            one.priority,
            label("aiot-ring"),
            [label("aiot-stopped"), label("aiot-rolled-back")].concat()
        );
    }
    let drawn = match devices.len() > DRAWN_LIMIT {
        true => format!(" (the first {DRAWN_LIMIT} are drawn)"),
        false => String::new(),
    };
    let messages: u64 = simulator.clients.telemetry().values().sum();
    let clients = match simulator.clients.count() {
        0 if messages == 0 => String::new(),
        count => format!("; {count} clients connected by MQTT, {messages} messages to the cloud"),
    };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=3>\
         <title>Simulated hub</title><style>body{{font:14px sans-serif;margin:2em}}td,th{{padding:2px 12px 2px 0;\
         text-align:left}}ul{{list-style:none;padding:0}}li{{display:inline;margin-right:1.5em}}</style>\
         <h1>Simulated hub</h1><p>{} by its clock; {} devices{drawn}; {} calls refused by a throttle{clients}</p>\
         <ul>{legend}</ul><svg width={} height={height} role=img aria-label='fleet'>{squares}</svg>\
         <h2>Deployments</h2><table><tr><th>id<th>priority<th>ring<th>devices<th>stopped, taken back{rows}</table></html>",
        time_text(service.now_secs),
        devices.len(),
        simulator.throttled,
        COLUMNS * SIDE,
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Behaviour, Fleet, Service};

    #[test]
    fn names_are_only_text() {
        let mut fleet = Fleet::default();
        fleet.add("<b>'", json!({}), Behaviour::GOOD);
        let simulator = Simulator::new(Service::new(fleet, 0), "localhost:1", b"k", 1);
        let page = page(&simulator);
        assert!(
            page.contains("&lt;b&gt;&#39;: runs nothing") && !page.contains("<b>"),
            "{page}"
        );
        assert!(page.contains("1970-01-01T00:00:00Z"));
    }
}
