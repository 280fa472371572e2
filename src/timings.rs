//! `gantry timings NAMESPACE/POD`: where the time from the API request to Ready went.
//!
//! The API server and the kubelet keep the moments of each pod's start; this asks both over the API, with the admin's
//! kubeconfig and `kubectl get --raw`, and prints one line a stage.

use crate::cli::Request;
use serde_json::{Value, json};
use std::process::{Command, ExitCode};

/// The stages in their order: the title, and the moments between which each lies.
const STAGES: [(&str, &str, &str); 7] = [
    ("API: request read, checked, stored", "received", "created"),
    ("scheduling: placed and bound", "created", "bound"),
    ("kubelet: seen", "bound", "seen"),
    ("sandbox: namespaces, address, monitor", "sandboxStart", "sandboxEnd"),
    ("image: found or pulled", "imageStart", "imageEnd"),
    ("container: created", "createStart", "createEnd"),
    ("container: started", "startStart", "startEnd"),
];

pub(crate) fn run(request: &Request) -> Result<ExitCode, String> {
    let words: Vec<String> = request.rest.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (json_wanted, pod) = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [pod] => (false, pod.to_owned()),
        ["--output", "json", pod] => (true, pod.to_owned()),
        _ => return Err("usage: gantry timings [--output json] NAMESPACE/POD".into()),
    };
    let moments = moments(request, &pod)?;
    if json_wanted {
        println!("{moments}");
    } else {
        print!("{}", table(&moments));
    }
    Ok(ExitCode::SUCCESS)
}

/// All moments of one pod, in nanoseconds since 1970, and the total.
fn moments(request: &Request, pod: &str) -> Result<Value, String> {
    let node = &request.config.node_name;
    let api = raw(request, "/debug/pod-timings")?;
    let kubelet = raw(request, &format!("/api/v1/nodes/{node}/proxy/debug/pod-timings"))?;
    let mut all = serde_json::Map::new();
    for source in [api, kubelet] {
        let found = source[pod].as_object().cloned();
        all.extend(found.ok_or(format!(
            "{pod}: no timings are kept of it (kept are those of the last pods since the node's start)"
        ))?);
    }
    let (from, to) = (all["received"].as_u64(), all.get("ready").and_then(Value::as_u64));
    let total = from.zip(to).map(|(from, to)| to.saturating_sub(from));
    all.insert("totalNanoseconds".into(), json!(total));
    Ok(Value::Object(all))
}

fn raw(request: &Request, path: &str) -> Result<Value, String> {
    let mut kubectl = Command::new("kubectl");
    let said = kubectl.arg("--kubeconfig").arg(request.config.admin_kubeconfig()).args(["get", "--raw", path]).output();
    let said = said.map_err(|why| format!("start kubectl: {why}; `make setup` installs it"))?;
    if !said.status.success() {
        return Err(format!("kubectl get --raw {path}: {}", String::from_utf8_lossy(&said.stderr).trim()));
    }
    serde_json::from_slice(&said.stdout).map_err(|why| format!("read the answer of {path}: {why}"))
}

fn table(moments: &Value) -> String {
    let at = |name: &str| moments[name].as_u64();
    let millis = |ns: u64| ns as f64 / 1e6;
    let mut text = String::new();
    let mut known = 0;
    for (title, from, to) in STAGES {
        let Some((from, to)) = at(from).zip(at(to)) else { continue };
        let took = to.saturating_sub(from);
        known += took;
        text.push_str(&format!("  {title:<42} {:>8.1} ms\n", millis(took)));
    }
    let Some(total) = at("totalNanoseconds") else { return text + "  the pod is not Ready yet\n" };
    text.push_str(&format!(
        "  {:<42} {:>8.1} ms\n",
        "waiting for readiness, status, the rest",
        millis(total.saturating_sub(known))
    ));
    text.push_str(&format!("  {:<42} {:>8.1} ms\n", "request to Ready", millis(total)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_adds_up() {
        let moments = json!({"received": 0, "created": 2_000_000, "bound": 3_000_000, "seen": 3_500_000, "sandboxStart": 4_000_000,
            "sandboxEnd": 9_000_000, "ready": 20_000_000, "totalNanoseconds": 20_000_000});
        let text = table(&moments);
        assert!(text.contains("API: request read, checked, stored              2.0 ms"), "{text}");
        assert!(text.contains("waiting for readiness, status, the rest        11.5 ms"), "{text}");
        assert!(text.ends_with("request to Ready                               20.0 ms\n"), "{text}");
    }

    #[test]
    fn an_unready_pod_has_no_total() {
        assert!(table(&json!({"received": 1, "created": 2, "totalNanoseconds": null})).ends_with("not Ready yet\n"));
    }
}
