use super::*;
use crate::protocol::fuzz_driver;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BOTH: [Compression; 2] = [Compression::Zlib, Compression::Zstd { level: 3 }];

fn pack(compression: Compression, bytes: &[u8]) -> BytesMut {
    let mut packed = Compressed::new((), compression, BytesMut::new());
    assert_eq!(packed.pack(bytes).unwrap(), bytes.len());
    packed.waiting
}

#[test]
fn what_is_agreed_on() {
    let (zlib, zstd) = (Capabilities::COMPRESS, Capabilities::ZSTD);
    let cases = [
        (Capabilities::NONE, 5, None),
        (zlib, 0, Some(Compression::Zlib)),
        (zlib | zstd, 5, Some(Compression::Zlib)),
        (zstd, 5, Some(Compression::Zstd { level: 5 })),
        (zstd, 0, Some(Compression::Zstd { level: ZSTD_LEVEL_DEFAULT })),
        (zstd, 22, Some(Compression::Zstd { level: ZSTD_LEVEL_MAX })),
    ];
    for (capabilities, level, expected) in cases {
        assert_eq!(Compression::agreed(capabilities, level), expected);
    }
}

#[test]
fn the_shape_of_packets() {
    for compression in BOTH {
        // Short ones go as they are.
        assert_eq!(pack(compression, b"\x01\0\0\0\x0e")[..], *b"\x05\0\0\0\0\0\0\x01\0\0\0\x0e");
        let long = [b'x'; 1000];
        let packed = pack(compression, &long);
        assert!(packed.len() < 100);
        assert_eq!(packed[4..7], [0xe8, 0x03, 0]);
        assert_eq!(usize::from(packed[0]) + HEAD_BYTES, packed.len());
    }
}

#[tokio::test]
async fn a_conversation_passes_in_any_pieces_and_its_sequence_goes_on() {
    for compression in BOTH {
        let (near, far) = tokio::io::duplex(100);
        let mut near = Compressed::new(near, compression, BytesMut::new());
        let mut far = Compressed::new(far, compression, BytesMut::new());
        let large: Vec<u8> = (0..300_000_u32).flat_map(|at| (at / 7).to_le_bytes()).collect();
        let writing = async {
            near.write_all(&large).await.unwrap();
            near.flush().await.unwrap();
        };
        let mut received = vec![0; large.len()];
        let (read, ()) = tokio::join!(far.read_exact(&mut received), writing);
        read.unwrap();
        assert!(received == large);
        assert_eq!(far.sequence, near.sequence);
        let before = far.sequence;
        far.write_all(b"answer").await.unwrap();
        far.flush().await.unwrap();
        let mut answer = [0; 6];
        near.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, near.sequence), (b"answer", before.wrapping_add(1)));
        drop(far);
        assert_eq!(near.read(&mut answer).await.unwrap(), 0, "the end is the end");
        assert_eq!(near.received.capacity() + near.plain.capacity() + near.waiting.capacity(), 0);
    }
}

#[test]
fn what_is_no_packet_is_refused() {
    for compression in BOTH {
        let long = [b'x'; 1000];
        let good = pack(compression, &long);
        for (name, at, byte) in
            [("too short a length", 4, 1), ("too long a length", 5, 9), ("garbage", 9, 0xEE)]
        {
            let mut bad = good.clone();
            bad[at] = byte;
            let mut compressed = Compressed::new((), compression, bad);
            let error = compressed.unpack().expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}");
        }
        let mut cut = Compressed::new((), compression, good.clone().split_to(good.len() - 1));
        assert!(!cut.unpack().unwrap());
    }
}

#[test]
fn no_bytes_upset_the_unpacking() {
    let long = [b'x'; 1000];
    let corpus = vec![
        b"\x05\0\0\0\0\0\0\x01\0\0\0\x0e".to_vec(),
        pack(Compression::Zlib, &long).to_vec(),
        pack(Compression::Zstd { level: 3 }, &long).to_vec(),
    ];
    fuzz_driver::drive(&corpus, fuzz_compressed);
}
