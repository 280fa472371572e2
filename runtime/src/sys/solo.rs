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

    /// Asks the kernel: unshare(2) of `CLONE_THREAD` does nothing, and fails in a process of more threads than one. Where
    /// a filter forbids the call the link count of `/proc/self/task` tells.
    ///
    /// # Errors
    /// `Unsupported` with the number of threads.
    pub fn prove() -> Result<Solo> {
        if super::clone::unshare(libc::CLONE_THREAD as u64).is_ok() {
            return Ok(Solo(PhantomData));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_threads_is_not_alone() {
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        let said = Solo::prove().unwrap_err().to_string();
        assert!(said.starts_with("this process has ") && said.ends_with("cloned by a process of one"), "{said}");
        drop(stop);
        assert!(other.join().unwrap().is_err());
    }
}
