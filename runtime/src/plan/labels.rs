//! DECIDE: labels of Linux security modules: AppArmor profiles and SELinux contexts.
//!
//! runtime-spec, config.md, "Process": `apparmorProfile`, `selinuxLabel`; config-linux.md: `mountLabel`. Each is written
//! to a file of the process' own directory in the parent's verified procfs, by descriptor and without a link followed
//! (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881): never through a `/proc` of the container.

use std::ffi::CString;

use oci_spec::runtime::{Linux, Process};

use super::step::{Step, What};
use super::{Host, c_string};
use crate::error::{Error, Kind, Result};

/// What the process is to be from its next exec on.
pub(super) fn decide(process: &Process, host: &Host) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    if let Some(label) = selinux(process, host)? {
        steps.push(Step::Label(c"thread-self/attr/exec", label));
    }
    match given(process.apparmor_profile().as_ref()) {
        Some(profile) if host.labels.apparmor => {
            steps.push(Step::Label(c"thread-self/attr/apparmor/exec", c_string(&format!("exec {profile}"))?));
        }
        // Without AppArmor everything is.
        None | Some("unconfined") => {}
        Some(profile) => {
            let what =
                format!("process.apparmorProfile: {profile:?} cannot be had: AppArmor is not enabled in this kernel");
            return Err(Error::new(Kind::Unsupported, what));
        }
    }
    Ok(steps)
}

/// The label that keyrings get which the process makes, before it makes one.
pub(super) fn keyring(process: &Process, host: &Host) -> Result<Option<Step>> {
    Ok(selinux(process, host)?.map(|label| Step::Label(c"thread-self/attr/keycreate", label)))
}

fn selinux(process: &Process, host: &Host) -> Result<Option<CString>> {
    label(process.selinux_label().as_ref(), "process.selinuxLabel", host)
}

/// `linux.mountLabel`: the context of every file system that is made for the container.
pub(super) fn mount(linux: Option<&Linux>, host: &Host) -> Result<Option<CString>> {
    label(linux.and_then(|linux| linux.mount_label().as_ref()), "linux.mountLabel", host)
}

/// Gives the file systems that these steps make their context, as runc does: by an option; a message queue's by its
/// attribute, since it has no such option; procfs, sysfs and cgroups have their own.
pub(super) fn file_systems(steps: &mut Vec<Step>, from: usize, label: &CString) {
    let mut after = Vec::new();
    for step in &mut steps[from..] {
        let Step::Mount(mount) = step else { continue };
        let What::New { kind, source, options, .. } = &mut mount.what else { continue };
        match kind.to_bytes() {
            b"proc" | b"sysfs" | b"cgroup2" => {}
            b"mqueue" => after.push(Step::FileLabel(mount.to.clone(), label.clone())),
            _ if source.as_c_str() == c"cgroup" => {}
            _ => options.push((c"context".into(), Some(label.clone()))),
        }
    }
    steps.append(&mut after);
}

fn label(label: Option<&String>, at: &str, host: &Host) -> Result<Option<CString>> {
    match given(label) {
        None => Ok(None),
        Some(label) if host.labels.selinux => c_string(label).map(Some),
        Some(label) => {
            let what = format!("{at}: {label:?} cannot be had: SELinux is not enabled in this kernel");
            Err(Error::new(Kind::Unsupported, what))
        }
    }
}

fn given(text: Option<&String>) -> Option<&str> {
    text.map(String::as_str).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::Labels;
    use super::*;
    use crate::spec::parse;

    fn process(fields: &str) -> Process {
        parse(&format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/"{fields}}}"#)).unwrap()
    }

    fn said(fields: &str, labels: Labels) -> String {
        let (process, host) = (process(fields), Host { labels, ..Host::default() });
        let steps = keyring(&process, &host).and_then(|first| Ok(first.into_iter().chain(decide(&process, &host)?)));
        match steps {
            Ok(steps) => steps.map(|step| format!("{step}\n")).collect(),
            Err(why) => why.to_string(),
        }
    }

    const BOTH: Labels = Labels { apparmor: true, selinux: true };
    const NONE: Labels = Labels { apparmor: false, selinux: false };

    #[test]
    fn labels_go_into_the_files_of_the_process() {
        let label = "system_u:system_r:container_t:s0:c1,c2";
        assert_eq!(
            said(&format!(r#","selinuxLabel":"{label}","apparmorProfile":"web""#), BOTH),
            format!(
                "write {label} to thread-self/attr/keycreate\n\
                 write {label} to thread-self/attr/exec\n\
                 write exec web to thread-self/attr/apparmor/exec\n"
            )
        );
    }

    #[test]
    fn what_is_empty_or_unconfined_asks_for_nothing_where_there_is_nothing() {
        assert_eq!(said(r#","selinuxLabel":"","apparmorProfile":"unconfined""#, NONE), "");
        assert_eq!(
            said(r#","apparmorProfile":"unconfined""#, BOTH),
            "write exec unconfined to thread-self/attr/apparmor/exec\n"
        );
        assert_eq!(said("", BOTH), "");
    }

    #[test]
    fn file_systems_that_are_made_get_their_context() {
        let text = crate::spec::TEMPLATE.replace("\"linux\": {", "\"linux\": {\"mountLabel\":\"a:b:c\",");
        let spec: oci_spec::runtime::Spec = parse(&text).unwrap();
        let host = Host { labels: BOTH, ..Host::default() };
        let bundle = std::path::Path::new("/bundle");
        let plan =
            super::super::create(&spec, bundle, &host, None, super::super::Wishes::default()).unwrap().to_string();
        let labelled: Vec<&str> = plan.lines().filter(|line| line.contains("a:b:c")).collect();
        assert_eq!(
            labelled,
            [
                "mount tmpfs on /dev mode=755 size=65536k context=a:b:c set +22 -70",
                "mount devpts on /dev/pts newinstance ptmxmode=0666 mode=0620 gid=5 context=a:b:c set +a -0",
                "mount tmpfs on /dev/shm mode=1777 size=65536k context=a:b:c set +e -0",
                "label /dev/mqueue a:b:c",
            ]
        );
    }

    #[test]
    fn a_kernel_without_them_is_a_sentence_with_the_path() {
        assert_eq!(
            said(r#","apparmorProfile":"web""#, NONE),
            "process.apparmorProfile: \"web\" cannot be had: AppArmor is not enabled in this kernel"
        );
        assert_eq!(
            said(r#","selinuxLabel":"a:b:c""#, NONE),
            "process.selinuxLabel: \"a:b:c\" cannot be had: SELinux is not enabled in this kernel"
        );
        let linux: Linux = parse(r#"{"mountLabel":"a:b:c"}"#).unwrap();
        let why = mount(Some(&linux), &Host::default()).unwrap_err();
        assert_eq!(why.kind(), Kind::Unsupported);
        assert!(why.to_string().starts_with("linux.mountLabel: "), "{why}");
    }
}
