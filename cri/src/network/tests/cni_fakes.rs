//! Plugins that are shell scripts: the order of calls, what they are told, and everything that a plugin can do wrong.

use super::*;
use crate::error::Kind;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;

/// Notes the call and its input, then does what the file `<plugin>-<command>` says, else what a good plugin does.
const SCRIPT: &str = r#"#!/bin/sh
me=${0##*/}; at=DIR
cat > $at/told-$me-$CNI_COMMAND
echo "$CNI_COMMAND $me $CNI_CONTAINERID $CNI_IFNAME" >> $at/calls
env | grep ^CNI_ | sort > $at/env-$CNI_COMMAND
if [ -e $at/$me-$CNI_COMMAND ]; then . $at/$me-$CNI_COMMAND; fi
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]}' ;;
ADD) echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.5.0.9/24","interface":0}],"dns":{"domain":"'$me'"}}' ;;
esac
"#;

/// Two plugins, `one` and `two`, in a list of a version.
struct Fakes {
    house: Arc<House>,
    dir: PathBuf,
}

impl Fakes {
    fn new(house: &Arc<House>, version: &str, more: &str) -> Self {
        let dir = house.root.join("fakes");
        std::fs::create_dir_all(&dir).unwrap();
        for name in ["one", "two"] {
            let path = dir.join(name);
            std::fs::write(&path, SCRIPT.replace("DIR", dir.to_str().unwrap())).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let fakes = Self { house: house.clone(), dir };
        fakes.configure(
            "10-net.conflist",
            &format!(
                r#"{{"cniVersion":"{version}","name":"net",{more}"plugins":[{{"type":"one"}},{{"type":"two"}}]}}"#
            ),
        );
        fakes
    }

    fn configure(&self, file: &str, text: &str) {
        let path = self.house.root.join("net.d").join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// What a plugin does at a command instead.
    fn does(&self, at: &str, script: &str) {
        std::fs::write(self.dir.join(at), script).unwrap();
    }

    fn behaves(&self, at: &str) {
        std::fs::remove_file(self.dir.join(at)).unwrap();
    }

    async fn open(&self) -> Network {
        let mut config = self.house.config("10.99.0.0/24");
        config.settings =
            Settings { mode: Mode::Cni, bin_dirs: vec![self.dir.clone()], timeout_seconds: 2, ..config.settings };
        Network::open(config).await.unwrap()
    }

    /// The calls since the last time, without the pod's id.
    fn calls(&self) -> Vec<String> {
        let path = self.dir.join("calls");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    fn told(&self, what: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.dir.join(format!("told-{what}"))).unwrap()).unwrap()
    }

    /// Files of records, locks and the cache.
    fn kept(&self) -> Vec<String> {
        let mut all = Vec::new();
        for dir in ["records", "cache/results"] {
            for entry in std::fs::read_dir(self.house.root.join(dir)).into_iter().flatten().flatten() {
                all.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        all.sort();
        all
    }
}

#[test]
fn plugins_are_chained_and_undone_in_reverse() {
    house("chained", |house| async move {
        let fakes = Fakes::new(&house, "1.0.0", "");
        let network = fakes.open().await;
        let a = house.pod("a").await;
        let given = network.attach(wish("a", &a, &[])).await.unwrap();
        assert_eq!(given.ips, ["10.5.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(fakes.calls(), ["ADD one", "ADD two"]);
        assert_eq!(fakes.told("one-ADD").get("prevResult"), None);
        assert_eq!(fakes.told("two-ADD")["prevResult"]["dns"]["domain"], "one");
        let environment = std::fs::read_to_string(fakes.dir.join("env-ADD")).unwrap();
        for line in [
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=name-of-a;K8S_POD_INFRA_CONTAINER_ID=a;K8S_POD_UID=u-1",
            &format!("CNI_NETNS={}", a.display()),
            "CNI_IFNAME=eth0",
        ] {
            assert!(environment.lines().any(|said| said == line), "{line}: {environment}");
        }
        // libcni's own cache, to the letter.
        let cached = std::fs::read(house.root.join("cache/results/net-a-eth0")).unwrap();
        let cached: Value = serde_json::from_slice(&cached).unwrap();
        assert_eq!((&cached["kind"], &cached["containerId"]), (&"cniCacheV1".into(), &"a".into()));
        assert_eq!((&cached["ifName"], &cached["networkName"]), (&"eth0".into(), &"net".into()));
        assert_eq!(
            (&cached["result"]["dns"]["domain"], &cached["cniArgs"][0][0]),
            (&"two".into(), &"IgnoreUnknown".into())
        );
        assert!(cached["config"].as_str().unwrap().starts_with("ey"), "{cached}");
        // By a daemon that was started later.
        drop(network);
        let network = fakes.open().await;
        network.check("a").await.unwrap();
        assert_eq!(fakes.calls(), ["CHECK one", "CHECK two"]);
        assert_eq!(fakes.told("one-CHECK")["prevResult"]["dns"]["domain"], "two");
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        assert_eq!(fakes.calls(), ["DEL two", "DEL one"]);
        assert_eq!(fakes.told("one-DEL")["prevResult"]["dns"]["domain"], "two");
        assert_eq!(fakes.kept(), [""; 0]);
    });
}

#[test]
fn what_a_plugin_says_is_passed_on_and_undone() {
    house("refused", |house| async move {
        let fakes = Fakes::new(&house, "1.0.0", "");
        let network = fakes.open().await;
        let a = house.pod("a").await;
        for (script, kind, expected) in [
            (
                r#"echo trouble ahead >&2; echo '{"cniVersion":"1.0.0","code":11,"msg":"no lease yet","details":"dhcp"}'; exit 1"#,
                Kind::Unavailable,
                "no lease yet; dhcp (code 11: try again later); it said: trouble ahead",
            ),
            (r#"echo '{"code":110,"msg":"my own"}'; exit 1"#, Kind::Internal, "my own (code 110)"),
            ("echo oops >&2; exit 3", Kind::Internal, "exit status: 3, with no error message; it said: oops"),
            ("echo panic; exit 2", Kind::Internal, "exit status: 2, and no error message but \"panic\""),
            ("kill -9 $$", Kind::Internal, "signal: 9 (SIGKILL), with no error message"),
            ("echo nonsense; exit 0", Kind::Internal, "its result is no JSON"),
            ("exit 0", Kind::Internal, "its result is no JSON"),
            (r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"x"}]}'; exit 0"#, Kind::Internal, "which is none"),
            (r#"echo '{"cniVersion":"1.0.0"}'; exit 0"#, Kind::Internal, "network net gave eth0 no address"),
            ("yes", Kind::Internal, "it said more than 1048576 bytes"),
            ("sleep 60", Kind::Timeout, "no answer in 2 s, killed"),
        ] {
            fakes.does("two-ADD", script);
            let why = network.attach(wish("a", &a, &[])).await.unwrap_err();
            assert!(why.to_string().contains(expected), "{script}: {why}");
            let named = why.to_string().contains("plugin type=\"two\" name=\"net\" failed (add)");
            assert!(named || expected.contains("no address"), "{why}");
            assert_eq!(why.kind(), kind, "{script}");
            assert_eq!(fakes.calls(), ["ADD one", "ADD two", "DEL two", "DEL one"], "{script}");
            assert_eq!(fakes.kept(), [""; 0], "{script}");
        }
        // A flood on standard error costs nothing and breaks nothing.
        fakes.does("two-ADD", "head -c 5000000 /dev/zero >&2");
        network.attach(wish("a", &a, &[])).await.unwrap();
        // A child that keeps the pipes open is not waited for.
        fakes.does("two-DEL", "sleep 60 & echo $! > $at/child");
        network.detach("a").await.unwrap();
        let child = std::fs::read_to_string(fakes.dir.join("child")).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
    });
}

#[test]
fn a_del_that_fails_is_repeated_and_nothing_is_forgotten() {
    house("repeated", |house| async move {
        let fakes = Fakes::new(&house, "1.0.0", "");
        let network = fakes.open().await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        fakes.calls();
        fakes.does("two-DEL", "exit 1");
        let why = network.detach("a").await.unwrap_err().to_string();
        assert!(why.contains("plugin type=\"two\" name=\"net\" failed (delete)"), "{why}");
        // The others had their turn all the same.
        assert_eq!(fakes.calls(), ["DEL two", "DEL one"]);
        assert_eq!(network.status().await.used, 1);
        drop(network);
        let network = fakes.open().await;
        network.reconcile(&HashSet::new()).await.unwrap_err();
        fakes.behaves("two-DEL");
        network.reconcile(&HashSet::new()).await.unwrap();
        assert_eq!(fakes.kept(), [""; 0]);
        // And one whose ADD fails and cannot be undone is on record until it can.
        fakes.does("two-ADD", "exit 1");
        fakes.does("one-DEL", "exit 1");
        let why = network.attach(wish("a", &a, &[])).await.unwrap_err().to_string();
        assert!(why.contains("failed (add)") && why.contains("failed (delete)"), "{why}");
        assert_eq!(network.attachment("a"), None);
        fakes.behaves("one-DEL");
        fakes.behaves("two-ADD");
        // The next attach undoes it first.
        fakes.calls();
        network.attach(wish("a", &a, &[])).await.unwrap();
        assert_eq!(fakes.calls(), ["DEL two", "DEL one", "ADD one", "ADD two"]);
        network.detach("a").await.unwrap();
        assert_eq!(fakes.kept(), [""; 0]);
    });
}

#[test]
fn gc_and_status_are_of_version_1_1_and_can_be_switched_off() {
    house("gc", |house| async move {
        let fakes = Fakes::new(&house, "1.1.0", "");
        let network = fakes.open().await;
        let (a, b) = (house.pod("a").await, house.pod("b").await);
        network.attach(wish("a", &a, &[])).await.unwrap();
        network.attach(wish("b", &b, &[])).await.unwrap();
        fakes.calls();
        network.reconcile(&HashSet::from(["a".to_owned()])).await.unwrap();
        assert_eq!(fakes.calls(), ["DEL two", "DEL one", "GC one", "GC two"]);
        let valid = serde_json::json!([{ "containerID": "a", "ifname": "eth0" }]);
        assert_eq!(fakes.told("two-GC")["cni.dev/valid-attachments"], valid);
        assert!(network.status().await.ready);
        // VERSION is asked once.
        assert_eq!(fakes.calls(), ["VERSION one", "STATUS one", "VERSION two", "STATUS two"]);
        fakes.does("two-STATUS", r#"echo '{"code":50,"msg":"no daemon"}'; exit 1"#);
        let status = network.status().await;
        assert!(!status.ready);
        assert!(status.message.starts_with("Network plugin returns error: plugin type=\"two\""), "{}", status.message);
        assert!(status.message.contains("no daemon (code 50: the plugin is not available)"), "{}", status.message);
        assert_eq!(fakes.calls(), ["STATUS one", "STATUS two"]);

        let off = r#""disableGC":true,"disableCheck":true,"#;
        Fakes::new(&house, "1.1.0", off);
        network.attach(wish("b", &b, &[])).await.unwrap();
        fakes.calls();
        network.reconcile(&HashSet::from(["a".to_owned(), "b".to_owned()])).await.unwrap();
        network.check("b").await.unwrap();
        assert_eq!(fakes.calls(), [""; 0]);
        Fakes::new(&house, "0.3.1", "");
        network.detach("b").await.unwrap();
        network.attach(wish("b", &b, &[])).await.unwrap();
        fakes.calls();
        network.reconcile(&HashSet::from(["a".to_owned(), "b".to_owned()])).await.unwrap();
        network.check("b").await.unwrap();
        network.detach("b").await.unwrap();
        assert_eq!(fakes.calls(), ["DEL two", "DEL one"]);
        // Before 0.4.0 DEL is told no result.
        assert_eq!(fakes.told("one-DEL").get("prevResult"), None);
        network.detach("a").await.unwrap();
    });
}

#[test]
fn without_a_valid_configuration_the_node_says_why() {
    house("unready", |house| async move {
        let fakes = Fakes::new(&house, "1.0.0", "");
        std::fs::remove_dir_all(house.root.join("net.d")).unwrap();
        let network = fakes.open().await;
        let status = network.status().await;
        let dir = house.root.join("net.d");
        let missing = format!("cni plugin not initialized: no network configuration in {}", dir.display());
        assert_eq!((status.ready, status.message), (false, format!("Network plugin returns error: {missing}")));
        let a = house.pod("a").await;
        let why = network.attach(wish("a", &a, &[])).await.unwrap_err();
        assert_eq!((why.kind(), why.to_string()), (Kind::Unavailable, missing));
        // Whatever is not a configuration is named; a pipe is not waited for.
        std::fs::create_dir_all(&dir).unwrap();
        nix::unistd::mkfifo(&dir.join("05-pipe.conf"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fakes.configure("06-large.json", &" ".repeat((1 << 20) + 1));
        fakes.configure("07-wrong.conflist", "{");
        fakes.configure("08-other.txt", "{}");
        let said = network.status().await.message;
        for part in [
            "no valid network configuration in",
            "05-pipe.conf: is no regular file",
            "is larger than 1 MiB",
            "is no JSON",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // The first valid one counts, from the next use on.
        fakes.configure("20-b.conf", r#"{"name":"b","cniVersion":"1.0.0","type":"one"}"#);
        assert!(network.status().await.ready);
        fakes.configure("10-a.conf", r#"{"name":"a","cniVersion":"1.0.0","type":"absent"}"#);
        let said = network.status().await.message;
        assert!(said.contains("failed to find plugin \"absent\" in path ["), "{said}");
        fakes.configure("10-a.conf", r#"{"name":"a","cniVersion":"0.2.0","type":"one"}"#);
        let said = network.status().await.message;
        assert!(said.contains("plugin \"one\" does not speak CNI 0.2.0"), "{said}");
        let info: HashMap<String, String> = network.info().into_iter().collect();
        let shown: Value = serde_json::from_str(&info["cniconfig"]).unwrap();
        assert_eq!(shown["Networks"][0]["Config"]["Name"], "a");
        assert_eq!(info["lastCNILoadStatus"], "OK");
    });
}

#[test]
fn plugins_of_files_of_their_own_are_appended_unless_only_the_inlined_count() {
    house("inlined", |house| async move {
        let fakes = Fakes::new(&house, "1.0.0", "");
        fakes.configure("net/30-more.conf", r#"{"type":"one","more":true}"#);
        let network = fakes.open().await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        assert_eq!(fakes.calls(), ["ADD one", "ADD two", "ADD one"]);
        // Gone from the directory, and undone all the same.
        std::fs::remove_dir_all(house.root.join("net.d/net")).unwrap();
        network.detach("a").await.unwrap();
        assert_eq!(fakes.calls(), ["DEL one", "DEL two", "DEL one"]);
        fakes.configure("net/30-more.conf", r#"{"type":"one","more":true}"#);
        Fakes::new(&house, "1.0.0", r#""loadOnlyInlinedPlugins":true,"#);
        network.attach(wish("a", &a, &[])).await.unwrap();
        assert_eq!(fakes.calls(), ["ADD one", "ADD two"]);
        network.detach("a").await.unwrap();
    });
}

#[test]
fn a_plugin_that_a_killed_daemon_left_is_waited_for() {
    house("orphan", |house| async move {
        let fakes = Fakes::new(&house, "1.0.0", "");
        let network = fakes.open().await;
        let a = house.pod("a").await;
        network.attach(wish("a", &a, &[])).await.unwrap();
        fakes.calls();
        // As a daemon leaves it: a program that still has the locked file as its input.
        let path = house.root.join("records/a.lock");
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        file.lock().unwrap();
        let script = format!("sleep 0.5; echo orphan ends >> {}/calls", fakes.dir.display());
        let mut orphan = std::process::Command::new("sh").arg("-c").arg(script).stdin(file).spawn().unwrap();
        network.detach("a").await.unwrap();
        orphan.wait().unwrap();
        assert_eq!(fakes.calls(), ["orphan ends", "DEL two", "DEL one"]);
    });
}

#[test]
fn a_callers_death_ends_no_attach_and_a_detach_waits_for_it() {
    house("dropped", |house| async move {
        let fakes = Fakes::new(&house, "1.0.0", "");
        fakes.does("two-ADD", "sleep 0.3");
        let network = fakes.open().await;
        let a = house.pod("a").await;
        let caller = tokio::spawn({
            let network = network.clone();
            async move { network.attach(wish("a", &a, &[])).await }
        });
        while fakes.kept().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        caller.abort();
        network.detach("a").await.unwrap();
        assert_eq!(fakes.calls(), ["ADD one", "ADD two", "DEL two", "DEL one"]);
        assert_eq!(fakes.kept(), [""; 0]);
    });
}
