//! Which of the nodes that a pod fits on is best (pure).
//!
//! Each score is 0 to 100 a node; the sum is weighted as upstream's defaults: least allocated 1, balanced 1, preferred
//! node affinity 2, PreferNoSchedule taints 3, preferred neighbours 2, even spread 2, images that are there already 1.

use super::around::Around;
use super::filters::matches;
use super::snapshot::{Candidate, NodeInfo};
use crate::controllers::nodes::decide::tolerates;

/// The best node: the highest score, then the fewest pods, then the first name.
pub(crate) fn best<'a>(pod: &Candidate, nodes: &[&'a NodeInfo], around: &Around) -> Option<&'a NodeInfo> {
    let affinity = normal(nodes.iter().map(|node| preferred(pod, node)).collect());
    let taints = normal(nodes.iter().map(|node| soft_taints(pod, node)).collect());
    let near: Vec<i64> = nodes.iter().map(|node| around.worth(node)).collect();
    let least = near.iter().copied().min().unwrap_or(0);
    let near = normal(near.into_iter().map(|worth| worth - least).collect());
    let crowd = normal(nodes.iter().map(|node| around.crowd(node)).collect());
    let score = |at: usize, node: &NodeInfo| {
        let (cpu, memory) = (used(pod, node, "cpu"), used(pod, node, "memory"));
        let free = 100.0 * (1.0 - (cpu + memory) / 2.0);
        let balance = 100.0 * (1.0 - (cpu - memory).abs() / 2.0);
        free as i64 + balance as i64 + 2 * affinity[at] + 3 * (100 - taints[at]) + 2 * near[at] - 2 * crowd[at]
            + images(pod, node)
    };
    let ranked = nodes.iter().enumerate().map(|(at, node)| (score(at, node), *node));
    let best = ranked.max_by(|(a, x), (b, y)| {
        a.cmp(b).then_with(|| y.pods.len().cmp(&x.pods.len())).then_with(|| y.name.cmp(&x.name))
    });
    best.map(|(_, node)| node)
}

/// The share of a resource that would be used with the pod there, 0 to 1.
fn used(pod: &Candidate, node: &NodeInfo, resource: &str) -> f64 {
    let all = node.allocatable.get(resource);
    if all <= 0 {
        return 1.0;
    }
    let taken = node.weight.get(resource).saturating_add(pod.demand.weight.get(resource));
    (taken as f64 / all as f64).clamp(0.0, 1.0)
}

/// The sum of the weights of the preferred terms that select the node.
fn preferred(pod: &Candidate, node: &NodeInfo) -> i64 {
    let affinity = pod.spec().and_then(|spec| spec.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let terms = affinity.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref());
    let fitting = terms.into_iter().flatten().filter(|term| matches(&term.preference, node));
    fitting.map(|term| i64::from(term.weight)).sum()
}

/// Taints that would rather not have the pod.
fn soft_taints(pod: &Candidate, node: &NodeInfo) -> i64 {
    let tolerations = pod.spec().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
    soft.filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint))).count() as i64
}

/// Bytes that need not be pulled: 23 MiB and less count nothing, 1000 MiB a container and more count all.
fn images(pod: &Candidate, node: &NodeInfo) -> i64 {
    let Some(spec) = pod.spec() else { return 0 };
    let size = |image: &String| node.images.get(image).or_else(|| node.images.get(&full_name(image)));
    let there: i64 = spec.containers.iter().filter_map(|container| size(container.image.as_ref()?)).sum();
    let (low, high) = (23 << 20, (1000_i64 << 20) * spec.containers.len().max(1) as i64);
    100 * (there.clamp(low, high) - low) / (high - low)
}

/// The name under which a kubelet reports an image written shortly.
fn full_name(image: &str) -> String {
    let (path, last) = image.rsplit_once('/').unwrap_or(("", image));
    let tag = if last.contains(':') || last.contains('@') { "" } else { ":latest" };
    match path.split('/').next() {
        Some("") => format!("docker.io/library/{last}{tag}"),
        Some(host) if host.contains(['.', ':']) || host == "localhost" => format!("{image}{tag}"),
        _ => format!("docker.io/{image}{tag}"),
    }
}

/// Scales so that the largest is 100.
fn normal(scores: Vec<i64>) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    if most <= 0 { scores.iter().map(|_| 0).collect() } else { scores.iter().map(|score| 100 * score / most).collect() }
}
