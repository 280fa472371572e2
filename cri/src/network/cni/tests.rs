//! Golden texts: configurations, results of every version, and what plugins are told.

use super::super::{Dns, PortMapping, Protocol, Wish};
use super::list::{parse_list, parse_single};
use super::request::{self, Target, Valid, Verb};
use super::result::{Outcome, Refusal};
use super::version::Version;
use crate::error::Kind;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

fn said(parsed: crate::Result<super::list::List>) -> String {
    match parsed.and_then(super::list::List::complete) {
        Ok(list) => {
            let plugin = |p: &super::list::Plugin| format!(" {}{:?}", p.kind, p.capabilities);
            let flags = [(list.disable_check, " -check"), (list.disable_gc, " -gc"), (list.inlined_only, " inlined")];
            let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
            format!("{} {}{flags}:{}", list.name, list.version, list.plugins.iter().map(plugin).collect::<String>())
        }
        Err(why) => why.to_string(),
    }
}

#[test]
fn lists_are_read_as_libcni_reads_them() {
    let plugins =
        r#""plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true,"snat":false}}]"#;
    for (text, expected) in [
        ("{N,P}", "net 0.1.0: bridge{} portmap{\"portMappings\"}"),
        ("{N,\"cniVersion\":\"0.4.0\",P}", "net 0.4.0: bridge{} portmap{\"portMappings\"}"),
        ("{N,\"cniVersions\":[\"0.4.0\",\"1.0.0\",\"2.0.0\"],P}", "net 1.0.0: bridge{} portmap{\"portMappings\"}"),
        ("{N,\"cniVersion\":\"1.1.0\",\"cniVersions\":[\"0.4.0\"],P}", "net 1.1.0: bridge{} portmap{\"portMappings\"}"),
        (
            "{N,\"disableCheck\":true,\"disableGC\":\"True\",\"loadOnlyInlinedPlugins\":true,P}",
            "net 0.1.0 -check -gc inlined: bridge{} portmap{\"portMappings\"}",
        ),
        ("{P}", "name: is missing"),
        ("{\"name\":\"../x\",P}", "name \"../x\": must be letters, digits, and after the first also '_', '.' and '-'"),
        ("{N,\"plugins\":[]}", "plugins: is empty"),
        ("{N}", "network net: no plugins found"),
        ("{N,\"loadOnlyInlinedPlugins\":true}", "loadOnlyInlinedPlugins is set and there are no plugins"),
        ("{N,\"plugins\":[{}]}", "plugins[0]: type: is missing"),
        (
            "{N,\"plugins\":[{\"type\":\"../sh\"}]}",
            "plugins[0]: type \"../sh\": is a path; it must be the name of a program in the plugins' directories",
        ),
        ("{N,\"cniVersion\":\"9.0.0\",P}", "CNI version \"9.0.0\" is not spoken; the newest that is: 1.1.0"),
        ("{N,\"cniVersion\":1,P}", "cniVersion, cniVersions: are no strings"),
        ("{N,\"cniVersions\":[\"2.0.0\"],P}", "cniVersions: none of them is spoken"),
        ("{N,\"disableGC\":\"perhaps\",P}", "disableGC: is neither true nor false"),
        ("[]", "is no JSON object"),
    ] {
        let text = text.replace("{N", "{\"name\":\"net\"").replace("P}", &format!("{plugins}}}"));
        assert_eq!(said(parse_list(text.as_bytes())), expected, "{text}");
    }
}

#[test]
fn a_single_plugin_is_a_list_of_one() {
    let text = br#"{"name":"a","cniVersion":"0.3.1","type":"ptp","capabilities":{"dns":true}}"#;
    let list = parse_single(text).unwrap();
    assert_eq!(said(Ok(list.clone())), "a 0.3.1 inlined: ptp{\"dns\"}");
    // What is recorded says the same again.
    assert_eq!(parse_list(list.to_value().to_string().as_bytes()).unwrap(), list);
    assert!(said(parse_single(br#"{"name":"a","plugins":[]}"#)).contains("must end in .conflist"));
    assert!(said(parse_single(b"{")).contains("is no JSON"));
}

const V02: &str = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.5/16","gateway":"10.1.0.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::5/64","routes":[{"dst":"::/0"}]},"dns":{"nameservers":["10.1.0.1"]}}"#;
const V04: &str = r#"{"cniVersion":"0.4.0","interfaces":[{"name":"br0"},{"name":"eth0","mac":"0a:00:00:00:00:05","sandbox":"/ns"}],"ips":[{"version":"6","address":"fd00::5/64","interface":1},{"version":"4","address":"10.1.0.5/16","gateway":"10.1.0.1","interface":1},{"version":"4","address":"10.1.0.1/16","interface":0}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#;

fn outcome(text: &str) -> Outcome {
    Outcome::parse(serde_json::from_str(text).unwrap(), Version::V1_0).unwrap()
}

#[test]
fn results_of_every_version_say_the_same() {
    let old = outcome(V02);
    assert_eq!(old.addresses("eth0"), ["10.1.0.5".parse::<std::net::IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
    let mut first: Value = V02.parse().unwrap();
    first["cniVersion"] = "0.1.0".into();
    assert_eq!(old.in_version(Version::FIRST), first);
    assert_eq!(
        old.in_version(Version::V0_4),
        json!({
            "cniVersion": "0.4.0",
            "ips": [
                { "version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1" },
                { "version": "6", "address": "fd00::5/64" },
            ],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            "dns": { "nameservers": ["10.1.0.1"] },
        })
    );
    let new = outcome(V04);
    // Those of the pod alone, IPv4 first; the bridge's own is not the pod's.
    assert_eq!(new.addresses("eth0"), old.addresses("eth0"));
    assert_eq!(new.addresses("eth7"), [""; 0].map(|_| new.gateway().unwrap()));
    assert_eq!(
        (new.mac("eth0").as_str(), new.gateway().unwrap().to_string().as_str()),
        ("0a:00:00:00:00:05", "10.1.0.1")
    );
    let newest = new.in_version(Version::NEWEST);
    assert_eq!(newest["ips"][0], json!({ "address": "fd00::5/64", "interface": 1 }));
    assert_eq!(outcome(&newest.to_string()).in_version(Version::V0_4)["ips"], new.in_version(Version::V0_4)["ips"]);
    assert_eq!(new.in_version(Version::FIRST)["ip4"]["ip"], "10.1.0.5/16");
}

#[test]
fn a_result_keeps_what_we_do_not_know_in_its_own_version() {
    let text =
        r#"{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/ns","mtu":9000}],"ips":[],"x":{"y":1}}"#;
    let outcome = outcome(text);
    assert_eq!(outcome.in_version(Version::NEWEST), text.parse::<Value>().unwrap());
    assert_eq!(outcome.in_version(Version::V1_0)["interfaces"][0]["mtu"], 9000);
    // Without a version it is the configuration's.
    let bare = Outcome::parse(json!({ "ips": [{ "address": "10.0.0.2/8" }] }), Version::V1_0).unwrap();
    assert_eq!(bare.in_version(Version::V1_0)["cniVersion"], "1.0.0");
    assert_eq!(bare.addresses("eth0").len(), 1);
}

#[test]
fn results_that_are_none_are_refused() {
    for (text, why) in [
        ("[]", "no JSON object"),
        (r#"{"cniVersion":"7.0.0"}"#, "is not spoken"),
        (r#"{"cniVersion":7}"#, "is no string"),
        (r#"{"cniVersion":"1.0.0","ips":{}}"#, "ips are no array"),
        (r#"{"cniVersion":"1.0.0","ips":["10.0.0.1/8"]}"#, "is no object"),
        (r#"{"cniVersion":"1.0.0","ips":[{"address":"ten"}]}"#, "\"ten\", which is none"),
        (r#"{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8","interface":0}]}"#, "does not list"),
        (r#"{"cniVersion":"0.2.0","ip4":[]}"#, "ip4 is no object"),
    ] {
        let said = Outcome::parse(serde_json::from_str(text).unwrap(), Version::V1_0).unwrap_err().to_string();
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn errors_of_plugins_are_read() {
    let refusal = Refusal::parse(br#"{"cniVersion":"1.0.0","code":11,"msg":"wait","details":"for dhcp\n"}"#).unwrap();
    assert_eq!((refusal.code, refusal.text.as_str(), refusal.kind()), (11, "wait; for dhcp", Kind::Unavailable));
    assert_eq!(Refusal::parse(br#"{"code":100,"msg":"no"}"#).unwrap().kind(), Kind::Internal);
    for none in [&b""[..], b"panic", b"{}", br#"{"code":"7"}"#] {
        assert_eq!(Refusal::parse(none), None);
    }
}

fn wish() -> Wish {
    let annotations = [("kubernetes.io/ingress-bandwidth", "1M"), ("other", "x")];
    Wish {
        pod: "abc".into(),
        netns: "/run/netns/abc".into(),
        ports: vec![PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port: 5353,
            host_ip: Some("fd00::1".parse().unwrap()),
        }],
        namespace: "default".into(),
        name: "web".into(),
        uid: "u-1".into(),
        dns: Dns { servers: vec!["10.0.0.10".into()], ..Dns::default() },
        annotations: annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        cgroup: "/kubepods/podx".into(),
    }
}

#[test]
fn a_plugin_is_told_what_it_declares_and_nothing_else() {
    let text = r#"{"name":"net","cniVersion":"1.0.0","plugins":[
        {"type":"a","capabilities":{"portMappings":true,"bandwidth":true},"runtimeConfig":{"mac":"evil"},"prevResult":{}},
        {"type":"b","capabilities":{"dns":true,"ipRanges":true,"aliases":true,"cgroupPath":true,"mac":true}},
        {"type":"c","capabilities":{"io.kubernetes.cri.pod-annotations":true}}]}"#;
    let list = parse_list(text.as_bytes()).unwrap();
    let wish = wish();
    let target = Target {
        pod: wish.pod.clone(),
        device: "eth0".into(),
        netns: wish.netns.clone(),
        args: request::arguments(&wish).unwrap(),
        capabilities: request::capabilities(&wish, &["10.3.0.0/24".into()]).unwrap(),
    };
    let told = |at: usize, previous| request::input(&list, &list.plugins[at], previous, &target);
    let first = told(0, None);
    assert_eq!(
        first["runtimeConfig"],
        json!({
            "portMappings": [{ "hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "fd00::1" }],
            "bandwidth": { "ingressRate": 1_000_000, "ingressBurst": u32::MAX },
        })
    );
    assert_eq!((&first["name"], &first["cniVersion"], first.get("prevResult")), (&json!("net"), &json!("1.0.0"), None));
    assert_eq!(
        told(1, None)["runtimeConfig"],
        json!({
            "dns": { "servers": ["10.0.0.10"], "searches": [], "options": [] },
            "ipRanges": [[{ "subnet": "10.3.0.0/24" }]],
            "aliases": ["web"],
            "cgroupPath": "/kubepods/podx",
        })
    );
    let third = told(2, Some(&outcome(V04)));
    assert_eq!(third["runtimeConfig"]["io.kubernetes.cri.pod-annotations"]["other"], "x");
    assert_eq!(third["prevResult"]["cniVersion"], "1.0.0");
    assert_eq!(third["prevResult"]["ips"][0], json!({ "address": "fd00::5/64", "interface": 1 }));

    let environment = |gone| request::environment(Verb::Add, Some(&target), &["/a".into(), PathBuf::from("/b")], gone);
    assert_eq!(
        environment(false),
        [
            ("CNI_COMMAND", "ADD".to_owned()),
            ("CNI_CONTAINERID", "abc".to_owned()),
            ("CNI_NETNS", "/run/netns/abc".to_owned()),
            ("CNI_IFNAME", "eth0".to_owned()),
            (
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"
                    .to_owned()
            ),
            ("CNI_PATH", "/a:/b".to_owned()),
        ]
    );
    assert_eq!(environment(true)[2], ("CNI_NETNS", String::new()));
    let valid = [Valid { pod: "abc".into(), device: "eth0".into() }];
    let gc = request::input_of_network(&list, &list.plugins[0], Some(&valid));
    assert_eq!(gc["cni.dev/valid-attachments"], json!([{ "containerID": "abc", "ifname": "eth0" }]));
    assert_eq!(gc.get("runtimeConfig"), None);
}

#[test]
fn a_pods_name_sets_no_further_argument_and_its_bandwidth_is_a_rate() {
    for name in ["web;K8S_POD_NAMESPACE=kube-system", "a=b", "a\nb"] {
        let why = request::arguments(&Wish { name: name.into(), ..wish() }).unwrap_err();
        assert_eq!(why.kind(), Kind::Invalid);
    }
    for rate in ["fast", "-1", "1", "10000P"] {
        let annotations = HashMap::from([("kubernetes.io/egress-bandwidth".to_owned(), rate.to_owned())]);
        let why = request::capabilities(&Wish { annotations, ..wish() }, &[]).unwrap_err();
        assert!(why.to_string().contains("egress-bandwidth"), "{why}");
    }
}
