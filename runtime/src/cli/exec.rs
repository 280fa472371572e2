//! exec: the process out of flags or a file, run in a container.

use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process};

use super::lifecycle::preserved;
use super::parse::Call;
use super::{log, relay};
use crate::cgroup::Below;
use crate::create::{Options, Stdio};
use crate::error::{Error, Kind, Result};
use crate::exec::{self, ExecRequest, Opened};
use crate::sys::Solo;
use crate::{seal, spec};

pub(super) fn exec(call: &Call) -> Result<i32> {
    let alone = Solo::prove()?;
    seal::protect(&alone)?;
    let root = call.root();
    let preserve_fds = preserved(call)?;
    let (process, opened) = match call.path("process") {
        Some(path) => (spec::load_process(path)?, None),
        None => {
            let opened = Opened::new(&root, call.id()?)?;
            (from_flags(call, opened.process().clone())?, Some(opened))
        }
    };
    let (terminal, detach) = (process.terminal().unwrap_or(false), call.has("detach"));
    if terminal && detach && !call.has("console-socket") {
        let what = "--tty: a detached process needs --console-socket for its terminal";
        return Err(Error::new(Kind::Invalid, what));
    }
    if call.has("console-socket") && !(terminal && detach) {
        return Err(Error::new(Kind::Invalid, "--console-socket: only for a detached terminal"));
    }
    let below = match call.texts("cgroup")?.as_slice() {
        [] => None,
        texts => Some(Below::parse(texts)?),
    };
    let signals = if detach { None } else { Some(relay::Signals::take()?) };
    let request = ExecRequest {
        root: &root,
        id: call.id()?,
        process: &process,
        stdio: call.path("console-socket").map_or(Stdio::Inherit, Stdio::ConsoleSocket),
        preserve_fds,
        pid_file: call.path("pid-file"),
        pidfd_socket: call.path("pidfd-socket"),
        below: below.as_ref(),
        options: Options {
            no_new_keyring: call.has("no-new-keyring"),
            ignore_paused: call.has("ignore-paused"),
            ..Options::default()
        },
    };
    let mut made = match opened {
        Some(opened) => exec::exec_in(&opened, &request, &alone)?,
        None => exec::exec(&request, &alone)?,
    };
    log::warnings(call, &made.warnings);
    match signals {
        Some(signals) => relay::until_exit(&signals, made.pidfd, made.console.take()),
        None => Ok(0),
    }
}

/// The container's own process with what the flags change.
fn from_flags(call: &Call, mut process: Process) -> Result<Process> {
    let args: Vec<String> = call.rest()?.into_iter().map(str::to_owned).collect();
    if args.is_empty() {
        return Err(Error::new(Kind::Invalid, "exec: a program or --process is needed"));
    }
    process.set_args(Some(args)).set_terminal(Some(call.has("tty"))).set_console_size(None);
    if let Some(cwd) = call.path("cwd") {
        process.set_cwd(cwd.to_owned());
    }
    let mut env = process.env().clone().unwrap_or_default();
    for pair in call.texts("env")? {
        let name = pair.split('=').next().unwrap_or(pair);
        env.retain(|old| old.split('=').next() != Some(name));
        env.push(pair.to_owned());
    }
    process.set_env(Some(env));
    if let Some(on) = call.switch("no-new-privs") {
        process.set_no_new_privileges(Some(on));
    }
    if let Some(profile) = call.text("apparmor")? {
        process.set_apparmor_profile(Some(profile.to_owned()));
    }
    if let Some(label) = call.text("process-label")? {
        process.set_selinux_label(Some(label.to_owned()));
    }
    if let Some(user) = call.texts("user")?.last() {
        let (uid, gid) = ids(user)?;
        let mut wanted = process.user().clone();
        wanted.set_uid(uid);
        if let Some(gid) = gid {
            wanted.set_gid(gid);
        }
        process.set_user(wanted);
    }
    let gids: Vec<u32> =
        call.texts("additional-gids")?.into_iter().map(|gid| number("additional-gids", gid)).collect::<Result<_>>()?;
    if !gids.is_empty() {
        let mut wanted = process.user().clone();
        let mut all = wanted.additional_gids().clone().unwrap_or_default();
        all.extend(gids);
        wanted.set_additional_gids(Some(all));
        process.set_user(wanted);
    }
    let mut unknown = Vec::new();
    add_capabilities(&mut process, &call.texts("cap")?, &mut unknown)?;
    log::warnings(call, &unknown);
    Ok(process)
}

/// `UID[:GID]`: numbers that fit, or an error; never 0 by accident (CVE-2024-40635, CVE-2026-30892).
fn ids(text: &str) -> Result<(u32, Option<u32>)> {
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number("user", uid)?, Some(number("user", gid)?))),
        None => Ok((number("user", text)?, None)),
    }
}

fn number(flag: &str, text: &str) -> Result<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // 2^32 - 1 means "no change" to the kernel.
    match text.parse::<u32>() {
        Ok(number) if digits && number != u32::MAX => Ok(number),
        _ => Err(Error::new(Kind::Invalid, format!("--{flag}: {text:?} is not an id"))),
    }
}

fn add_capabilities(process: &mut Process, names: &[&str], unknown: &mut Vec<String>) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut more = Capabilities::new();
    for name in names {
        match serde_json::from_value(serde_json::Value::String(name.to_ascii_uppercase())) {
            Ok(known) => drop(more.insert(known)),
            // As the specification has it for those of a configuration.
            Err(_) => unknown.push(format!("--cap: {name} is not known here; left out")),
        }
    }
    let mut all = match process.capabilities() {
        Some(all) => all.clone(),
        None => serde_json::from_str::<LinuxCapabilities>("{}")
            .map_err(|why| Error::new(Kind::System, format!("an empty set of capabilities: {why}")))?,
    };
    let with = |old: &Option<Capabilities>| Some(old.iter().flatten().copied().chain(more.iter().copied()).collect());
    let (bounding, effective, permitted) = (with(all.bounding()), with(all.effective()), with(all.permitted()));
    all.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    process.set_capabilities(Some(all));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_numbers_that_fit_or_errors() {
        assert_eq!(ids("1").unwrap(), (1, None));
        assert_eq!(ids("2147483648:7").unwrap(), (2_147_483_648, Some(7)));
        for text in ["1:", ":1", "-1", "+1", "4294967296", "4294967295", "root", "", ":", "1:2:3", "0x1", " 1"] {
            assert!(ids(text).is_err(), "{text:?}");
        }
    }
}
