//! One 512-byte tar header: POSIX ustar (IEEE 1003.1 pax), GNU, star and V7, read strictly.
//!
//! Where readers in the wild disagree about a field (a number with junk behind it, a star header whose prefix does not
//! end where it should), the header is refused: two readings of one archive are an attack (SECURITY_CASES 14).

use crate::error::{Error, Kind, Result};

/// Size of a header and the unit in which data is padded.
pub const BLOCK: usize = 512;

/// (offset, length) of each piece of a sparse file that holds data.
pub type Fragments = Vec<(u64, u64)>;

/// What the type flag says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flag {
    /// `0`, `7`: a file.
    Regular,
    /// NUL: a file, or by a slash at the end of its name a directory, from before there was a type for these.
    Old,
    /// `1`: another name of an earlier entry.
    HardLink,
    /// `2`.
    Symlink,
    /// `3`.
    Char,
    /// `4`.
    Block,
    /// `5`.
    Directory,
    /// `6`.
    Fifo,
    /// `S`: GNU sparse file, old form.
    GnuSparse,
    /// `L`: the data is the next entry's path.
    GnuLongName,
    /// `K`: the data is the next entry's link target.
    GnuLongLink,
    /// `x`: pax records for the next entry.
    Pax,
    /// `g`: pax records for all that follow.
    PaxGlobal,
}

/// The fields of a header, before any extension changes them.
#[derive(Clone, Debug)]
pub struct Header {
    /// What the entry is.
    pub flag: Flag,
    /// The path, with the ustar prefix joined.
    pub path: Vec<u8>,
    /// The link target.
    pub link: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Bytes of data that follow.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Device numbers; zero for what is no device.
    pub device: (u32, u32),
}

fn refuse(why: &str) -> Error {
    Error::new(Kind::Invalid, format!("tar header: {why}"))
}

/// A block of zeros ends the archive.
pub fn is_end(block: &[u8; BLOCK]) -> bool {
    block.iter().all(|b| *b == 0)
}

/// Reads one header.
///
/// # Errors
/// [`Kind::Invalid`] for a wrong checksum, an unknown type or a malformed field.
pub fn parse(block: &[u8; BLOCK]) -> Result<Header> {
    check_sum(block)?;
    let posix = &block[257..263] == b"ustar\0";
    let gnu = &block[257..265] == b"ustar  \0";
    // star keeps two times where others have the end of the prefix; those who do not know it read on to a NUL.
    if posix && &block[508..512] == b"tar\0" && block[475] != 0 && block[476..500].iter().any(|b| *b != 0) {
        return Err(refuse("a prefix that star and ustar end differently"));
    }
    if !posix && !gnu && block[345..500].iter().any(|b| *b != 0) {
        return Err(refuse("a path prefix without the ustar magic"));
    }
    let flag = flag(block[156])?;
    let mut path = text(&block[0..100]).to_vec();
    if posix && block[345] != 0 {
        path = [text(&block[345..500]), b"/", &path[..]].concat();
    }
    let size = number(&block[124..136])?;
    // Read also where they mean nothing: Python takes a malformed one for the end of the archive.
    let number32 = |field| number(field).and_then(|n| u32::try_from(n).map_err(|_| refuse("device number")));
    let device = (number32(&block[329..337])?, number32(&block[337..345])?);
    Ok(Header {
        flag,
        path,
        link: text(&block[157..257]).to_vec(),
        mode: u32::try_from(number(&block[100..108])?).map_err(|_| refuse("mode"))?,
        uid: unsigned(number(&block[108..116])?, "negative uid")?,
        gid: unsigned(number(&block[116..124])?, "negative gid")?,
        size: unsigned(size, "negative size")?,
        mtime: number(&block[136..148])?,
        device,
    })
}

fn flag(byte: u8) -> Result<Flag> {
    Ok(match byte {
        0 => Flag::Old,
        b'0' | b'7' => Flag::Regular,
        b'1' => Flag::HardLink,
        b'2' => Flag::Symlink,
        b'3' => Flag::Char,
        b'4' => Flag::Block,
        b'5' => Flag::Directory,
        b'6' => Flag::Fifo,
        b'S' => Flag::GnuSparse,
        b'L' => Flag::GnuLongName,
        b'K' => Flag::GnuLongLink,
        b'x' => Flag::Pax,
        b'g' => Flag::PaxGlobal,
        other => return Err(refuse(&format!("unknown entry type {:?}", other as char))),
    })
}

fn check_sum(block: &[u8; BLOCK]) -> Result<()> {
    let stored = number(&block[148..156])?;
    let as_stored = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(|(at, byte)| as_stored(at, *byte));
    let sum: i64 = bytes().map(i64::from).sum();
    // Some ancient writers added signed bytes.
    let signed: i64 = bytes().map(|b| i64::from(b.cast_signed())).sum();
    match stored == sum || stored == signed {
        true => Ok(()),
        false => Err(refuse("the checksum is wrong")),
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

fn unsigned(value: i64, why: &str) -> Result<u64> {
    u64::try_from(value).map_err(|_| refuse(why))
}

/// Octal text, padded by spaces or NUL; or with the top bit set a big-endian two's complement number (GNU).
pub(super) fn number(field: &[u8]) -> Result<i64> {
    if field[0] & 0x80 != 0 {
        return base256(field);
    }
    let is_pad = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_pad).unwrap_or(digits.len());
    if !digits[end..].iter().all(is_pad) {
        return Err(refuse("junk behind a number"));
    }
    digits[..end].iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' if value >> 60 == 0 => Ok(value << 3 | i64::from(byte - b'0')),
        _ => Err(refuse("a number is not octal")),
    })
}

fn base256(field: &[u8]) -> Result<i64> {
    // 0x80 marks a positive number, 0xff a negative one; bit 6 of the first byte is the sign.
    let negative = field[0] & 0x40 != 0;
    let fill = if negative { 0xff } else { 0 };
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let bytes: Vec<u8> = std::iter::once(first).chain(field[1..].iter().copied()).collect();
    let (high, low) = bytes.split_at(bytes.len().saturating_sub(8));
    let mut eight = [fill; 8];
    eight[8 - low.len()..].copy_from_slice(low);
    let value = i64::from_be_bytes(eight);
    match high.iter().all(|b| *b == fill) && (value < 0) == negative {
        true => Ok(value),
        false => Err(refuse("a number exceeds 63 bits")),
    }
}

/// The sparse map of an old GNU header: (offset, length) pairs, whether an extension block follows, and the real size.
///
/// # Errors
/// [`Kind::Invalid`] for malformed numbers.
pub fn gnu_sparse(block: &[u8; BLOCK]) -> Result<(Fragments, bool, u64)> {
    let pairs = sparse_pairs(&block[386..482])?;
    Ok((pairs, block[482] != 0, unsigned(number(&block[483..495])?, "negative size")?))
}

/// An extension block of an old GNU sparse map.
///
/// # Errors
/// [`Kind::Invalid`] for malformed numbers.
pub fn gnu_sparse_more(block: &[u8; BLOCK]) -> Result<(Fragments, bool)> {
    Ok((sparse_pairs(&block[..504])?, block[504] != 0))
}

fn sparse_pairs(bytes: &[u8]) -> Result<Fragments> {
    let mut pairs = Vec::new();
    for pair in bytes.chunks_exact(24) {
        if pair[0] == 0 && pair[12] == 0 {
            break;
        }
        let at = |range| number(range).and_then(|n| unsigned(n, "negative sparse offset"));
        pairs.push((at(&pair[..12])?, at(&pair[12..])?));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0").unwrap(), 0o644);
        assert_eq!(number(b"   644 \0").unwrap(), 0o644);
        assert_eq!(number(b"77777777").unwrap(), 0o77777777);
        assert_eq!(number(b"\0\0\0\0\0\0\0\0").unwrap(), 0);
        assert_eq!(number(b"        ").unwrap(), 0);
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\0").unwrap(), 256);
        assert_eq!(number(b"\x80\0\0\0\x02\0\0\0\0\0\0\0").unwrap(), 2 << 56);
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").unwrap(), -1);
        for bad in [
            &b"644x   \0"[..],
            b"0000648\0",
            b"6 4 4  \0",
            b"-1     \0",
            b"0x10   \0",
            b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut block = [0u8; BLOCK];
        block[..5].copy_from_slice(b"hello");
        block[156] = b'0';
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert_eq!(parse(&block).unwrap().path, b"hello");
        block[0] ^= 1;
        assert!(parse(&block).unwrap_err().to_string().contains("checksum"));
    }
}
