//! The sandbox that a pod needs, in CRI's words: names, DNS, host ports, namespaces, cgroup. Pure.

use gantry_cri_api as cri;
use k8s_openapi::api::core::v1::Pod;

use super::{labels, security};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::pod;
use crate::qos;

/// What of the node a sandbox depends on.
pub(crate) struct Surroundings<'a> {
    pub config: &'a Config,
    pub cgroup: String,
    /// The host's resolv.conf.
    pub resolv_conf: &'a str,
}

/// What the pod asks for that would be left out silently: better no pod than one without its protection.
fn unsupported(of: &Pod) -> Option<&'static str> {
    let spec = pod::spec(of);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    match () {
        () if spec.host_users == Some(false) => Some("hostUsers: false"),
        () if spec.resource_claims.iter().flatten().next().is_some() => Some("resourceClaims"),
        () if all.flat_map(|c| c.volume_devices.iter().flatten()).next().is_some() => Some("volumeDevices"),
        () => None,
    }
}

/// The config for `attempt`.
///
/// # Errors
/// `Kind::Pod` where the pod's security context cannot be honoured.
pub(crate) fn config(of: &Pod, attempt: u32, around: &Surroundings<'_>) -> Result<cri::PodSandboxConfig> {
    let uid = pod::uid(of);
    let log_dir = around.config.pod_logs_dir.join(labels::log_dir(pod::namespace(of), pod::name(of), uid));
    let root = around.config.root_dir.to_string_lossy();
    let sysctls = security::sysctls(of, &around.config.allowed_unsafe_sysctls)?;
    if let Some(what) = unsupported(of) {
        return Err(Error::pod(format!("{what} is not supported by this node")));
    }
    let created = of.metadata.creation_timestamp.as_ref().map(|t| t.0.to_string()).unwrap_or_default();
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: pod::name(of).into(),
            uid: uid.into(),
            namespace: pod::namespace(of).into(),
            attempt,
        }),
        hostname: if pod::is_host_network(of) {
            String::new()
        } else {
            full_hostname(of, &around.config.cluster_domain)
        },
        log_directory: log_dir.to_string_lossy().into_owned(),
        dns_config: Some(dns(of, around.config, around.resolv_conf)),
        port_mappings: ports(of),
        labels: labels::sandbox_labels(of),
        annotations: labels::sandbox_annotations(of, &created),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: around.cgroup.clone(),
            security_context: Some(security::sandbox(of, &root)?),
            sysctls: sysctls.into_iter().collect(),
            overhead: Some(cri::LinuxContainerResources::default()),
            resources: Some(resources(of)),
        }),
    })
}

fn resources(of: &Pod) -> cri::LinuxContainerResources {
    let limits = qos::pod_limits(of, -1);
    cri::LinuxContainerResources {
        cpu_period: qos::PERIOD,
        cpu_quota: limits.quota.unwrap_or(0),
        cpu_shares: limits.shares,
        memory_limit_in_bytes: limits.memory.unwrap_or(0),
        ..Default::default()
    }
}

/// `host.subdomain.namespace.svc.domain` of a pod with a subdomain.
pub(crate) fn fqdn(of: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod::spec(of).subdomain.as_deref().filter(|s| !s.is_empty())?;
    Some(format!("{}.{subdomain}.{}.svc.{domain}", pod::hostname(of), pod::namespace(of)))
}

fn full_hostname(of: &Pod, domain: &str) -> String {
    let wanted = pod::spec(of).set_hostname_as_fqdn == Some(true);
    // The kernel's limit is 64 bytes; upstream refuses such a pod, the short name serves it.
    fqdn(of, domain).filter(|name| wanted && name.len() <= 64).unwrap_or_else(|| pod::hostname(of))
}

fn ports(of: &Pod) -> Vec<cri::PortMapping> {
    let mut out = Vec::new();
    for (_, c) in pod::ordered(of) {
        for port in c.ports.iter().flatten() {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            };
            out.push(cri::PortMapping {
                protocol: protocol as i32,
                container_port: port.container_port,
                host_port: if pod::is_host_network(of) { 0 } else { port.host_port.unwrap_or(0) },
                host_ip: port.host_ip.clone().unwrap_or_default(),
            });
        }
    }
    out
}

/// Limits of glibc and upstream on resolv.conf.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;

/// The pod's DNS by its dnsPolicy and dnsConfig; `host` is the text of the node's resolv.conf.
pub(crate) fn dns(of: &Pod, config: &Config, host: &str) -> cri::DnsConfig {
    let spec = pod::spec(of);
    let cluster = !config.cluster_dns.is_empty();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let mut dns = match policy {
        "None" => cri::DnsConfig::default(),
        "ClusterFirstWithHostNet" if cluster => cluster_dns(of, config, host),
        "ClusterFirst" if cluster && !pod::is_host_network(of) => cluster_dns(of, config, host),
        _ => parse_resolv_conf(host),
    };
    if let Some(extra) = &spec.dns_config {
        for server in extra.nameservers.iter().flatten() {
            push_new(&mut dns.servers, server);
        }
        for search in extra.searches.iter().flatten() {
            push_new(&mut dns.searches, search);
        }
        for option in extra.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options.push(match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.to_string(),
            });
        }
    }
    dns.servers.truncate(MOST_SERVERS);
    dns.searches.truncate(MOST_SEARCHES);
    dns
}

fn cluster_dns(of: &Pod, config: &Config, host: &str) -> cri::DnsConfig {
    let (namespace, domain) = (pod::namespace(of), &config.cluster_domain);
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    for search in parse_resolv_conf(host).searches {
        push_new(&mut searches, &search);
    }
    cri::DnsConfig {
        servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".into()],
    }
}

fn push_new(list: &mut Vec<String>, item: &str) {
    if !list.iter().any(|have| have == item) {
        list.push(item.to_string());
    }
}

fn parse_resolv_conf(text: &str) -> cri::DnsConfig {
    let mut dns = cri::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_string)),
            Some("search" | "domain") => dns.searches = words.map(str::to_string).collect(),
            Some("options") => dns.options = words.map(str::to_string).collect(),
            _ => {}
        }
    }
    dns
}

/// The text of /etc/hosts for the pod: loopback names, its own, and hostAliases.
pub(crate) fn etc_hosts(of: &Pod, ips: &[String], domain: &str) -> String {
    let mut text = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let host = pod::hostname(of);
    for ip in ips {
        match fqdn(of, domain) {
            Some(full) => text += &format!("{ip}\t{full}\t{host}\n"),
            None => text += &format!("{ip}\t{host}\n"),
        }
    }
    text + &aliases(of)
}

/// The lines of hostAliases; names with blanks or line breaks are left out.
pub(crate) fn aliases(of: &Pod) -> String {
    let mut text = String::new();
    let plain = |word: &&String| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
    for alias in pod::spec(of).host_aliases.iter().flatten().filter(|a| plain(&&a.ip)) {
        let names: Vec<_> = alias.hostnames.iter().flatten().filter(plain).map(String::as_str).collect();
        text += &format!("{}\t{}\n", alias.ip, names.join("\t"));
    }
    if text.is_empty() { text } else { format!("\n# Entries added by HostAliases.\n{text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const HOST: &str = "search lan\nnameserver 192.0.2.53\noptions rotate\n";

    fn dns_text(spec: serde_json::Value) -> String {
        let of: Pod = serde_json::from_value(json!({"metadata": {"namespace": "n"}, "spec": spec})).expect("pod");
        let config = Config { cluster_dns: vec!["10.0.0.10".parse().expect("ip")], ..Config::default() };
        let d = dns(&of, &config, HOST);
        format!("{} | {} | {}", d.servers.join(" "), d.searches.join(" "), d.options.join(" "))
    }

    #[test]
    fn dns_policies() {
        let cluster = "10.0.0.10 | n.svc.cluster.local svc.cluster.local cluster.local lan | ndots:5";
        assert_eq!(dns_text(json!({"containers": []})), cluster);
        assert_eq!(dns_text(json!({"containers": [], "hostNetwork": true})), "192.0.2.53 | lan | rotate");
        assert_eq!(
            dns_text(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"})),
            cluster
        );
        assert_eq!(dns_text(json!({"containers": [], "dnsPolicy": "Default"})), "192.0.2.53 | lan | rotate");
        assert_eq!(
            dns_text(
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}})
            ),
            "1.1.1.1 | x | ndots:2 edns0"
        );
    }

    #[test]
    fn hosts_file() {
        let of: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"containers": [],
            "subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b c", "d\n9.9.9.9 evil"]}]}}))
            .expect("pod");
        let text = etc_hosts(&of, &["10.0.0.2".into()], "cluster.local");
        assert!(
            text.ends_with("10.0.0.2\tp.sub.n.svc.cluster.local\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\n"),
            "{text}"
        );
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        let config = Config::default();
        let around = Surroundings { config: &config, cgroup: "/kubepods/podu".into(), resolv_conf: HOST };
        let made = |spec: serde_json::Value| {
            let of: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("pod");
            super::config(&of, 0, &around).map(drop).map_err(|why| why.to_string())
        };
        assert!(made(json!({"containers": [], "hostUsers": true})).is_ok());
        let table = [
            (json!({"containers": [], "hostUsers": false}), "hostUsers: false"),
            (json!({"containers": [], "resourceClaims": [{"name": "gpu"}]}), "resourceClaims"),
            (
                json!({"containers": [{"name": "a", "volumeDevices": [{"name": "d", "devicePath": "/dev/x"}]}]}),
                "volumeDevices",
            ),
        ];
        for (spec, what) in table {
            assert_eq!(made(spec), Err(format!("{what} is not supported by this node")));
        }
    }

    #[test]
    fn host_ports_and_names() {
        let of: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "hostname": "h", "containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080, "protocol": "UDP"}]}]}}))
        .expect("pod");
        let config = Config::default();
        let around = Surroundings { config: &config, cgroup: "/kubepods/podu".into(), resolv_conf: HOST };
        let made = super::config(&of, 2, &around).expect("a config");
        assert_eq!((made.hostname.as_str(), made.log_directory.as_str()), ("h", "/var/log/pods/n_p_u"));
        assert_eq!((made.port_mappings[0].host_port, made.port_mappings[0].protocol()), (8080, cri::Protocol::Udp));
        assert_eq!(made.metadata.expect("metadata").attempt, 2);
    }
}
