//! Pictures of what a quantization costs, as SVG text: the same data give the same bytes.

use std::fmt::Write as _;

/// One node in [`sensitivities`].
#[derive(Clone, Debug)]
pub struct NodeBar {
    /// Its name.
    pub node: String,
    /// Its share of the noise, 0 to 1.
    pub noise_share: f64,
    /// Whether it stayed in float.
    pub float: bool,
}

/// One variant in [`trade_off`].
#[derive(Clone, Debug)]
pub struct Point {
    /// Its scheme.
    pub name: String,
    /// Length of its file.
    pub size_bytes: u64,
    /// Its time against float's.
    pub latency_ratio: f64,
    /// What it reaches, in words.
    pub note: String,
    /// Whether it is on the Pareto line.
    pub best: bool,
}

const WIDTH: f64 = 860.0;
const ROW: f64 = 18.0;
const QUANTIZED: &str = "#3566a8";
const FLOAT: &str = "#c77d22";

/// A bar per node, in the order given: its share of the noise, and which precision it got.
pub fn sensitivities(title: &str, bars: &[NodeBar]) -> String {
    let (left, right) = (330.0, 70.0);
    let most = bars.iter().map(|bar| bar.noise_share).fold(1e-3, f64::max);
    let mut svg = open(title, 60.0 + bars.len() as f64 * ROW + 12.0);
    legend(&mut svg, &[(QUANTIZED, "8 bits"), (FLOAT, "float")]);
    for (number, bar) in bars.iter().enumerate() {
        let top = 56.0 + number as f64 * ROW;
        let colour = if bar.float { FLOAT } else { QUANTIZED };
        text(&mut svg, left - 8.0, top + 12.0, "end", &shortened(&bar.node));
        let width = (bar.noise_share / most * (WIDTH - left - right)).max(1.0);
        let _ = writeln!(
            svg,
            r#"<rect x="{left}" y="{top:.1}" width="{width:.1}" height="13" fill="{colour}"/>"#
        );
        let share = format!("{:.1} %", bar.noise_share * 100.0);
        text(&mut svg, left + width + 5.0, top + 12.0, "start", &share);
    }
    svg + "</svg>\n"
}

/// Size against time, a dot per variant; the Pareto line joins the filled ones.
pub fn trade_off(title: &str, points: &[Point]) -> String {
    let (left, top, bottom, right, height) = (70.0, 60.0, 50.0, 230.0, 460.0);
    let largest = points.iter().map(|point| point.size_bytes).fold(1, u64::max) as f64;
    let slowest = points.iter().map(|point| point.latency_ratio).fold(1.0, f64::max);
    let across = |size: u64| left + size as f64 / largest * (WIDTH - left - right);
    let down = |ratio: f64| height - bottom - ratio / slowest * (height - top - bottom);
    let mut svg = open(title, height);
    let (floor, wall) = (height - bottom, WIDTH - right);
    let _ = writeln!(
        svg,
        r##"<path d="M{left} {top}V{floor}H{wall}" fill="none" stroke="#555"/>"##
    );
    text(&mut svg, (left + wall) / 2.0, floor + 34.0, "middle", "size, KiB");
    text(&mut svg, left, top - 10.0, "middle", "time / float's");
    for part in [0.0, 0.5, 1.0] {
        let size = (largest * part) as u64;
        text(
            &mut svg,
            across(size),
            floor + 16.0,
            "middle",
            &format!("{:.0}", largest * part / 1024.0),
        );
        text(
            &mut svg,
            left - 6.0,
            down(slowest * part) + 4.0,
            "end",
            &format!("{:.2}", slowest * part),
        );
    }
    let mut line: Vec<&Point> = points.iter().filter(|point| point.best).collect();
    line.sort_by(|a, b| {
        a.size_bytes
            .cmp(&b.size_bytes)
            .then(a.latency_ratio.total_cmp(&b.latency_ratio))
    });
    let path: Vec<String> = line
        .iter()
        .map(|point| format!("{:.1},{:.1}", across(point.size_bytes), down(point.latency_ratio)))
        .collect();
    let _ = writeln!(
        svg,
        r#"<polyline points="{}" fill="none" stroke="{QUANTIZED}" stroke-dasharray="4 3"/>"#,
        path.join(" ")
    );
    // Labels stand in a column, so that variants of like size and time do not hide each other's.
    let mut labelled: Vec<&Point> = points.iter().collect();
    labelled.sort_by(|a, b| b.latency_ratio.total_cmp(&a.latency_ratio));
    let mut free = top;
    for point in labelled {
        let (x, y) = (across(point.size_bytes), down(point.latency_ratio));
        let fill = if point.best { QUANTIZED } else { "white" };
        let label = y.max(free);
        free = label + 17.0;
        let _ = writeln!(
            svg,
            r##"<path d="M{x:.1} {y:.1}L{:.1} {label:.1}" stroke="#bbb"/>
<circle cx="{x:.1}" cy="{y:.1}" r="5" fill="{fill}" stroke="{QUANTIZED}"/>"##,
            wall + 10.0
        );
        let words = format!("{} ({})", point.name, point.note);
        text(&mut svg, wall + 14.0, label + 4.0, "start", &words);
    }
    svg + "</svg>\n"
}

fn open(title: &str, height: f64) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, 10.0, 20.0, "start", title);
    svg
}

fn legend(svg: &mut String, entries: &[(&str, &str)]) {
    for (number, (colour, name)) in entries.iter().enumerate() {
        let x = 10.0 + number as f64 * 90.0;
        let _ = writeln!(
            svg,
            r#"<rect x="{x}" y="30" width="12" height="12" fill="{colour}"/>"#
        );
        text(svg, x + 17.0, 41.0, "start", name);
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{words}</text>"#
    );
}

/// The end of a long name says more than its beginning.
fn shortened(name: &str) -> String {
    const MOST: usize = 46;
    let count = name.chars().count();
    match count > MOST {
        true => format!("…{}", name.chars().skip(count - MOST + 1).collect::<String>()),
        false => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(node: &str, noise_share: f64, float: bool) -> NodeBar {
        NodeBar {
            node: node.to_owned(),
            noise_share,
            float,
        }
    }

    #[test]
    fn bars_follow_their_numbers() {
        let svg = sensitivities(
            "net",
            &[bar("a", 0.4, true), bar("b<1>", 0.2, false), bar("c", 0.1, false)],
        );
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("height=\"13\""))
            .map(|line| {
                line.split("width=\"")
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .parse()
                    .unwrap()
            })
            .collect();
        assert!(
            (widths[0] / widths[1] - 2.0).abs() < 0.01 && (widths[0] / widths[2] - 4.0).abs() < 0.02,
            "{widths:?}"
        );
        assert_eq!(svg.matches(FLOAT).count(), 2, "the legend and one bar");
        assert!(svg.contains("b&lt;1&gt;") && !svg.contains("b<1>"));
        assert_eq!(
            svg,
            sensitivities(
                "net",
                &[bar("a", 0.4, true), bar("b<1>", 0.2, false), bar("c", 0.1, false)]
            )
        );
    }

    #[test]
    fn the_line_joins_the_best() {
        let point = |name: &str, size_bytes, latency_ratio, best| Point {
            name: name.to_owned(),
            size_bytes,
            latency_ratio,
            note: "40 dB".to_owned(),
            best,
        };
        let svg = trade_off(
            "net",
            &[
                point("float32", 1000, 1.0, true),
                point("int8", 250, 0.5, true),
                point("worse", 600, 1.5, false),
            ],
        );
        let line = svg.lines().find(|line| line.starts_with("<polyline")).unwrap();
        assert_eq!(line.matches(',').count(), 2, "{line}");
        assert_eq!(svg.matches("fill=\"white\" stroke=\"#3566a8\"/>").count(), 1);
        assert!(trade_off("nothing", &[]).ends_with("</svg>\n"));
    }
}
