//! Which descriptors a cloned child keeps: a list made before the clone, and close_range(2) of everything between.

use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use super::errno::{Errno, check};

/// Descriptors to keep; made by the parent, so that the child allocates nothing.
#[derive(Debug)]
pub struct Keep(Vec<RawFd>);

impl Keep {
    /// The standard streams, `preserved` more from 3 on, and these.
    pub fn new<'a>(preserved: u32, fds: impl Iterator<Item = BorrowedFd<'a>>) -> Keep {
        let mut list: Vec<RawFd> = (0..3 + preserved.cast_signed()).chain(fds.map(|fd| fd.as_raw_fd())).collect();
        list.sort_unstable();
        list.dedup();
        Keep(list)
    }

    /// Closes everything else, at once and not at the exec. Only for a cloned child, which has a table of its own and
    /// never runs the destructors of what it was born with.
    ///
    /// # Errors
    /// `ENOSYS` before Linux 5.9.
    pub fn close_others(&self) -> Result<(), Errno> {
        self.gaps().try_for_each(|(first, last)| {
            // SAFETY: close_range reads three integers; the caller is a cloned child that uses none of these again.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
        })
    }

    /// First and last number of every gap in the list, the one behind its end included.
    fn gaps(&self) -> impl Iterator<Item = (u32, u32)> {
        let ends = self.0.iter().map(|&fd| i64::from(fd)).chain([i64::from(u32::MAX) + 1]);
        let gaps = ends.scan(0, |next, end| {
            let first = std::mem::replace(next, end + 1);
            Some((first, end - 1))
        });
        gaps.filter(|(first, last)| first <= last).map(|(first, last)| (first as u32, last as u32))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn gaps_are_what_is_not_kept() {
        let gaps = |list: &[RawFd]| Keep(list.to_vec()).gaps().collect::<Vec<_>>();
        assert_eq!(gaps(&[]), [(0, u32::MAX)]);
        assert_eq!(gaps(&[0, 1, 2]), [(3, u32::MAX)]);
        assert_eq!(gaps(&[1, 2, 5, 9]), [(0, 0), (3, 4), (6, 8), (10, u32::MAX)]);
        assert_eq!(gaps(&[0, i32::MAX]), [(1, i32::MAX as u32 - 1), (i32::MAX as u32 + 1, u32::MAX)]);
    }

    #[test]
    fn streams_and_what_is_preserved_are_kept_once() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let own = file.as_raw_fd();
        let keep = Keep::new(2, [file.as_fd(), file.as_fd()].into_iter());
        let mut expected = vec![0, 1, 2, 3, 4];
        expected.extend((own > 4).then_some(own));
        assert_eq!(keep.0, expected);
    }
}
