//! create, start, run, kill, delete, pause, resume, monitor.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::log;
use super::output;
use super::parse::Call;
use super::relay;
use crate::create::{self, CreateRequest, Options, Stdio};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::Solo;
use crate::{launch, lifecycle, monitor, seal, spec};

pub(super) fn create(call: &Call) -> Result<i32> {
    let alone = Solo::prove()?;
    seal::protect(&alone)?;
    let (spec, root) = (load(call)?, call.root());
    check_console(call, &spec, true)?;
    let created = create::create(&request(call, &spec, &root)?, &alone)?;
    log::warnings(call, &created.warnings);
    Ok(0)
}

pub(super) fn run(call: &Call) -> Result<i32> {
    let alone = Solo::prove()?;
    seal::protect(&alone)?;
    let (spec, root) = (load(call)?, call.root());
    let detach = call.has("detach");
    check_console(call, &spec, detach)?;
    preserved(call)?;
    let signals = if detach { None } else { Some(relay::Signals::take()?) };
    let mut created = create::run(&request(call, &spec, &root)?, &alone)?;
    log::warnings(call, &created.warnings);
    let Some(signals) = signals else { return Ok(0) };
    let ended = relay::until_exit(&signals, created.pidfd, created.console.take());
    if !call.has("keep") {
        log::warnings(call, &lifecycle::delete_noting(&root, call.id()?, true)?);
    }
    ended
}

pub(super) fn load(call: &Call) -> Result<Spec> {
    let mut notes = Vec::new();
    let path = call.path("config").map_or_else(|| bundle(call).join("config.json"), Path::to_owned);
    let loaded = spec::load_file(&path, &mut notes).map(|mut spec| {
        hand_down(&mut spec, listening());
        spec
    });
    log::warnings(call, &notes);
    loaded.context(|| format!("{} {}", call.command.name, call.id().unwrap_or_default()))
}

pub(super) fn bundle(call: &Call) -> &Path {
    call.path("bundle").unwrap_or(Path::new("."))
}

/// A terminal needs somebody who holds its other end.
pub(super) fn check_console(call: &Call, spec: &Spec, detach: bool) -> Result<()> {
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    match (terminal, call.has("console-socket"), detach) {
        (true, false, true) => {
            let what = "process.terminal: a detached container needs --console-socket for its terminal";
            Err(Error::new(Kind::Invalid, what))
        }
        (_, true, false) => Err(Error::new(Kind::Invalid, "--console-socket: only with --detach")),
        _ => Ok(()),
    }
}

fn request<'a>(call: &'a Call, spec: &'a Spec, root: &'a Path) -> Result<CreateRequest<'a>> {
    Ok(CreateRequest {
        id: call.id()?,
        bundle: bundle(call),
        root,
        spec: Some(spec),
        stdio: call.path("console-socket").map_or(Stdio::Inherit, Stdio::ConsoleSocket),
        preserve_fds: preserved(call)?,
        pid_file: call.path("pid-file"),
        pidfd_socket: call.path("pidfd-socket"),
        options: Options {
            no_pivot: call.has("no-pivot"),
            no_new_keyring: call.has("no-new-keyring"),
            systemd_cgroup: call.wants_systemd(),
            rootless: call.wants_rootless(),
            ..Options::default()
        },
    })
}

/// How many sockets systemd's socket activation hands to this process (sd_listen_fds(3)).
fn listening() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
    if ours { number("LISTEN_FDS").unwrap_or(0) } else { 0 }
}

/// The program finds the sockets as its own: they are meant for pid 1.
fn hand_down(spec: &mut Spec, sockets: u32) {
    if sockets == 0 {
        return;
    }
    if let Some(process) = spec.process_mut() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend([format!("LISTEN_FDS={sockets}"), "LISTEN_PID=1".to_owned()]);
        process.set_env(Some(env));
    }
}

/// `--preserve-fds`, and the sockets of systemd's socket activation: how many descriptors from 3 on are handed down. All
/// of them are open. To be asked before this process opens any that it keeps: that could be taken for the caller's.
pub(super) fn preserved(call: &Call) -> Result<u32> {
    let asked = call.number("preserve-fds")?.unwrap_or(0);
    match u32::try_from(asked).ok().and_then(|asked| asked.checked_add(listening())) {
        Some(count @ ..=65_536) => launch::check_preserved(count).map(|()| count),
        _ => Err(Error::new(Kind::Invalid, format!("--preserve-fds: {asked} is not between 0 and 65536"))),
    }
}

pub(super) fn start(call: &Call) -> Result<i32> {
    lifecycle::start(&call.root(), call.id()?).map(|()| 0)
}

pub(super) fn kill(call: &Call) -> Result<i32> {
    let rest = call.rest()?;
    let signal = signal(rest.first().copied().filter(|name| !name.is_empty()).unwrap_or("TERM"))?;
    lifecycle::kill(&call.root(), call.id()?, signal, call.has("all")).map(|()| 0)
}

/// `9`, `KILL`, `SIGKILL`, `rtmin+1`; 0 only asks whether there is anybody to be signalled.
fn signal(text: &str) -> Result<i32> {
    use std::str::FromStr as _;

    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let wrong = || Error::new(Kind::Invalid, format!("unknown signal {text:?}"));
    if let Ok(number) = name.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(wrong()) };
    }
    if let Some(above) = name.strip_prefix("RTMIN") {
        let above = if above.is_empty() { Ok(0) } else { above.trim_start_matches('+').parse::<i32>() };
        return above.ok().filter(|above| (0..=30).contains(above)).map(|above| 34 + above).ok_or_else(wrong);
    }
    nix::sys::signal::Signal::from_str(&format!("SIG{name}")).map(|signal| signal as i32).map_err(|_| wrong())
}

pub(super) fn delete(call: &Call) -> Result<i32> {
    let notes = lifecycle::delete_noting(&call.root(), call.id()?, call.has("force"))?;
    log::warnings(call, &notes);
    Ok(0)
}

pub(super) fn pause(call: &Call) -> Result<i32> {
    lifecycle::pause(&call.root(), call.id()?).map(|()| 0)
}

pub(super) fn resume(call: &Call) -> Result<i32> {
    lifecycle::resume(&call.root(), call.id()?).map(|()| 0)
}

pub(super) fn monitor(call: &Call) -> Result<i32> {
    if call.raw().iter().any(|argument| argument == "--help" || argument == "-h") {
        return output::print(monitor::USAGE).map(|()| 0);
    }
    monitor::command(call.raw().iter().cloned()).map(|()| 0)
}

#[cfg(test)]
mod tests {
    use super::signal;

    #[test]
    fn signals_by_number_and_name() {
        for (text, number) in
            [("9", 9), ("KILL", 9), ("SIGTERM", 15), ("sighup", 1), ("RTMIN+1", 35), ("rtmin", 34), ("0", 0)]
        {
            assert_eq!(signal(text).unwrap(), number, "{text}");
        }
        for text in ["65", "-9", "FROB", "", "RTMIN+99"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }
}
