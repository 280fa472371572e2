//! The node's heartbeat: a Lease in kube-node-lease, renewed every quarter of its duration. A renewal that
//! fails is tried again at once a few times, because a lease that runs out costs the node its pods.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Api;
use crate::clock;
use crate::error::{Kind, Result};
use crate::shared::Shared;

const COLLECTION: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn micro(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn lease(node: &str, seconds: u32, owner: Option<&str>, now: Timestamp) -> Value {
    let mut metadata = json!({"name": node, "namespace": "kube-node-lease"});
    if let Some(uid) = owner {
        metadata["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]);
    }
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
        "spec": {"holderIdentity": node, "leaseDurationSeconds": seconds, "renewTime": micro(now)},
    })
}

/// Renews the lease for ever.
pub(crate) async fn run(shared: Arc<Shared>, api: Api) {
    let every = Duration::from_secs(u64::from(shared.config.lease_seconds) / 4);
    let mut last: Option<Value> = None;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for attempt in 0..5u32 {
            match renew(&shared, &api, last.take()).await {
                Ok(lease) => {
                    last = Some(lease);
                    break;
                }
                Err(why) => {
                    tracing::warn!(%why, "cannot renew the node's lease");
                    tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                }
            }
        }
    }
}

async fn renew(shared: &Shared, api: &Api, last: Option<Value>) -> Result<Value> {
    let node = &shared.config.node_name;
    let path = format!("{COLLECTION}/{node}");
    let now = clock::wall();
    let current = match last {
        Some(lease) => Some(lease),
        None => match api.get::<Value>(&path).await {
            Ok(lease) => Some(lease),
            Err(e) if e.kind() == Kind::NotFound => None,
            Err(e) => return Err(e),
        },
    };
    match current {
        Some(mut lease) => {
            lease["spec"]["holderIdentity"] = node.as_str().into();
            lease["spec"]["leaseDurationSeconds"] = shared.config.lease_seconds.into();
            lease["spec"]["renewTime"] = micro(now).into();
            api.put(&path, &lease).await
        }
        None => {
            let owner: Option<Value> = api.get(&format!("/api/v1/nodes/{node}")).await.ok();
            let uid = owner.as_ref().and_then(|n| n["metadata"]["uid"].as_str());
            api.post(COLLECTION, &lease(node, shared.config.lease_seconds, uid, now)).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_owned_by_its_node() {
        let made = lease("n1", 40, Some("u"), Timestamp::UNIX_EPOCH);
        assert_eq!(made["spec"]["renewTime"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
    }
}
