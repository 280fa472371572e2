//! The codec against itself, byte by byte, and against noise.

use super::*;

fn frames() -> Vec<Frame> {
    let headers: Headers = vec![("streamtype".into(), "data".into()), ("port".into(), "80".into())];
    vec![
        Frame::SynStream { id: 1, fin: false, headers: headers.clone() },
        Frame::SynReply { id: 1, fin: true, headers: vec![] },
        Frame::Headers { id: 1, fin: false, headers },
        Frame::Settings(vec![(INITIAL_WINDOW, 65536), (4, 100)]),
        Frame::Ping(7),
        Frame::WindowUpdate { id: 3, delta: 1000 },
        Frame::Data { id: 1, fin: false, payload: Bytes::from_static(b"hello") },
        Frame::Data { id: 3, fin: true, payload: Bytes::new() },
        Frame::Rst { id: 5, status: 3 },
        Frame::GoAway { last: 5, status: 0 },
    ]
}

fn encode(frames: &[Frame]) -> BytesMut {
    let mut bytes = BytesMut::new();
    let mut encoder = Encoder::new().unwrap();
    frames.iter().for_each(|frame| encoder.write(frame, &mut bytes).unwrap());
    bytes
}

#[test]
fn frames_survive_the_wire() {
    let mut decoder = Decoder::new();
    decoder.buffer = encode(&frames());
    let mut read = Vec::new();
    while let Some(frame) = decoder.next().unwrap() {
        read.push(frame);
    }
    assert_eq!(read, frames());
}

#[test]
fn a_frame_may_arrive_byte_by_byte() {
    let mut decoder = Decoder::new();
    let (mut data, mut others) = (Vec::new(), 0);
    for byte in encode(&frames()) {
        decoder.buffer.put_u8(byte);
        while let Some(frame) = decoder.next().unwrap() {
            match frame {
                Frame::Data { payload, fin, .. } => data.push((payload, fin)),
                _ => others += 1,
            }
        }
    }
    assert_eq!(others, frames().len() - 2);
    let whole: Vec<u8> = data.iter().flat_map(|(payload, _)| payload.to_vec()).collect();
    assert_eq!(whole, b"hello");
    assert_eq!(data.iter().filter(|(_, fin)| *fin).count(), 1);
}

#[test]
fn the_layout_is_the_published_one() {
    assert_eq!(encode(&[Frame::Ping(1)])[..], [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
    let fin = Frame::Data { id: 5, fin: true, payload: Bytes::from_static(b"x") };
    assert_eq!(encode(&[fin])[..], [0, 0, 0, 5, 1, 0, 0, 1, b'x']);
}

#[test]
fn unknown_types_are_skipped_and_other_versions_refused() {
    let mut decoder = Decoder::new();
    decoder.buffer.extend_from_slice(&[0x80, 3, 0, 99, 0, 0, 0, 2, 1, 2]);
    decoder.buffer.extend_from_slice(&encode(&[Frame::Ping(1)]));
    assert_eq!(decoder.next().unwrap(), Some(Frame::Ping(1)));
    decoder.buffer.extend_from_slice(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
    assert!(decoder.next().unwrap_err().to_string().contains("version 2"));
}

#[test]
fn a_control_frame_that_claims_megabytes_is_refused_before_it_arrives() {
    let mut decoder = Decoder::new();
    decoder.buffer.extend_from_slice(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]);
    assert!(decoder.next().unwrap_err().to_string().contains("16777215 bytes"));
}

#[test]
fn a_settings_count_that_lies_is_an_error() {
    let mut decoder = Decoder::new();
    decoder.buffer.extend_from_slice(&[0x80, 3, 0, 4, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]);
    assert!(decoder.next().is_err());
}

/// xorshift: the same noise at each run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn noise_never_panics_and_never_piles_up() {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for round in 0..3000 {
        let mut bytes = match round % 3 {
            // Noise alone; valid frames with some bytes turned; a control frame's start and noise after it.
            0 => BytesMut::new(),
            1 => encode(&frames()),
            _ => BytesMut::from(&[0x80, 3, 0, (noise.next() % 10) as u8, 0, 0, 0, (noise.next() % 64) as u8][..]),
        };
        for _ in 0..noise.next() % 5 {
            if !bytes.is_empty() {
                let at = noise.next() as usize % bytes.len();
                bytes[at] = noise.next() as u8;
            }
        }
        if round % 3 != 1 {
            (0..200).for_each(|_| bytes.put_u8(noise.next() as u8));
        }
        let mut decoder = Decoder::new();
        for piece in bytes.chunks(1 + noise.next() as usize % 50) {
            decoder.buffer.extend_from_slice(piece);
            while let Ok(Some(_)) = decoder.next() {}
            assert!(decoder.buffer.len() <= bytes.len());
        }
    }
}
