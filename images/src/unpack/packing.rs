//! How a layer is packed: recognised by its first bytes, as every peer does, because media types lie.
//!
//! zstd lets a frame ask for a window of terabytes, which the reader must hold in memory (RFC 8878, 3.1.1.1.2).

use std::io::{BufRead, Read};

use crate::error::{Context, Error, Kind, Result};

/// The window that is taken where nobody says another: what level 20 of zstd asks for.
pub(crate) const WINDOW: u64 = 32 << 20;
const FRAME: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What comes out is verified against the diff id. `window`: bytes that a zstd frame may have as its window.
///
/// # Errors
/// [`Kind::TooLarge`] for a larger window; errors of the source keep their kind.
pub(crate) fn decompress<'a>(mut input: impl BufRead + Send + 'a, window: u64) -> Result<Box<dyn Read + Send + 'a>> {
    let head = input.fill_buf().context(|| "layer")?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        // A zstd frame, or a skippable one before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            // The first frame is told about; a later one is refused by the decoder.
            if let Some(asked) = window_of(head).filter(|asked| *asked > window) {
                let why = format!("layer: a zstd window of {} MiB, more than {}", asked >> 20, window >> 20);
                return Err(Error::new(Kind::TooLarge, why));
            }
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).context(|| "zstd")?;
            decoder.window_log_max(window.max(1024).ilog2()).context(|| "zstd")?;
            Box::new(decoder)
        }
        _ => Box::new(input),
    })
}

/// The window of a frame, from its header.
fn window_of(head: &[u8]) -> Option<u64> {
    let rest = head.strip_prefix(&FRAME)?;
    let (descriptor, rest) = rest.split_first()?;
    if descriptor & 0x20 == 0 {
        let byte = u32::from(*rest.first()?);
        let base = 1u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * u64::from(byte & 7));
    }
    // One segment: all of the content, whose size follows the dictionary's id.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (size, more) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(rest.get(dictionary..dictionary + size)?);
    Some(u64::from_le_bytes(bytes) + more)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(rest: &[u8]) -> Vec<u8> {
        [&FRAME, rest].concat()
    }

    #[test]
    fn windows_of_frames() {
        for (rest, window) in [
            (&[0x00, 0x00][..], 1 << 10),
            (&[0x04, 0x68], 8 << 20),
            (&[0x00, 0x6a], 10 << 20),
            (&[0x00, 0x88], 128 << 20),
            (&[0x00, 0xa8], 2 << 30),
            (&[0x20, 200], 200),
            (&[0x61, 9, 1, 0], 257),
            (&[0xa0, 0, 0, 0, 0x80], 2 << 30),
        ] {
            assert_eq!(window_of(&head(rest)), Some(window), "{rest:x?}");
        }
        assert_eq!((window_of(b"ustar"), window_of(&head(&[0xe0, 1, 2]))), (None, None));
        assert_eq!(window_of(&zstd::encode_all(&b"content"[..], 19).unwrap()), Some(7));
    }

    #[test]
    fn every_packing_and_too_wide_a_window() {
        let plain = |packed: &[u8], window| {
            let mut out = Vec::new();
            decompress(packed, window).and_then(|mut read| read.read_to_end(&mut out).context(|| "read")).map(|_| out)
        };
        let text = b"content ".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &text).unwrap();
        let gzip = gzip.finish().unwrap();
        let frame = zstd::encode_all(&text[..], 1).unwrap();
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &frame].concat();
        let twice = [gzip.clone(), gzip.clone()].concat();
        for packed in [&text, &gzip, &frame, &skippable] {
            assert_eq!(plain(packed, 8 << 20).unwrap(), text);
        }
        assert_eq!(plain(&twice, 8 << 20).unwrap().len(), 2 * text.len());
        let why = plain(&head(&[0x00, 0xa8, 1, 0, 0]), 32 << 20).unwrap_err();
        assert_eq!((why.kind(), why.to_string().contains("2048 MiB, more than 32")), (Kind::TooLarge, true), "{why}");
        // Behind another frame the decoder itself refuses.
        let second = [&frame[..], &head(&[0x00, 0xa8, 1, 0, 0])].concat();
        assert!(plain(&second, 32 << 20).is_err());
    }
}
