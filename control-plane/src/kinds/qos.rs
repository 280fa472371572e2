//! The quality-of-service class of a pod: Guaranteed, Burstable or BestEffort, from requests and limits of CPU and
//! memory of all its containers (Kubernetes documentation, "Pod Quality of Service Classes").

use serde_json::Value;

use super::form;
use super::quantity::Quantity;

/// The class of a pod, given with its spec.
pub fn class(pod: &Value) -> &'static str {
    let lists = [form::list(pod, &["spec", "containers"]), form::list(pod, &["spec", "initContainers"])];
    let (mut any, mut guaranteed) = (false, true);
    for container in lists.into_iter().flatten() {
        for resource in ["cpu", "memory"] {
            let amount = |which: &str| {
                let text = form::text(container, &["resources", which, resource]);
                Quantity::parse(text).map(|q| q.millis()).filter(|m| *m != 0)
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let pod = |resources: Value| json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        assert_eq!(class(&pod(json!({}))), "BestEffort");
        assert_eq!(class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        assert_eq!(class(&pod(json!({"limits": {"cpu": "1"}}))), "Burstable");
        assert_eq!(class(&pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}}))), "Guaranteed");
        let less = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}});
        assert_eq!(class(&pod(less)), "Burstable");
        let same = json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(class(&pod(same)), "Guaranteed");
    }
}
