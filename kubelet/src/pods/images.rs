//! Getting a container's image by its pull policy, with the pod's pull secrets, and saying so in events.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_cri_api as cri;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::Value;

use super::env::Kind;
use super::security::ImageUser;
use crate::api::events::Severity;
use crate::pod;
use crate::shared::Shared;

/// An image that is on this node.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    pub id: String,
    pub user: ImageUser,
}

/// Why there is no image: a container's waiting reason and its message.
pub(crate) type Refused = (&'static str, String);

/// Has the image on this node, pulled if the policy says so.
///
/// # Errors
/// The waiting reason: `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName` or `ImageInspectError`.
pub(crate) async fn ensure(
    shared: &Shared,
    of: &Pod,
    c: &Container,
    sandbox: &cri::PodSandboxConfig,
) -> Result<Ready, Refused> {
    let name = c.image.as_deref().unwrap_or_default();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err((
            "InvalidImageName",
            format!("Failed to apply default image tag {name:?}: couldn't parse image name"),
        ));
    }
    let say = |severity, reason, message| shared.events.pod(of, Some(&c.name), severity, reason, message);
    let policy = pod::pull_policy(c);
    if policy != "Always" {
        let found = shared.cri.image(name).await.map_err(|e| ("ImageInspectError", e.to_string()))?;
        if let Some(image) = found {
            say(Severity::Normal, "Pulled", format!("Container image {name:?} already present on machine"));
            return Ok(ready(image));
        }
        if policy == "Never" {
            let message = format!("Container image {name:?} is not present with pull policy of Never");
            say(Severity::Warning, "ErrImageNeverPull", message.clone());
            return Err(("ErrImageNeverPull", message));
        }
    }
    let asked = Instant::now();
    let _permit = shared.pulls.acquire().await.map_err(|e| ("ErrImagePull", e.to_string()))?;
    say(Severity::Normal, "Pulling", format!("Pulling image {name:?}"));
    let began = Instant::now();
    if let Err(why) = pull(shared, of, name, sandbox).await {
        say(Severity::Warning, "Failed", format!("Failed to pull image {name:?}: {why}"));
        say(Severity::Warning, "Failed", "Error: ErrImagePull".into());
        return Err(("ErrImagePull", why.to_string()));
    }
    let image = shared.cri.image(name).await.map_err(|e| ("ImageInspectError", e.to_string()))?;
    let image = image.ok_or(("ImageInspectError", format!("image {name:?} is not there after its pull")))?;
    let (took, waited) = (began.elapsed(), asked.elapsed());
    let message = format!(
        "Successfully pulled image {name:?} in {:.3}s ({:.3}s including waiting). Image size: {} bytes.",
        took.as_secs_f64(),
        waited.as_secs_f64(),
        image.size
    );
    say(Severity::Normal, "Pulled", message);
    Ok(ready(image))
}

fn ready(image: cri::Image) -> Ready {
    let user = ImageUser { uid: image.uid.map(|u| u.value), username: image.username };
    Ready { id: image.id, user }
}

async fn pull(shared: &Shared, of: &Pod, name: &str, sandbox: &cri::PodSandboxConfig) -> crate::Result<()> {
    let candidates = credentials(shared, of, name).await;
    let mut last = None;
    for auth in candidates.into_iter().map(Some).chain([None]) {
        match shared.cri.pull(name, auth, sandbox.clone()).await {
            Ok(_) => return Ok(()),
            Err(why) => last = last.or(Some(why)),
        }
    }
    last.map_or(Ok(()), Err)
}

/// The credentials of the pod's pull secrets that are for the image's registry.
async fn credentials(shared: &Shared, of: &Pod, name: &str) -> Vec<cri::AuthConfig> {
    let mut out = Vec::new();
    for reference in pod::spec(of).image_pull_secrets.iter().flatten() {
        match shared.objects.get(Kind::Secret, pod::namespace(of), &reference.name).await {
            Ok(Some(data)) => {
                let config = data.get(".dockerconfigjson").and_then(|d| serde_json::from_slice::<Value>(d).ok());
                let old = data.get(".dockercfg").and_then(|d| serde_json::from_slice::<Value>(d).ok());
                let auths = config.map(|c| c["auths"].clone()).or(old);
                out.extend(auths.iter().flat_map(|a| matching(a, name)));
            }
            Ok(None) => tracing::warn!(secret = reference.name, "image pull secret does not exist"),
            Err(why) => tracing::warn!(secret = reference.name, %why, "cannot read an image pull secret"),
        }
    }
    out
}

/// The registry and repository of an image, as Docker's defaults complete it.
fn location(name: &str) -> String {
    let bare = name.split('@').next().unwrap_or(name);
    match bare.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => bare.to_string(),
        Some(_) => format!("docker.io/{bare}"),
        None => format!("docker.io/library/{bare}"),
    }
}

/// Entries of a docker config that are for `name`: same host, and a path that is a prefix of the image's.
fn matching(auths: &Value, name: &str) -> Vec<cri::AuthConfig> {
    let image = location(name);
    let mut found: Vec<(usize, cri::AuthConfig)> = Vec::new();
    for (server, entry) in auths.as_object().into_iter().flatten() {
        let plain = server.trim_start_matches("https://").trim_start_matches("http://");
        let plain = plain.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
        let plain = if plain == "index.docker.io" { "docker.io" } else { plain };
        let fits = image.strip_prefix(plain).is_some_and(|rest| rest.starts_with('/') || rest.is_empty());
        if fits && !plain.is_empty() {
            found.push((plain.len(), auth(plain, entry)));
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn auth(server: &str, entry: &Value) -> cri::AuthConfig {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_string();
    let (mut username, mut password) = (text("username"), text("password"));
    let decoded = STANDARD.decode(text("auth")).ok().and_then(|d| String::from_utf8(d).ok());
    if let Some((user, secret)) = decoded.as_deref().and_then(|d| d.split_once(':')) {
        (username, password) = (user.to_string(), secret.to_string());
    }
    cri::AuthConfig {
        username,
        password,
        server_address: server.to_string(),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn credentials_go_only_to_their_registry() {
        let auths = json!({
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("hub:pw")},
            "registry.example.org/team": {"username": "team", "password": "x"},
            "registry.example.org": {"username": "all", "password": "y"}});
        let users = |name: &str| matching(&auths, name).into_iter().map(|a| a.username).collect::<Vec<_>>();
        assert_eq!(users("busybox"), ["hub"]);
        assert_eq!(users("registry.example.org/team/app:1"), ["team", "all"]);
        assert_eq!(users("registry.example.org/teamster/app"), ["all"]);
        assert_eq!(users("registry.example.org.evil.net/app"), Vec::<String>::new());
    }
}
