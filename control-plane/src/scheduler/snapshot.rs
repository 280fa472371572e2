//! What the scheduler knows: nodes with what they offer and what is taken, pods with what they ask for (pure).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodAffinityTerm, PodSpec, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::controllers::informer::Key;
use crate::kinds::quantity::Quantity;

/// Amounts by resource name: `cpu` in thousandths, everything else in ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources(pub(crate) BTreeMap<String, i64>);

impl Resources {
    pub(crate) fn parse(list: Option<&BTreeMap<String, Text>>) -> Resources {
        let amount = |(name, text): (&String, &Text)| {
            let quantity = Quantity::parse(&text.0)?;
            let amount = if name == "cpu" { quantity.millis() } else { quantity.value() };
            Some((name.clone(), i64::try_from(amount).unwrap_or(i64::MAX)))
        };
        Resources(list.into_iter().flatten().filter_map(amount).collect())
    }

    pub(crate) fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    fn add(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let sum = self.0.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    fn subtract(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let rest = self.0.entry(name.clone()).or_default();
            *rest = rest.saturating_sub(*amount);
        }
    }

    fn raise_to(&mut self, other: &Resources) {
        for (name, amount) in &other.0 {
            let most = self.0.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }
}

/// A port on the host: (protocol, address, port).
pub(crate) type HostPort = (String, String, i32);

/// What a pod takes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// What it asks for.
    pub(crate) request: Resources,
    /// The same where a container that asks for nothing counts 100m and 200Mi, so that such pods spread too.
    pub(crate) weight: Resources,
    pub(crate) ports: Vec<HostPort>,
}

impl Demand {
    pub(crate) fn of(pod: &Pod) -> Demand {
        let Some(spec) = &pod.spec else { return Demand::default() };
        let ports = spec.containers.iter().chain(sidecars(spec)).flat_map(|container| ports(container, spec));
        Demand { request: total(spec, &|c| request(c)), weight: total(spec, &|c| weight(c)), ports: ports.collect() }
    }
}

fn sidecars(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let init = spec.init_containers.iter().flatten();
    init.filter(|container| container.restart_policy.as_deref() == Some("Always"))
}

fn request(container: &Container) -> Resources {
    Resources::parse(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn weight(container: &Container) -> Resources {
    let mut weight = request(container);
    weight.0.entry("cpu".into()).or_insert(100);
    weight.0.entry("memory".into()).or_insert(200 << 20);
    weight
}

/// What the pod needs at its worst moment: all containers and sidecars together, or an init container beside the
/// sidecars started before it (KEP-753), whichever is more; and the overhead of its runtime class.
fn total(spec: &PodSpec, of: &dyn Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    let mut worst = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            running.add(&of(container));
            worst.raise_to(&running);
        } else {
            let mut moment = running.clone();
            moment.add(&of(container));
            worst.raise_to(&moment);
        }
    }
    spec.containers.iter().for_each(|container| running.add(&of(container)));
    worst.raise_to(&running);
    // A request on the pod as a whole stands in for those of its containers.
    if let Some(whole) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        worst.0.extend(Resources::parse(Some(whole)).0);
    }
    worst.add(&Resources::parse(spec.overhead.as_ref()));
    worst
}

fn ports(container: &Container, spec: &PodSpec) -> Vec<HostPort> {
    let host = spec.host_network == Some(true);
    let port = |port: &k8s_openapi::api::core::v1::ContainerPort| {
        let number = port.host_port.or(host.then_some(port.container_port)).filter(|n| *n > 0)?;
        let text =
            |text: &Option<String>, default: &str| text.clone().filter(|t| !t.is_empty()).unwrap_or(default.into());
        Some((text(&port.protocol, "TCP"), text(&port.host_ip, "0.0.0.0"), number))
    };
    container.ports.iter().flatten().filter_map(port).collect()
}

/// A node and what is taken of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeInfo {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) ready: bool,
    pub(crate) allocatable: Resources,
    /// Image name to bytes.
    pub(crate) images: HashMap<String, i64>,
    pub(crate) taken: Resources,
    pub(crate) weight: Resources,
    /// By uid.
    pub(crate) pods: HashMap<String, Arc<Resident>>,
    pub(crate) ports: Vec<HostPort>,
    /// There is no such node (any more); only pods that name it.
    pub(crate) gone: bool,
}

impl NodeInfo {
    /// Takes in the node's object; what is taken of it stays. Returns whether a pod could see a difference.
    pub(crate) fn update(&mut self, node: &Node) -> bool {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        let images = status.images.into_iter().flatten().flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image.names.unwrap_or_default().into_iter().map(move |name| (name, size))
        });
        let new = NodeInfo {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable == Some(true),
            ready,
            allocatable: Resources::parse(status.allocatable.as_ref().or(status.capacity.as_ref())),
            images: images.collect(),
            gone: false,
            taken: std::mem::take(&mut self.taken),
            weight: std::mem::take(&mut self.weight),
            pods: std::mem::take(&mut self.pods),
            ports: std::mem::take(&mut self.ports),
        };
        let differs = self.gone
            || (&self.labels, &self.taints, self.unschedulable, self.ready, &self.allocatable)
                != (&new.labels, &new.taints, new.unschedulable, new.ready, &new.allocatable);
        *self = new;
        differs
    }

    pub(crate) fn place(&mut self, uid: &str, resident: &Arc<Resident>) {
        if self.pods.insert(uid.to_owned(), resident.clone()).is_none() {
            self.taken.add(&resident.demand.request);
            self.weight.add(&resident.demand.weight);
            self.ports.extend(resident.demand.ports.iter().cloned());
        }
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(resident) = self.pods.remove(uid) else { return };
        self.taken.subtract(&resident.demand.request);
        self.weight.subtract(&resident.demand.weight);
        for port in &resident.demand.ports {
            self.ports.iter().position(|p| p == port).map(|at| self.ports.swap_remove(at));
        }
    }
}

/// A pod on a node, as far as others care.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resident {
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) demand: Demand,
    /// Its required anti-affinity: whom it does not want near.
    pub(crate) anti_affinity: Vec<PodAffinityTerm>,
    pub(crate) terminating: bool,
}

impl Resident {
    pub(crate) fn of(pod: &Pod) -> Resident {
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        let anti = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let required = anti.and_then(|anti| anti.required_during_scheduling_ignored_during_execution.clone());
        Resident {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            demand: Demand::of(pod),
            anti_affinity: required.unwrap_or_default(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// A pod that waits for a node.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) key: Key,
    pub(crate) uid: String,
    pub(crate) pod: Arc<Pod>,
    pub(crate) demand: Demand,
}

impl Candidate {
    pub(crate) fn new(pod: Arc<Pod>) -> Candidate {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        Candidate { key: Key::of(&*pod), uid, demand: Demand::of(&pod), pod }
    }

    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.pod.metadata.labels.clone().unwrap_or_default()
    }

    /// Whether where it may go depends on other pods.
    pub(crate) fn looks_around(&self) -> bool {
        self.spec().is_some_and(|spec| {
            let affinity = spec.affinity.as_ref();
            affinity.is_some_and(|a| a.pod_affinity.is_some() || a.pod_anti_affinity.is_some())
                || spec.topology_spread_constraints.as_ref().is_some_and(|list| !list.is_empty())
        })
    }

    pub(crate) fn priority(&self) -> i32 {
        self.spec().and_then(|spec| spec.priority).unwrap_or(0)
    }
}
