//! Any text as `config.json`: read, checked, planned and printed; refused or not, never a panic, a hang or a plan that is
//! many times larger than the text.

#![no_main]

use std::path::Path;

use gantry_runtime::cgroup::{devices, resources};
use gantry_runtime::plan::{self, CgroupMount, Filter, Host, Wishes};
use gantry_runtime::{seccomp, spec};
use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::{Process, Spec};

fn host() -> Host {
    let tree = |mount: &str, v2| CgroupMount { mount: mount.into(), own: format!("{mount}/box/web").into(), v2 };
    Host {
        cgroups: vec![tree("/sys/fs/cgroup/cpu,cpuacct", false), tree("/sys/fs/cgroup/unified", true)],
        permitted: u64::MAX >> 23,
        ..Host::default()
    }
}

fn wishes() -> Wishes {
    Wishes { wait: true, preserve_fds: 2, ..Wishes::default() }
}

fuzz_target!(|text: &str| {
    if let Ok(process) = spec::parse::<Process>(text)
        && spec::check_process(&process, "").is_ok()
    {
        let _ = plan::exec(&process, plan::Inside::default(), &host(), None, wishes());
    }
    let Ok(spec) = spec::parse::<Spec>(text) else { return };
    if spec::check(&spec).is_err() {
        return;
    }
    let linux = spec.linux().as_ref();
    let mut filter = None;
    if let Some(profile) = linux.and_then(|linux| linux.seccomp().as_ref()) {
        // The order of `create`: a profile that cannot be compiled ends it.
        let Ok(compiled) = seccomp::compile(profile) else { return };
        filter = Some(Filter { program: compiled.program, flags: compiled.flags, ..Filter::default() });
    }
    if let Some(wanted) = linux.and_then(|linux| linux.resources().as_ref()) {
        for version in [gantry_runtime::cgroup::Version::V1, gantry_runtime::cgroup::Version::V2] {
            let _ = resources::decide(wanted, |_| Some(version));
        }
        let _ = resources::unified(wanted);
        if let Ok(rules) = devices::rules(Some(wanted)) {
            let _ = gantry_runtime::cgroup::device_program::assemble(&rules);
        }
    }
    let Ok(plan) = plan::create(&spec, Path::new("/bundle"), &host(), filter, wishes()) else { return };
    let printed = plan.to_string();
    assert!(printed.len() < 64 * text.len() + (64 << 10), "{} bytes of plan for {} of text", printed.len(), text.len());
});
