//! The service-account controller: every live namespace has the account `default`, and, for pods that talk to the
//! API, the cluster's CA as ConfigMap `kube-root-ca.crt`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::Caches;
use super::informer::{Cache, Key};
use super::meta::{is_terminating, namespace};
use super::queue::{self, Queue};
use super::write::Write;
use crate::client::Client;
use crate::error::Result;

/// Selects the accounts that matter here.
pub(super) const ACCOUNT: &str = "metadata.name=default";
/// Selects the ConfigMaps that matter here.
pub(super) const CA: &str = "metadata.name=kube-root-ca.crt";
const ACCOUNT_NAME: &str = "default";
const CA_NAME: &str = "kube-root-ca.crt";

/// The controller.
pub(super) struct Accounts {
    client: Client,
    namespaces: Arc<Cache<Namespace>>,
    accounts: Arc<Cache<ServiceAccount>>,
    config_maps: Arc<Cache<ConfigMap>>,
    ca_pem: Option<String>,
}

/// What a namespace lacks.
fn decide(name: &str, account: bool, ca: Option<&ConfigMap>, ca_pem: Option<&str>) -> Vec<Write> {
    let mut writes = Vec::new();
    let metadata = |object: &str| json!({"name": object, "namespace": name});
    if !account {
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(ACCOUNT_NAME)});
        writes.push(Write::Create { resource: "serviceaccounts", object });
    }
    let Some(pem) = ca_pem else { return writes };
    let data = json!({"ca.crt": pem});
    match ca {
        None => {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(CA_NAME), "data": data});
            writes.push(Write::Create { resource: "configmaps", object });
        }
        Some(map) if map.data.as_ref().and_then(|data| data.get("ca.crt")).map(String::as_str) != Some(pem) => {
            writes.push(Write::Patch {
                resource: "configmaps",
                namespace: name.to_owned(),
                name: CA_NAME.to_owned(),
                body: json!({"data": data}),
            });
        }
        Some(_) => {}
    }
    writes
}

impl Accounts {
    pub(super) fn new(client: Client, caches: &Caches, ca_pem: Option<String>) -> Accounts {
        Accounts {
            client,
            namespaces: caches.namespaces.clone(),
            accounts: caches.accounts.clone(),
            config_maps: caches.config_maps.clone(),
            ca_pem,
        }
    }

    pub(super) fn listen(&self) -> Arc<Queue> {
        let queue = Queue::new();
        let wake = queue.clone();
        self.namespaces.listen(move |change| wake.add(Key::of(&**change.object())));
        let wake = queue.clone();
        self.accounts.listen(move |change| {
            let meta = &change.object().metadata;
            if meta.name.as_deref() == Some(ACCOUNT_NAME) {
                wake.add(Key::new("", namespace(meta)));
            }
        });
        let wake = queue.clone();
        self.config_maps.listen(move |change| {
            let meta = &change.object().metadata;
            if meta.name.as_deref() == Some(CA_NAME) {
                wake.add(Key::new("", namespace(meta)));
            }
        });
        queue
    }

    pub(super) async fn run(self, queue: Arc<Queue>, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let sync = move |key| {
            let this = this.clone();
            async move { this.sync(&key).await }
        };
        queue::work("serviceaccount", queue, 1, shutdown, sync).await;
    }

    async fn sync(&self, key: &Key) -> Result<()> {
        if self.namespaces.get(key).is_none_or(|namespace| is_terminating(&namespace.metadata)) {
            return Ok(());
        }
        let has = self.accounts.get(&Key::new(&key.name, ACCOUNT_NAME)).is_some();
        let ca = self.config_maps.get(&Key::new(&key.name, CA_NAME));
        for write in decide(&key.name, has, ca.as_deref(), self.ca_pem.as_deref()) {
            match write.run(&self.client).await {
                Err(error) if error.is_already_exists() || error.is_not_found() => {}
                result => drop(result?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(account: bool, ca: Option<&str>, pem: Option<&str>, expect: &str) {
        let map = ca.map(|pem| ConfigMap {
            data: Some([("ca.crt".to_owned(), pem.to_owned())].into()),
            ..ConfigMap::default()
        });
        let writes = decide("n", account, map.as_ref(), pem);
        assert_eq!(writes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), expect);
    }

    #[test]
    fn a_namespace_gets_what_it_lacks() {
        check(true, None, None, "");
        check(true, Some("A"), Some("A"), "");
        check(false, None, Some("A"), "create serviceaccounts n/default\ncreate configmaps n/kube-root-ca.crt");
        check(true, Some("old"), Some("A"), "patch configmaps n/kube-root-ca.crt {\"data\":{\"ca.crt\":\"A\"}}");
    }
}
