//! Header blocks: names and values, zlib-compressed over the life of the connection with the dictionary of SPDY/3.
//!
//! Source: SPDY Protocol, Draft 3.1, section 2.6.10. Both directions have one compression context each, so a block
//! that cannot be read makes every later one unreadable: such an error ends the connection.

use crate::error::{Context as _, Error, Kind, Result};
use bytes::{Buf as _, BufMut as _};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::sync::LazyLock;

/// Names (lower case) and values of a stream. Several values of one name are joined by NUL.
pub(in crate::streaming) type Headers = Vec<(String, String)>;

/// Longest block once inflated. A request has some hundred bytes; a bomb (42 bytes to megabytes) is cut here.
const INFLATED_MAX: usize = 32 << 10;
/// Most headers of a block.
const COUNT_MAX: u32 = 100;

/// Words of the dictionary that carry their length before them.
const WORDS: [&str; 64] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
];
/// The last such word, and what follows it without lengths.
const LAST: &str = "origin";
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.iter().chain([&LAST]) {
        bytes.put_u32(word.len() as u32);
        bytes.put_slice(word.as_bytes());
    }
    bytes.put_slice(TAIL.as_bytes());
    bytes
});

/// Reads the header blocks of one direction.
#[derive(Debug)]
pub(super) struct Inflater {
    zlib: Decompress,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { zlib: Decompress::new(true) }
    }

    /// The headers of the next block.
    ///
    /// # Errors
    /// For a block that is not zlib, is not whole, inflates to more than 32 KiB, or has too many headers.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers> {
        let mut plain = vec![0; INFLATED_MAX];
        let length = self.inflate(block, &mut plain)?;
        parse(&plain[..length])
    }

    fn inflate(&mut self, mut block: &[u8], plain: &mut [u8]) -> Result<usize> {
        let mut length = 0;
        while !block.is_empty() {
            let (read, written) = (self.zlib.total_in(), self.zlib.total_out());
            let step = self.zlib.decompress(block, &mut plain[length..], FlushDecompress::Sync);
            block = &block[(self.zlib.total_in() - read) as usize..];
            let progress = self.zlib.total_out() - written;
            length += progress as usize;
            match step {
                Err(asks) if asks.needs_dictionary().is_some() => {
                    self.zlib.set_dictionary(&DICTIONARY).map_err(bad)?;
                }
                Err(why) => return Err(bad(why)),
                Ok(_) if length == plain.len() => {
                    return Err(invalid("a header block inflates to more than 32 KiB"));
                }
                Ok(Status::StreamEnd) => return Err(invalid("a header block ends its compression")),
                Ok(_) if progress == 0 && self.zlib.total_in() == read => {
                    return Err(invalid("a header block makes no progress"));
                }
                Ok(_) => {}
            }
        }
        Ok(length)
    }
}

fn bad(why: impl std::fmt::Display) -> Error {
    invalid(format!("a header block is not zlib: {why}"))
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, what)
}

fn parse(mut plain: &[u8]) -> Result<Headers> {
    let short = || invalid("a header block ends too early");
    let count = plain.try_get_u32().map_err(|_| short())?;
    if count > COUNT_MAX {
        return Err(invalid(format!("a header block has {count} headers")));
    }
    let mut text = || {
        let length = plain.try_get_u32().map_err(|_| short())? as usize;
        let (text, rest) = plain.split_at_checked(length).ok_or_else(short)?;
        plain = rest;
        String::from_utf8(text.to_vec()).map_err(|_| invalid("a header is not UTF-8"))
    };
    (0..count).map(|_| Ok((text()?.to_ascii_lowercase(), text()?))).collect()
}

/// Writes the header blocks of one direction.
#[derive(Debug)]
pub(super) struct Deflater {
    zlib: Compress,
}

impl Deflater {
    pub(super) fn new() -> Result<Self> {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&DICTIONARY).map_err(bad)?;
        Ok(Self { zlib })
    }

    /// Appends a block with these headers.
    pub(super) fn write(&mut self, headers: &Headers, out: &mut impl bytes::BufMut) -> Result<()> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        // Deflate never grows its input by more than this, sync marker included.
        let mut block = Vec::with_capacity(plain.len() + plain.len() / 8 + 128);
        self.zlib
            .compress_vec(&plain, &mut block, FlushCompress::Sync)
            .map_err(std::io::Error::other)
            .context(|| "compress a header block")?;
        out.put_slice(&block);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn deflate(plain: &[u8]) -> Vec<u8> {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&DICTIONARY).unwrap();
        let mut block = Vec::with_capacity(plain.len() + 1024);
        zlib.compress_vec(plain, &mut block, FlushCompress::Sync).unwrap();
        block
    }

    #[test]
    fn the_dictionary_is_the_published_one() {
        // The checksum that every SPDY/3 zlib stream names in its header.
        let mut zlib = Compress::new(Compression::fast(), true);
        assert_eq!(zlib.set_dictionary(&DICTIONARY).unwrap(), 0xe3c6_a7c2);
        assert_eq!(DICTIONARY.len(), 1423);
    }

    #[test]
    fn blocks_share_one_context() {
        let (mut deflater, mut inflater) = (Deflater::new().unwrap(), Inflater::new());
        let sent = headers(&[("streamtype", "stdin"), ("requestid", "0"), ("empty", "")]);
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let mut block = Vec::new();
            deflater.write(&sent, &mut block).unwrap();
            assert_eq!(inflater.read(&block).unwrap(), sent);
            sizes.push(block.len());
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}");
    }

    #[test]
    fn a_bomb_is_refused() {
        let mut plain = vec![0, 0, 0, 1, 0, 0, 0, 1, b'a', 0, 0x10, 0, 0];
        plain.extend(vec![b'x'; 1 << 20]);
        let block = deflate(&plain);
        assert!(block.len() < 4096);
        let error = Inflater::new().read(&block).unwrap_err().to_string();
        assert_eq!(error, "a header block inflates to more than 32 KiB");
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        for (plain, said) in [
            (&[0, 0, 0][..], "ends too early"),
            (&[0, 0, 0, 1], "ends too early"),
            (&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a'], "ends too early"),
            (&[0xff, 0xff, 0xff, 0xff], "has 4294967295 headers"),
            (&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0], "not UTF-8"),
        ] {
            let error = Inflater::new().read(&deflate(plain)).unwrap_err().to_string();
            assert!(error.contains(said), "{plain:?}: {error}");
        }
        assert!(Inflater::new().read(b"not zlib at all").is_err());
        assert!(Inflater::new().read(&[]).is_err());
    }
}
