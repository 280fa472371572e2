//! DECIDE: the last part of every plan, in which a process in its place becomes the program.
//!
//! The order is what makes it safe: privileges first gained by nobody (`no_new_privs`), then dropped, and the seccomp
//! filter last, so that it need not allow what only the set-up does. Without `no_new_privs` the filter needs
//! CAP_SYS_ADMIN and has to come before the capabilities go.

use oci_spec::runtime::{Hook as OciHook, Process, Spec};

use super::step::{Hook, Step};
use super::{Filter, Host, Lasting, Plan, Wishes, attributes, c_string, identity, labels, path_text};
use crate::error::Result;
use crate::sys::process::{CStringArray, NEW_LISTENER};
use crate::talk::Word;

/// Where programs are looked for when the environment has no `PATH` (execvp(3)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Who may find the session keyring of the first process, to join it: its user, or in a user namespace anybody, whose
/// ids are other ones there (linux/key.h).
const KEY_USER_SEARCH: u32 = 0x0008_0000;
const KEY_OTHER_SEARCH: u32 = 0x0000_0008;

/// Arguments and environment of the program.
#[derive(Debug, Default)]
pub struct Image {
    /// Arguments.
    pub args: CStringArray,
    /// Environment, with room for a `HOME` that is found later.
    pub env: CStringArray,
}

pub(super) fn image(process: &Process) -> Result<Image> {
    let strings =
        |list: &Option<Vec<String>>| -> Result<Vec<_>> { list.iter().flatten().map(|text| c_string(text)).collect() };
    let args = CStringArray::new(strings(process.args())?);
    let env = strings(process.env())?;
    let env = if lacks_home(process) { CStringArray::with_home(env) } else { CStringArray::new(env) };
    Ok(Image { args, env })
}

fn lacks_home(process: &Process) -> bool {
    !process.env().iter().flatten().any(|pair| pair.strip_prefix("HOME=").is_some_and(|home| !home.is_empty()))
}

/// `process.oomScoreAdj`, first of all: later the file belongs to somebody else.
pub(super) fn oom_score(process: &Process) -> Result<Option<Step>> {
    process.oom_score_adj().map(|score| Ok(Step::OomScore(c_string(&score.to_string())?))).transpose()
}

/// Rows and columns.
pub(super) fn console_size(process: &Process) -> Option<(u16, u16)> {
    let size = process.console_size()?;
    let (rows, columns) = (u16::try_from(size.height()).ok()?, u16::try_from(size.width()).ok()?);
    (rows != 0 || columns != 0).then_some((rows, columns))
}

/// Runtime hooks (in the parent) and `createContainer` hooks, between the mounts and the pivot.
#[allow(deprecated, reason = "prestart hooks are deprecated but in wide use")]
pub(super) fn hooks_in_the_middle(plan: &mut Plan, spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let any = |list: &Option<Vec<OciHook>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if any(hooks.prestart()) || any(hooks.create_runtime()) {
        plan.steps.push(Step::Say(Word::Hooks));
        plan.steps.push(Step::Await(Word::Hooked));
    }
    if any(hooks.create_container()) {
        // By then the parent has written the state that they read.
        plan.steps.push(Step::Await(Word::Recorded));
    }
    for found in hooks.create_container().iter().flatten() {
        plan.steps.push(hook("createContainer", found, &None)?);
    }
    Ok(())
}

/// A hook; `env` where it names none itself.
fn hook(kind: &'static str, hook: &OciHook, env: &Option<Vec<String>>) -> Result<Step> {
    let path = c_string(path_text(hook.path())?)?;
    let strings =
        |list: &Option<Vec<String>>| -> Result<Vec<_>> { list.iter().flatten().map(|text| c_string(text)).collect() };
    let mut args = strings(hook.args())?;
    if args.is_empty() {
        args.push(path.clone());
    }
    Ok(Step::Hook(Box::new(Hook {
        kind,
        path,
        args: CStringArray::new(args),
        env: CStringArray::new(strings(if hook.env().is_some() { hook.env() } else { env })?),
        timeout: crate::hooks::milliseconds(hook),
    })))
}

/// The steps from the place to the program.
#[allow(clippy::too_many_arguments, reason = "each is a different kind of fact")]
pub(super) fn become_it(
    plan: &mut Plan,
    spec: Option<&Spec>,
    lasting: Option<&Lasting>,
    process: &Process,
    host: &Host,
    filter: Option<Filter>,
    wishes: Wishes,
) -> Result<()> {
    let user = identity::user(process, plan.denies_groups());
    let safe = process.no_new_privileges().unwrap_or(false);
    let sets = identity::capabilities(process, host, &mut plan.warnings);
    let mut filter = filter.map(|filter| Step::Seccomp(filter.program, filter.flags));
    if let Some(lasting) = lasting {
        attributes::decide(lasting, plan)?;
    }
    let steps = &mut plan.steps;
    if !wishes.no_new_keyring {
        steps.extend(labels::keyring(process, host)?);
        let search = if plan.other_user { KEY_OTHER_SEARCH } else { KEY_USER_SEARCH };
        steps.push(Step::Keyring(c_string(&host.keyring)?, spec.map(|_| search)));
    }
    steps.extend(identity::limits(process));
    steps.extend(process.scheduler().as_ref().map(identity::scheduler));
    steps.extend(identity::io_priority(process)?);
    steps.push(Step::Streams);
    if user.uid != 0 {
        steps.push(Step::OwnStreams(user.uid));
    }
    if lacks_home(process) {
        steps.push(Step::Home(user.uid));
    }
    steps.extend(labels::decide(process, host)?);
    // Before any path of the specification is used: `/proc/self/fd/N` as working directory or program must not find a
    // descriptor of the host (CVE-2024-21626), nor must another process of the container while this one waits.
    steps.push(Step::CloseOthers(wishes.preserve_fds));
    steps.push(Step::Umask(process.user().umask().unwrap_or(0o022)));
    // From a filter on, where it has to be this early, only calls that runc makes behind it: profiles are made for those.
    if safe {
        steps.push(Step::NoNewPrivileges);
    } else {
        steps.extend(filter.take());
    }
    let cwd = c_string(path_text(process.cwd())?)?;
    steps.push(Step::WorkingDirectory(cwd.clone()));
    steps.push(Step::Bounding(sets.bounding));
    steps.push(Step::User(user));
    steps.push(Step::UsersDirectory(cwd));
    steps.push(Step::Capabilities(sets.three, sets.ambient));
    steps.push(Step::Program(places(process)?));
    steps.push(Step::Await(Word::Recorded));
    // A listener has to be handed over while `create` is still there.
    let listens = matches!(filter, Some(Step::Seccomp(_, flags)) if flags & NEW_LISTENER != 0);
    steps.extend(filter.take_if(|_| listens));
    if wishes.wait {
        steps.push(Step::Say(Word::Ready));
        steps.push(Step::AwaitStart);
    }
    let hooks = spec.and_then(|spec| spec.hooks().as_ref());
    for found in hooks.into_iter().flat_map(|hooks| hooks.start_container().iter().flatten()) {
        // As with runc: it sees what the program will see.
        steps.push(hook("startContainer", found, process.env())?);
    }
    steps.extend(filter);
    steps.push(Step::Exec(process.args().iter().flatten().next().cloned().unwrap_or_default()));
    Ok(())
}

/// A process that waits for its start has no filter yet, and others may be put beside it by exec: it hides from them.
/// A runtime without CAP_SYS_PTRACE could not put them there any more, so for that (rootless) one it stays visible.
pub(super) fn hide_while_waiting(plan: &mut Plan, runtime_may_look: bool) {
    let ready = plan.steps.iter().position(|step| matches!(step, Step::Say(Word::Ready)));
    if let Some(at) = ready.filter(|_| runtime_may_look) {
        plan.steps.insert(at, Step::Hide);
    }
}

impl Plan {
    /// A user namespace in which setgroups(2) is denied: the mapping of groups was left out or is a single one.
    fn denies_groups(&self) -> bool {
        self.maps.as_ref().is_some_and(|maps| maps.gid.is_empty())
    }
}

/// Every path that may be the program, in the order of `PATH`.
fn places(process: &Process) -> Result<Vec<std::ffi::CString>> {
    let program = process.args().iter().flatten().next().map_or("", String::as_str);
    if program.contains('/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = process.env().iter().flatten().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|dir| if dir.is_empty() { "." } else { dir })
        .map(|dir| c_string(&format!("{}/{program}", dir.trim_end_matches('/'))))
        .collect()
}
