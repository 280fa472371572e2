//! A layer as one file: an uncompressed EROFS image (kernel documentation, filesystems/erofs.rst; the layout is that of
//! `fs/erofs/erofs_fs.h`), written in one pass over the tar stream and mounted read-only by the kernel itself.
//!
//! ```text
//! block 0          superblock at 1024, the root directory's inode behind it
//! segments         inodes of files, links and devices with their attributes, small files and tails of files inline
//! data             whole blocks of files, in the order of the archive; segments and data alternate
//! directories      their inodes and short contents, then the full blocks of long ones
//! ```
//! A file's inode is written as soon as its data has passed, so that memory holds only names, numbers of inodes and
//! directories: some 60 bytes an entry. A layer that would need more than [`image::BUDGET`] of it, or holds what the
//! format cannot say, becomes a tree of files instead ([`either`]).
//!
//! The image is a function of the archive and of the layers below: the same input gives the same bytes.

pub(crate) mod either;
pub(crate) mod finish;
pub(crate) mod format;
pub(crate) mod image;
pub(crate) mod names;
pub(crate) mod out;
pub(crate) mod read;
