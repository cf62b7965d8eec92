//! `summary.md`: what a reviewer reads instead of the JSON.
//!
//! One fact per line and a fixed order, so that a change of the release is the same change here.

use std::fmt::Write as _;

use crate::condition::Condition;
use crate::release::{ModuleRelease, Release, TargetRelease};
use crate::render::{DeploymentKind, Rendered, rings as rings_of};

/// The summary of a release that has been rendered.
pub(crate) fn summary(release: &Release, rendered: &Rendered) -> String {
    let mut text = String::new();
    let mut line = |content: &str| {
        text.push_str(content);
        text.push('\n');
    };
    line(&format!("# Deployments of `{}`", release.environment));
    line("");
    line("Written by `cargo xtask release`; changes by hand are drift.");
    line("");
    line(&format!("- registry: `{}`", release.registry_prefix));
    line(&format!("- edge agent: `{}`", release.system.edge_agent.image));
    line(&format!("- edge hub: `{}`", release.system.edge_hub.image));

    let mut targets: Vec<_> = release.targets.iter().collect();
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    for target in &targets {
        line("");
        models(&mut line, target);
    }
    line("");
    pinned(&mut line, rendered);
    rings(&mut line, release);
    line("");
    deployments(&mut line, rendered);
    line("");
    limits(&mut line, rendered);
    text
}

fn models(line: &mut dyn FnMut(&str), target: &TargetRelease) {
    line(&format!("## Target `{}`", target.name));
    line("");
    line(&format!("Devices: {}", condition(Some(&target.condition))));
    line("");
    if target.modules.is_empty() {
        line("No models.");
        return;
    }
    line(
        "| module | model | version | precision | platform | image size | metric | float → shipped | change | digest | devices |",
    );
    line("| --- | --- | --- | --- | --- | ---: | --- | ---: | ---: | --- | --- |");
    let mut modules: Vec<_> = target.modules.iter().collect();
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    for module in modules {
        line(&model(module));
    }
    let mut routes: Vec<_> = target.modules.iter().flat_map(|module| &module.routes).collect();
    routes.sort_by_key(|(name, _)| *name);
    if !routes.is_empty() {
        line("");
        line("Routes:");
        line("");
    }
    for (name, spec) in routes {
        let mut more = String::new();
        if let Some(priority) = spec.priority {
            let _ = write!(more, ", priority {priority}");
        }
        if let Some(seconds) = spec.time_to_live_secs {
            let _ = write!(more, ", kept for {seconds} s");
        }
        line(&format!("- {}: {}{more}", code(name), code(&spec.route)));
    }
    line("");
    line(&format!(
        "A device that has none of these images downloads at most {}.",
        size(total_bytes(target))
    ));
}

/// Models that are not what `models.toml` declares.
fn pinned(line: &mut dyn FnMut(&str), rendered: &Rendered) {
    let all = rendered.deployments.iter().flat_map(|deployment| {
        let target = &deployment.target;
        deployment.modules.iter().map(move |module| (target, module))
    });
    let mut rows: Vec<String> = all
        .filter_map(|(target, module)| {
            let reason = escape(module.pinned.as_ref()?);
            let (model, version) = (code(&module.model), escape(&module.version));
            Some(format!("| {model} | `{target}` | {version} | {reason} |"))
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    rows.sort();
    line("## Pinned to an earlier release");
    line("");
    line("| model | target | runs | why |");
    line("| --- | --- | --- | --- |");
    for row in &rows {
        line(row);
    }
    line("");
}

/// Sum of the images; layers that they share are counted once per image.
fn total_bytes(target: &TargetRelease) -> u64 {
    target
        .modules
        .iter()
        .fold(0, |sum: u64, module| sum.saturating_add(module.size_bytes))
}

fn model(module: &ModuleRelease) -> String {
    let accuracy = &module.accuracy;
    format!(
        "| `{}` | `{}` | {} | {} | {} | {} | {} | {:.4} → {:.4} | {:+.4} | `{}` | {} |",
        module.name,
        escape(&module.model),
        escape(&module.model_version),
        accuracy.precision,
        escape(&module.platform),
        size(module.size_bytes),
        escape(&accuracy.metric),
        accuracy.float,
        accuracy.quantized,
        accuracy.quantized - accuracy.float,
        module.image_digest.short(),
        condition(module.condition.as_deref()),
    )
}

fn rings(line: &mut dyn FnMut(&str), release: &Release) {
    line("## Rings");
    line("");
    line(
        "| order | ring | devices, with those before | soak | reported at least | at most failed, unhealthy, self-check failed, drifting, silent | enters |",
    );
    line("| ---: | --- | --- | ---: | ---: | --- | --- |");
    for (index, ring) in rings_of(release).iter().enumerate() {
        let own: Vec<_> = [
            ring.condition.as_deref().map(|text| condition(Some(text))),
            (!ring.devices.is_empty()).then(|| format!("{} named", ring.devices.len())),
            ring.percent.map(|percent| format!("{percent} % of the devices")),
        ]
        .into_iter()
        .flatten()
        .collect();
        let limits = &ring.at_most;
        let at_most = [
            limits.failed,
            limits.unhealthy,
            limits.self_check_failed,
            limits.drifting,
            limits.silent,
        ]
        .map(|amount| amount.to_string())
        .join(", ");
        let mut enters = vec![if ring.approval { "by approval" } else { "by itself" }.to_owned()];
        if let Some(hours) = &ring.quiet_hours {
            enters.push(format!(
                "not {} to {} {}",
                hours.from,
                hours.to,
                escape(&hours.time_zone)
            ));
        }
        line(&format!(
            "| {} | `{}` | {} | {} h | {} | {at_most} | {} |",
            index + 1,
            ring.name,
            if own.is_empty() {
                "all".to_owned()
            } else {
                own.join(", ")
            },
            ring.soak_hours,
            ring.minimum_reported,
            enters.join(", "),
        ));
    }
}

fn deployments(line: &mut dyn FnMut(&str), rendered: &Rendered) {
    line("## Deployments");
    line("");
    line("| deployment | priority | file | modules |");
    line("| --- | ---: | --- | ---: |");
    for deployment in &rendered.deployments {
        let modules = match deployment.kind {
            DeploymentKind::Base => "runtime".to_owned(),
            DeploymentKind::Layered => deployment.modules.len().to_string(),
        };
        line(&format!(
            "| `{}` | {} | `{}` | {modules} |",
            deployment.id, deployment.priority, deployment.file
        ));
    }
}

fn limits(line: &mut dyn FnMut(&str), rendered: &Rendered) {
    line("## Limits");
    line("");
    line("| where | limit | used | of |");
    line("| --- | --- | ---: | ---: |");
    for limits in &rendered.limits {
        let place = limits
            .target
            .as_ref()
            .map_or("hub".to_owned(), |target| format!("`{target}`"));
        for used in &limits.used {
            line(&format!(
                "| {place} | {} | {} | {} |",
                escape(&used.what),
                used.used,
                used.limit
            ));
        }
    }
}

/// A condition in its canonical spelling, so that another spelling of the same is no change.
fn condition(text: Option<&str>) -> String {
    match text.map(str::parse::<Condition>) {
        None | Some(Ok(Condition::All)) => "all".to_owned(),
        Some(Ok(condition)) => code(&condition.to_string()),
        Some(Err(_)) => code(text.unwrap_or_default()),
    }
}

/// Code within a table: `|` would end the cell, and a text with a backquote wants two around it.
pub(crate) fn code(text: &str) -> String {
    let text = escape(text);
    if text.contains('`') {
        format!("`` {text} ``")
    } else {
        format!("`{text}`")
    }
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

/// MiB with one digit, rounded to nearest; KiB below one.
pub(crate) fn size(bytes: u64) -> String {
    let (unit_bytes, unit) = if bytes < 1 << 20 {
        (1u64 << 10, "KiB")
    } else {
        (1 << 20, "MiB")
    };
    let tenths = (u128::from(bytes) * 10 + u128::from(unit_bytes) / 2) / u128::from(unit_bytes);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |bytes: u64, expected: &str| assert_eq!(size(bytes), expected);
        check(0, "0.0 KiB");
        check(1024, "1.0 KiB");
        check(1 << 20, "1.0 MiB");
        check((1 << 20) + (1 << 19), "1.5 MiB");
        check(u64::MAX, "17592186044416.0 MiB");
    }

    #[test]
    fn code_is_safe_in_a_table() {
        assert_eq!(code("a || b"), "`a \\|\\| b`");
        assert_eq!(code("a`b"), "`` a`b ``");
    }
}
