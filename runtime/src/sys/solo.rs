//! Proof of being alone: cloning from a threaded process deadlocks (kata#166, runwasi#357).

use std::marker::PhantomData;

use crate::error::{Error, Kind, Result};

/// Proof that this process has one thread. Neither `Send` nor `Clone`; whoever clones, joins namespaces or changes
/// its own process attributes asks for one.
#[derive(Debug)]
pub struct Solo(PhantomData<*const ()>);

impl Solo {
    /// In the child of a clone there is only the thread that cloned.
    pub(crate) fn of_a_clone() -> Solo {
        Solo(PhantomData)
    }

    /// Looks the number of threads up in `/proc/self/status` (the link count of `/proc/self/task`).
    pub fn prove() -> Result<Solo> {
        let tasks = nix::sys::stat::stat("/proc/self/task")
            .map_err(|errno| Error::system("look up /proc/self/task", errno.into()))?;
        match tasks.st_nlink.saturating_sub(2) {
            1 => Ok(Solo(PhantomData)),
            threads => Err(Error::new(
                Kind::Unsupported,
                format!("this process has {threads} threads; containers are cloned by a process of one"),
            )),
        }
    }
}
