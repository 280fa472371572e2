//! `Status`: whether the server is well, what it can do and, when asked, how it is configured.
//!
//! The extra information has containerd's keys where tools read them: `config` with `rootDir` and `stateDir`, the
//! network as `cniconfig`, `lastCNILoadStatus` (and Gantry's as `network`); Gantry's own configuration is in `config`, too.

use std::collections::HashMap;

use gantry_cri_api as api;
use serde_json::{Value, json};

use crate::config::Config;
use crate::node::Node;
use crate::pods;

/// What containerd says when its network is not there; kubelet shows it in the node's condition.
const NOT_READY: &str = "NetworkPluginNotReady";

pub(super) async fn of(node: &Node, verbose: bool) -> api::StatusResponse {
    let network = node.network.status().await;
    let conditions =
        vec![condition("RuntimeReady", None), condition("NetworkReady", (!network.ready).then_some(&network.message))];
    let handler = |name: &&str| api::RuntimeHandler {
        name: (*name).to_owned(),
        features: Some(api::RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: false }),
    };
    let mut told = HashMap::new();
    if verbose {
        told = info(&node.config, network.ready.then_some(()).ok_or(&network.message));
        // Where CNI makes the network, its configuration instead of the bridge's.
        told.extend(node.network.info());
    }
    api::StatusResponse {
        status: Some(api::RuntimeStatus { conditions }),
        info: told,
        runtime_handlers: pods::HANDLERS.iter().map(handler).collect(),
        features: Some(api::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: true,
        }),
    }
}

fn condition(name: &str, wrong: Option<&String>) -> api::RuntimeCondition {
    api::RuntimeCondition {
        r#type: name.to_owned(),
        status: wrong.is_none(),
        reason: if wrong.is_some() { NOT_READY.to_owned() } else { String::new() },
        message: wrong.cloned().unwrap_or_default(),
    }
}

/// Each value is JSON by itself, but for a plain sentence.
fn info(config: &Config, network: Result<(), &String>) -> HashMap<String, String> {
    let mut told = json!(config);
    told["rootDir"] = json!(config.root);
    told["stateDir"] = json!(config.run);
    told["cgroupDriver"] = json!("cgroupfs");
    let bridge = json!({"Networks": [{
        "Config": {"Name": config.bridge, "CNIVersion": "", "Plugins": [{"Network": {"type": "bridge", "ipam": {"ranges": config.pod_cidr}}}]},
        "IFName": "eth0",
    }]});
    let versions = json!({
        "gantry": env!("CARGO_PKG_VERSION"),
        "ociRuntimeSpec": gantry_runtime::spec::VERSION,
        "kernel": kernel(),
    });
    let of = |value: Value| value.to_string();
    HashMap::from([
        ("config".to_owned(), of(told)),
        ("cniconfig".to_owned(), of(bridge)),
        ("lastCNILoadStatus".to_owned(), network.map_or_else(String::clone, |()| "OK".to_owned())),
        ("versions".to_owned(), of(versions)),
    ])
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_is_false_says_why() {
        let well = condition("RuntimeReady", None);
        assert_eq!((well.status, well.reason.as_str(), well.message.as_str()), (true, "", ""));
        let ill = condition("NetworkReady", Some(&"no bridge".to_owned()));
        assert_eq!((ill.status, ill.reason.as_str(), ill.message.as_str()), (false, NOT_READY, "no bridge"));
    }

    #[test]
    fn tools_find_what_they_know_from_containerd() {
        let wrong = "bridge gantry0 is not there".to_owned();
        let told = info(&Config::default(), Err(&wrong));
        let config: Value = serde_json::from_str(&told["config"]).unwrap();
        assert_eq!(config["stateDir"], json!("/run/gantry"));
        assert_eq!(config["rootDir"], json!("/var/lib/gantry/cri"));
        assert_eq!(config["pod_cidr"], json!("10.88.0.0/16,fd5a:67e0:88::/64"));
        assert_eq!(told["lastCNILoadStatus"], wrong);
        let network: Value = serde_json::from_str(&told["cniconfig"]).unwrap();
        assert_eq!(network["Networks"][0]["IFName"], json!("eth0"));
        assert!(told["versions"].contains(env!("CARGO_PKG_VERSION")));
    }
}
