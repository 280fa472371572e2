//! What the monitor does on each request. Every function here is one row of the diagram in `protocol.rs`.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::attach::{Attachment, Sink, set_nonblocking};
use super::children::{Container, Input, Output};
use super::clock;
use super::connection::Role;
use super::event_loop::{Exec, Monitor};
use super::log_file::LogFile;
use super::output::{Lines, Stream};
use super::pause::Pause;
use super::protocol::{self, Event, Reply, Request, State, Status};
use super::{exit_path, protocol::Create};
use crate::cgroup::{Cgroup, Doors};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::Solo;
use crate::{CreateRequest, Created, ExecRequest, Options, Stdio};

impl Monitor {
    /// Does what a client asks. `None`: the answer has been sent already.
    pub(super) fn ask(&mut self, connection: u32, request: Request, fds: Vec<OwnedFd>) -> Option<Reply> {
        let done = |result: Result<()>| Some(result.map_or_else(|why| Reply::failed(&why), |()| Reply::Done));
        let or_failed = |result: Result<Reply>| Some(result.unwrap_or_else(|why| Reply::failed(&why)));
        match request {
            Request::Create(create) => or_failed(self.create(&create)),
            Request::Start { id } => done(self.start(&id)),
            Request::Kill { id, signal, all } => done(self.kill(&id, signal, all)),
            Request::Delete { id, force } => done(self.delete(&id, force)),
            Request::State => Some(Reply::State(self.state())),
            Request::Exec(exec) => match self.exec(connection, &exec, fds) {
                Ok(()) => None,
                Err(why) => Some(Reply::failed(&why)),
            },
            Request::KillExec { id, pid, signal } => done(self.kill_exec(&id, pid, signal)),
            Request::Attach(attach) => match self.attach(connection, &attach, fds) {
                Ok(()) => Some(Reply::Done),
                Err(why) => Some(Reply::failed(&why)),
            },
            Request::Resize { id, width, height } => done(self.resize(&id, width, height)),
            Request::ReopenLog { id } => done(self.container(&id).and_then(Container::reopen_log)),
            Request::CloseStdin { id } => done(self.container(&id).map(|container| container.input.end())),
            Request::Pause { cgroup } => or_failed(self.start_pause(cgroup.as_deref())),
            Request::Subscribe => {
                self.set_role(connection, Role::Subscriber);
                Some(Reply::Done)
            }
            Request::Shutdown => done(self.shutdown()),
        }
    }

    /// Whether no container lives.
    pub(super) fn is_unused(&self) -> bool {
        self.containers.values().all(|container| container.status == Status::Exited)
    }

    fn create(&mut self, create: &Create) -> Result<Reply> {
        let id = &create.id;
        if id.is_empty() || id.contains('/') || id == "." || id == ".." {
            return Err(Error::new(Kind::Invalid, format!("{id:?} is not the name of a container")));
        }
        if self.find(id).is_some() {
            return Err(Error::new(Kind::Exists, format!("there is a container {id} already")));
        }
        let spec = read_spec(&create.bundle, create.tty)?;
        let log = create.log_path.as_deref().map(LogFile::open).transpose()?;
        let record = exit_path(&self.dir, id);
        fs::create_dir_all(record.parent().unwrap_or(&self.dir)).context(|| format!("create the directory of {id}"))?;
        // Of a container of this name that was deleted.
        let _ = fs::remove_file(&record);
        let streams = Streams::new(create)?;
        let request = CreateRequest {
            id,
            bundle: &create.bundle,
            root: &self.root,
            spec: Some(&spec),
            stdio: streams.stdio(),
            preserve_fds: 0,
            pid_file: None,
            pidfd_socket: None,
            options: Options::default(),
        };
        let created = crate::create(&request, &Solo::prove()?)?;
        for warning in &created.warnings {
            self.journal.warn(&format!("create {id}: {warning}"));
        }
        let pid = created.pid;
        let container = match self.adopt(create, &spec, log, streams, created) {
            Ok(container) => container,
            Err(why) => {
                // The delete path is the only rollback; the first failure is the one worth telling.
                let _ = crate::delete(&self.root, id, true);
                self.reap();
                return Err(why);
            }
        };
        let key = self.new_key();
        self.containers.insert(key, container);
        self.tell(&Event::Created { id: id.clone() });
        Ok(Reply::Created { pid })
    }

    /// A container out of what its creation gave.
    fn adopt(
        &self,
        create: &Create,
        spec: &Spec,
        log: Option<LogFile>,
        streams: Streams,
        mut created: Created,
    ) -> Result<Container> {
        let console = created.console.take();
        let mut container = Container {
            id: create.id.clone(),
            pid: created.pid,
            pidfd: created.pidfd.try_clone().context(|| "keep hold of the process")?,
            waits: Some(created),
            status: Status::Created,
            created_at: clock::now(),
            started_at: 0,
            exit: None,
            unrecorded: false,
            tty: create.tty,
            own_pids: has_own_pids(spec),
            log,
            outputs: [None, None],
            input: Input { once: create.stdin_once, ..Input::default() },
            attachments: Vec::new(),
            cgroup: None,
            oom: None,
            oom_kills: 0,
        };
        let output = |fd: OwnedFd, stream| {
            set_nonblocking(fd.as_fd()).context(|| "set up the output")?;
            Ok(Some(Output { fd, lines: Lines::new(stream) }))
        };
        match console {
            Some(master) => {
                if create.stdin {
                    container.input.fd = Some(master.try_clone().context(|| "copy the terminal")?);
                }
                container.outputs[0] = output(master, Stream::Stdout)?;
            }
            None => {
                let [out, err] = streams.from_container;
                container.outputs[0] = out.map_or(Ok(None), |fd| output(fd, Stream::Stdout))?;
                container.outputs[1] = err.map_or(Ok(None), |fd| output(fd, Stream::Stderr))?;
                container.input.fd = streams.to_container;
            }
        }
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        container.cgroup = path.and_then(|path| Cgroup::at(&self.layout, path).ok());
        // Without a memory controller there is no OOM kill to be told of.
        container.oom = container.cgroup.as_ref().and_then(|cgroup| cgroup.oom_watch().ok());
        Ok(container)
    }

    fn start(&mut self, id: &str) -> Result<()> {
        let root = self.root.clone();
        let container = self.container(id)?;
        if container.status != Status::Created {
            return Err(wrong(id, container.status, "started"));
        }
        container.started_at = clock::now();
        crate::start(&root, id)?;
        container.status = Status::Running;
        if let Some(mut waits) = container.waits.take() {
            // It ends by itself where its program cannot be executed; that exit is recorded like any other.
            waits.executed()?;
        }
        self.tell(&Event::Started { id: id.to_owned() });
        Ok(())
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Result<()> {
        let root = self.root.clone();
        let container = self.container(id)?;
        if container.status == Status::Exited {
            return Err(wrong(id, container.status, "signalled"));
        }
        crate::kill(&root, id, signal, all)
    }

    fn delete(&mut self, id: &str, force: bool) -> Result<()> {
        let root = self.root.clone();
        let Some((key, container)) = self.find(id) else {
            return match force {
                true => self.delete_in_turns(id),
                false => Err(unknown(id)),
            };
        };
        if container.status != Status::Exited {
            if !force {
                return Err(wrong(id, container.status, "deleted"));
            }
            // One that ends by itself in this moment is as good.
            let killed = crate::kill(&root, id, libc::SIGKILL, true);
            let process = container.pidfd.try_clone().context(|| "keep hold of the process")?;
            let died = self.await_death(id, &process);
            if died.is_err() {
                killed?;
            }
            died?;
        }
        self.delete_in_turns(id)?;
        // Others may still hold its pipes; whatever they have to say is nobody's log any more.
        if let Some(mut container) = self.containers.remove(&key) {
            if let Some(untold) = container.log.as_mut().and_then(LogFile::untold) {
                self.journal.warn(&format!("log of {id}: {untold}"));
            }
            let clients = container.attachments.iter().map(|client| (client.connection, None)).collect();
            self.let_go(clients);
        }
        self.tell(&Event::Deleted { id: id.to_owned() });
        Ok(())
    }

    fn state(&self) -> State {
        State {
            pid: std::process::id().cast_signed(),
            pause: self.pause.as_ref().map(|pause| pause.pid),
            containers: self.containers.values().map(Container::state).collect(),
        }
    }

    fn exec(&mut self, connection: u32, exec: &protocol::Exec, fds: Vec<OwnedFd>) -> Result<()> {
        let root = self.root.clone();
        let container = self.container(&exec.id)?;
        if container.status != Status::Running {
            return Err(wrong(&exec.id, container.status, "entered"));
        }
        let [stdin, stdout, stderr] = sort_out(exec.streams, fds)?;
        let stdio = Stdio::Fds {
            stdin: stdin.as_ref().map(AsFd::as_fd),
            stdout: stdout.as_ref().map(AsFd::as_fd),
            stderr: stderr.as_ref().map(AsFd::as_fd),
        };
        let request = ExecRequest {
            root: &root,
            id: &exec.id,
            process: &exec.process,
            stdio,
            preserve_fds: 0,
            pid_file: None,
            pidfd_socket: None,
            below: None,
            options: Options::default(),
        };
        let started_at = clock::now();
        let mut created = crate::exec(&request, &Solo::prove()?)?;
        // One that cannot be executed is a child like any other: it is reaped, and nobody waits for it.
        created.executed()?;
        for warning in &created.warnings {
            self.journal.warn(&format!("exec in {}: {warning}", exec.id));
        }
        self.set_role(connection, Role::Exec);
        self.execs.insert(created.pid, Exec { container: exec.id.clone(), connection, started_at });
        if let Some(client) = self.connections.get_mut(&connection) {
            // A client that has gone already does not end what it started.
            let terminal = created.console.as_ref().map(AsFd::as_fd);
            if let Err(why) = client.send(&Reply::Started { pid: created.pid }, terminal) {
                self.journal.debug(&why.to_string());
            }
        }
        Ok(())
    }

    fn kill_exec(&mut self, id: &str, pid: i32, signal: i32) -> Result<()> {
        // Not reaped before it is taken off this list, so the number cannot be another process.
        if self.execs.get(&pid).is_none_or(|exec| exec.container != id) {
            return Err(Error::new(Kind::NotFound, format!("process {pid} was not started in {id}, or has ended")));
        }
        let signal = nix::sys::signal::Signal::try_from(signal)
            .map_err(|_| Error::new(Kind::Invalid, format!("there is no signal {signal}")))?;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
            .map_err(|errno| Error::system(format!("signal process {pid}"), errno.into()))
    }

    fn attach(&mut self, connection: u32, attach: &protocol::Attach, fds: Vec<OwnedFd>) -> Result<()> {
        let key = self.new_key();
        let Some((container_key, container)) = self.find(&attach.id) else { return Err(unknown(&attach.id)) };
        if container.status == Status::Exited {
            return Err(wrong(&attach.id, container.status, "attached to"));
        }
        let [stdin, stdout, stderr] = sort_out(attach.streams, fds)?;
        if let Some(fd) = &stdin {
            set_nonblocking(fd.as_fd()).context(|| "attach stdin")?;
        }
        let sink = |fd: Option<OwnedFd>| fd.map(Sink::new).transpose().context(|| "attach an output");
        let sinks = [sink(stdout)?, sink(stderr)?];
        container.attachments.push(Attachment { key, connection, stdin, sinks });
        self.set_role(connection, Role::Attached(container_key));
        Ok(())
    }

    fn resize(&mut self, id: &str, width: u16, height: u16) -> Result<()> {
        let container = self.container(id)?;
        if !container.tty {
            return Err(Error::new(Kind::WrongState, format!("{id} has no terminal")));
        }
        container.resize(width, height)
    }

    fn start_pause(&mut self, cgroup: Option<&Path>) -> Result<Reply> {
        if let Some(pause) = &self.pause {
            return Ok(Reply::Started { pid: pause.pid });
        }
        let doors = match cgroup {
            Some(path) => {
                let cgroup = Cgroup::at(&self.layout, path)?;
                cgroup.create()?;
                cgroup.doors()?
            }
            None => Doors::default(),
        };
        let pause = Pause::start(&doors)?;
        let pid = pause.pid;
        self.pause = Some(pause);
        Ok(Reply::Started { pid })
    }

    fn shutdown(&mut self) -> Result<()> {
        if let Some(container) = self.containers.values().find(|container| container.status != Status::Exited) {
            return Err(wrong(&container.id, container.status, "left alone"));
        }
        if let Some(pause) = &self.pause {
            pause.kill();
        }
        self.leaving = true;
        Ok(())
    }

    fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.find(id).map(|(_, container)| container).ok_or_else(|| unknown(id))
    }

    fn set_role(&mut self, connection: u32, role: Role) {
        if let Some(client) = self.connections.get_mut(&connection) {
            client.role = role;
        }
    }
}

/// The pipes of a new container without a terminal; with one they stay empty.
#[derive(Debug, Default)]
struct Streams {
    to_container: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    from_container: [Option<OwnedFd>; 2],
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Streams {
    fn new(create: &Create) -> Result<Self> {
        let mut streams = Self::default();
        if create.tty {
            return Ok(streams);
        }
        let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(|errno| Error::system("make a pipe", errno.into()));
        if create.stdin {
            let (reader, writer) = pipe()?;
            set_nonblocking(writer.as_fd()).context(|| "set up the input")?;
            (streams.stdin, streams.to_container) = (Some(reader), Some(writer));
        }
        let ((out, stdout), (err, stderr)) = (pipe()?, pipe()?);
        for fd in [&out, &err] {
            // Fewer turns between writer and reader; a kernel that will not give it is as right.
            let _ = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
        }
        streams.from_container = [Some(out), Some(err)];
        (streams.stdout, streams.stderr) = (Some(stdout), Some(stderr));
        Ok(streams)
    }

    fn stdio(&self) -> Stdio<'_> {
        Stdio::Fds {
            stdin: self.stdin.as_ref().map(AsFd::as_fd),
            stdout: self.stdout.as_ref().map(AsFd::as_fd),
            stderr: self.stderr.as_ref().map(AsFd::as_fd),
        }
    }
}

/// What an output pipe holds; memory is taken only for what is in it.
const PIPE_SIZE: i32 = 256 << 10;

fn read_spec(bundle: &Path, tty: bool) -> Result<Spec> {
    let path = bundle.join("config.json");
    let text = fs::read(&path).context(|| format!("read {}", path.display()))?;
    let spec: Spec = serde_json::from_slice(&text)
        .map_err(|why| Error::new(Kind::Invalid, format!("read {}: {why}", path.display())))?;
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    if terminal != tty {
        let what = format!("{}: process.terminal is {terminal}, the request says {tty}", path.display());
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(spec)
}

fn has_own_pids(spec: &Spec) -> bool {
    let spaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    spaces.iter().any(|space| space.typ() == LinuxNamespaceType::Pid && space.path().is_none())
}

/// Which descriptor is which of stdin, stdout and stderr.
fn sort_out(streams: [bool; 3], fds: Vec<OwnedFd>) -> Result<[Option<OwnedFd>; 3]> {
    let wanted = streams.iter().filter(|given| **given).count();
    if wanted != fds.len() {
        let what = format!("{wanted} streams were announced and {} descriptors came", fds.len());
        return Err(Error::new(Kind::Invalid, what));
    }
    let mut fds = fds.into_iter();
    Ok(streams.map(|given| if given { fds.next() } else { None }))
}

fn unknown(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no container {id}"))
}

fn wrong(id: &str, status: Status, done: &str) -> Error {
    let status = match status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Exited => "exited",
    };
    Error::new(Kind::WrongState, format!("{id} is {status} and cannot be {done}"))
}
