//! Runs fuzz targets on the stable toolchain, for a moment, in the unit tests.

use std::time::{Duration, Instant};

/// What a driver spends at least. The fuzzer itself runs for as long as one lets it.
const TIME: Duration = Duration::from_secs(1);
/// Fewer tell little, however slow the machine is.
const INPUTS_MIN: usize = 1_000;

/// Gives each of the corpus to the target, then what comes of changing them at random.
pub(crate) fn drive(corpus: &[Vec<u8>], target: impl Fn(&[u8])) {
    corpus.iter().for_each(|bytes| target(bytes));
    let mut random = Random(0x7469_6666_696e);
    let started = Instant::now();
    let mut inputs = 0;
    while started.elapsed() < TIME || inputs < INPUTS_MIN {
        for seed in corpus {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(6) {
                random.mutate(&mut bytes);
            }
            target(&bytes);
        }
        inputs += corpus.len();
    }
}

/// xorshift64*: the same bytes on every machine, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        const TELLING: &[u8] = b"\0\x01\xff\x7f,=rncpvsiayme0\x03";
        if self.below(2) == 0 { TELLING[self.below(TELLING.len())] } else { self.below(256) as u8 }
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        match self.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, self.byte()),
            2 if at < bytes.len() => bytes[at] = self.byte(),
            3 if at < bytes.len() => drop(bytes.remove(at)),
            _ => {
                let piece = bytes[at..].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, piece.into_iter().take(64));
            }
        }
    }
}
