//! The library in another program: create, start, exec, wait for and delete a container of a bundle.
//!
//! ```text
//! embed ROOT BUNDLE ID      ROOT: where state goes; BUNDLE: directory with config.json and a rootfs that has /bin/sh
//! ```
//!
//! What a caller has to know:
//! - Containers are cloned by a process of one thread; [`Solo`] is the proof. A program with threads starts a small one
//!   of its own for this, as Gantry's node does with `gantry-runtime monitor`.
//! - The caller is the parent of what it creates, and reaps it with [`Created::wait`](gantry_runtime::Created::wait).
//! - [`seal::protect`](gantry_runtime::seal::protect) comes first: it executes this program again from a copy that
//!   nothing in a container can write to.
//! - Whatever happens to the caller, `delete` with `force` finds and removes the container.

use std::path::Path;
use std::process::ExitCode;

use gantry_runtime::{CreateRequest, ExecRequest, Result, Solo, Status};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, bundle, id] = arguments.as_slice() else {
        eprintln!("usage: embed ROOT BUNDLE ID");
        return ExitCode::from(2);
    };
    match embed(Path::new(root), Path::new(bundle), id) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("embed: {why} ({:?})", why.kind());
            ExitCode::FAILURE
        }
    }
}

/// The life of one container; returns the exit code of its program.
fn embed(root: &Path, bundle: &Path, id: &str) -> Result<u8> {
    let alone = Solo::prove()?;
    gantry_runtime::seal::protect(&alone)?;
    let lived = live(root, bundle, id, &alone);
    // The same road after success and failure: what is not there is no error.
    let deleted = gantry_runtime::delete(root, id, true);
    lived.and_then(|code| deleted.map(|()| code))
}

fn live(root: &Path, bundle: &Path, id: &str, alone: &Solo) -> Result<u8> {
    let created = gantry_runtime::create(&CreateRequest::new(root, id, bundle), alone)?;
    let state = gantry_runtime::state(root, id)?;
    println!("{} is {}, pid {}", state.id, state.status, state.pid);
    debug_assert_eq!(state.status, Status::Created);

    gantry_runtime::start(root, id)?;
    // One more process, by the container's own defaults but for its arguments.
    let mut process = gantry_runtime::process_of(root, id)?;
    process.set_args(Some(["/bin/sh", "-c", "echo exec says hello"].map(str::to_owned).to_vec()));
    let exec = gantry_runtime::exec(&ExecRequest::new(root, id, &process), alone)?;
    println!("exec ended with {}", exec.wait()?.shell_code());

    let ended = created.wait()?;
    println!("{id} is {}", gantry_runtime::state(root, id)?.status);
    Ok(u8::try_from(ended.shell_code()).unwrap_or(u8::MAX))
}
