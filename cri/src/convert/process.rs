//! The process of a container: arguments, environment, directory, identity, capabilities. And that of an exec.

use gantry_cri_api::{ContainerConfig, LinuxContainerSecurityContext, Signal};
use gantry_images::ImageConfiguration;
use serde_json::{Value, json};

use super::{Input, security};
use crate::error::{Error, Kind, Result};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn decide(input: &Input<'_>, wanted: &LinuxContainerSecurityContext) -> Result<Value> {
    let user = input.user;
    let mut process = json!({
        "terminal": input.config.tty,
        "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
        "args": args(input.config, input.image)?,
        "env": env(input)?,
        "cwd": cwd(input)?,
        "capabilities": security::capabilities(wanted, input.host)?,
        "noNewPrivileges": wanted.no_new_privs,
    });
    if let Some(profile) = security::apparmor(wanted, input.host)? {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(label) = security::selinux(wanted, input.host)? {
        process["selinuxLabel"] = json!(label.process);
    }
    if let Some(score) = oom_score(input) {
        process["oomScoreAdj"] = json!(score);
    }
    Ok(process)
}

/// `command` replaces the image's entry point and with it its cmd; `args` replaces the cmd (Kubernetes' table).
fn args(config: &ContainerConfig, image: &ImageConfiguration) -> Result<Vec<String>> {
    let image = image.config().as_ref();
    let entrypoint = image.and_then(|image| image.entrypoint().clone()).unwrap_or_default();
    let cmd = image.and_then(|image| image.cmd().clone()).unwrap_or_default();
    let (head, tail) = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => (config.command.clone(), config.args.clone()),
        (true, false) => (entrypoint, config.args.clone()),
        (true, true) => (entrypoint, cmd),
    };
    let args: Vec<String> = head.into_iter().chain(tail).collect();
    match args.first().is_some_and(|program| !program.is_empty()) {
        true => Ok(args),
        false => Err(Error::new(Kind::Invalid, "no command: neither the container nor its image names one")),
    }
}

/// The image's, then CRI's; a later value of a name replaces an earlier one in its place.
fn env(input: &Input<'_>) -> Result<Vec<String>> {
    let hostname = input.pod.hostname.as_str();
    let mut list: Vec<(String, String)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    if !hostname.is_empty() {
        list.push(("HOSTNAME".into(), hostname.into()));
    }
    if input.config.tty {
        list.push(("TERM".into(), "xterm".into()));
    }
    let image = input.image.config().as_ref().and_then(|image| image.env().clone()).unwrap_or_default();
    for line in &image {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        set(&mut list, name, value);
    }
    for pair in &input.config.envs {
        let value = std::str::from_utf8(&pair.value)
            .map_err(|_| Error::new(Kind::Invalid, format!("envs: the value of {:?} is not UTF-8", pair.key)))?;
        if pair.key.is_empty() || pair.key.contains(['=', '\0']) || value.contains('\0') {
            return Err(Error::new(Kind::Invalid, format!("envs: {:?} is not a variable", pair.key)));
        }
        set(&mut list, &pair.key, value);
    }
    if !list.iter().any(|(name, _)| name == "HOME") {
        list.push(("HOME".into(), input.user.home.clone()));
    }
    Ok(list.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn set(list: &mut Vec<(String, String)>, name: &str, value: &str) {
    match list.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => list.push((name.to_owned(), value.to_owned())),
    }
}

fn cwd(input: &Input<'_>) -> Result<String> {
    let image = input.image.config().as_ref().and_then(|image| image.working_dir().clone()).unwrap_or_default();
    let cwd = [input.config.working_dir.clone(), image].into_iter().find(|dir| !dir.is_empty()).unwrap_or("/".into());
    match cwd.starts_with('/') {
        true => Ok(cwd),
        // Docker resolves a relative one from the root of the image.
        false if !cwd.contains("..") => Ok(format!("/{cwd}")),
        false => Err(Error::new(Kind::Invalid, format!("working_dir: {cwd:?} is not absolute"))),
    }
}

/// Without CAP_SYS_RESOURCE a score below our own is refused by the kernel (proc(5)): then ours is the floor.
fn oom_score(input: &Input<'_>) -> Option<i64> {
    let wanted = input.config.linux.as_ref()?.resources.as_ref()?.oom_score_adj;
    Some(wanted.clamp(-1000, 1000).max(input.host.oom_score_floor.unwrap_or(-1000)))
}

/// The process of an exec: that of the container with other arguments and streams.
pub fn exec_process(spec: &Value, cmd: &[String], tty: bool) -> Result<Value> {
    if cmd.first().is_none_or(String::is_empty) {
        return Err(Error::new(Kind::Invalid, "cmd: must not be empty"));
    }
    let mut process = spec["process"].clone();
    process["args"] = json!(cmd);
    process["terminal"] = json!(tty);
    let env = process["env"].as_array().is_some_and(|env| env.iter().any(is_term));
    if let (true, false, Some(list)) = (tty, env, process["env"].as_array_mut()) {
        list.push(json!("TERM=xterm"));
    }
    Ok(process)
}

fn is_term(entry: &Value) -> bool {
    entry.as_str().is_some_and(|entry| entry.starts_with("TERM="))
}

/// The signal that asks a container to end: CRI's, else the image's (`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`), else TERM.
pub fn stop_signal(config: &ContainerConfig, image: &ImageConfiguration) -> Result<i32> {
    if config.stop_signal() != Signal::RuntimeDefault {
        let name = config.stop_signal().as_str_name().trim_start_matches("SIGNAL_");
        let name = name.replace("MINPLUS", "MIN+").replace("MAXMINUS", "MAX-");
        return signal(&name);
    }
    let image = image.config().as_ref().and_then(|image| image.stop_signal().clone()).unwrap_or_default();
    if image.is_empty() { Ok(libc::SIGTERM) } else { signal(&image) }
}

fn signal(text: &str) -> Result<i32> {
    const LAST: i32 = 64;
    let unknown = || Error::new(Kind::Invalid, format!("stop signal {text:?}: no such signal"));
    let name = text.trim().to_ascii_uppercase();
    if let Ok(number) = name.parse::<i32>() {
        return if (1..=LAST).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    // Real-time signals count from 34, as glibc and musl keep the first two for themselves.
    let (base, sign, offset) = match name.split_at_checked(5) {
        Some(("RTMIN", rest)) => (34, 1, rest.strip_prefix('+').unwrap_or(rest)),
        Some(("RTMAX", rest)) => (LAST, -1, rest.strip_prefix('-').unwrap_or(rest)),
        _ => {
            let name = match name {
                "CLD" => "CHLD",
                "IOT" => "ABRT",
                "POLL" => "IO",
                other => other,
            };
            let known: nix::sys::signal::Signal = format!("SIG{name}").parse().map_err(|_| unknown())?;
            return Ok(known as i32);
        }
    };
    let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().map_err(|_| unknown())? };
    if (0..=LAST - 34).contains(&offset) { Ok(base + sign * offset) } else { Err(unknown()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_every_name_that_cri_and_images_use() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("TERM", 15),
            ("term", 15),
            ("9", 9),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("SIGRTMAX", 64),
            ("SIGCLD", 17),
            ("SIGIOT", 6),
            ("SIGPOLL", 29),
            ("SIGSTKFLT", 16),
        ] {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "-1", "SIGNOPE", "SIGRTMIN+31", "SIGRTMIN+x", "SIGÄÖÜRT"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_signal_of_the_protocol_has_a_number() {
        for value in 1..=65 {
            let config = ContainerConfig { stop_signal: value, ..Default::default() };
            let number = stop_signal(&config, &ImageConfiguration::default()).unwrap();
            assert!((1..=64).contains(&number), "{value}");
        }
        assert_eq!(stop_signal(&ContainerConfig::default(), &ImageConfiguration::default()).unwrap(), 15);
    }

    #[test]
    fn an_exec_keeps_all_but_arguments_and_streams() {
        let spec =
            json!({"process": {"args": ["a"], "terminal": false, "env": ["A=1"], "cwd": "/srv", "user": {"uid": 7}}});
        let process = exec_process(&spec, &["id".to_owned()], true).unwrap();
        let wanted =
            json!({"args": ["id"], "terminal": true, "env": ["A=1", "TERM=xterm"], "cwd": "/srv", "user": {"uid": 7}});
        assert_eq!(process, wanted);
        assert!(exec_process(&spec, &[], false).is_err());
    }
}
