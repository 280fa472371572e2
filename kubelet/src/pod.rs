//! Short words for what is asked of a Pod everywhere: its names, its containers with their kinds, the
//! defaults the API server normally fills in.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext};

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Runs to its end before the next starts.
    Init,
    /// An init container with restartPolicy Always: started in order, then kept.
    Sidecar,
    /// One of spec.containers.
    Main,
    /// Added to a running pod for debugging; never restarted.
    Ephemeral,
}

/// A pod's restart policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Whatever the exit code.
    Always,
    /// After a failure.
    OnFailure,
    /// Never.
    Never,
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// `namespace/name`, for people.
pub(crate) fn full_name(pod: &Pod) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}

/// The spec; a pod without one counts as one without containers.
pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub(crate) fn restart(pod: &Pod) -> Restart {
    match spec(pod).restart_policy.as_deref() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    }
}

pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The init containers with their roles, in order.
pub(crate) fn inits(pod: &Pod) -> impl DoubleEndedIterator<Item = (Role, &Container)> {
    let inits = spec(pod).init_containers.as_deref().unwrap_or_default();
    inits.iter().map(|c| (if is_sidecar(c) { Role::Sidecar } else { Role::Init }, c))
}

/// The ephemeral containers as plain ones.
pub(crate) fn ephemerals(pod: &Pod) -> Vec<Container> {
    let listed = spec(pod).ephemeral_containers.as_deref().unwrap_or_default();
    let plain = |e| serde_json::to_value(e).and_then(serde_json::from_value::<Container>).ok();
    listed.iter().filter_map(plain).collect()
}

/// The container called `name`, whatever its role.
pub(crate) fn container(pod: &Pod, name: &str) -> Option<(Role, Container)> {
    inits(pod)
        .chain(spec(pod).containers.iter().map(|c| (Role::Main, c)))
        .find(|(_, c)| c.name == name)
        .map(|(role, c)| (role, c.clone()))
        .or_else(|| ephemerals(pod).into_iter().find(|c| c.name == name).map(|c| (Role::Ephemeral, c)))
}

/// Init containers, sidecars and main containers, in the order they start.
pub(crate) fn ordered(pod: &Pod) -> impl DoubleEndedIterator<Item = (Role, &Container)> {
    inits(pod).chain(spec(pod).containers.iter().map(|c| (Role::Main, c)))
}

pub(crate) fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// Whether the API already calls the pod finished.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Seconds that the containers are given to stop.
pub(crate) fn grace(pod: &Pod) -> i64 {
    pod.metadata.deletion_grace_period_seconds.or(spec(pod).termination_grace_period_seconds).unwrap_or(30).max(0)
}

/// The security context of `container`; an absent one is all defaults.
pub(crate) fn security(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

/// The image pull policy, defaulted as the API server does.
pub(crate) fn pull_policy(container: &Container) -> &str {
    let image = container.image.as_deref().unwrap_or_default();
    let tail = image.rsplit('/').next().unwrap_or(image);
    let moving = !image.contains('@') && (!tail.contains(':') || tail.ends_with(":latest"));
    match container.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ if moving => "Always",
        _ => "IfNotPresent",
    }
}

/// The host name inside the pod: spec.hostname or the pod's name, cut to 63 characters.
pub(crate) fn hostname(pod: &Pod) -> String {
    let wanted = spec(pod).hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(name(pod));
    wanted.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_string()
}
