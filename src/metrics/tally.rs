//! A number with one writer and any number of readers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that one thread writes. A relaxed load and a relaxed store compile to plain moves; a
/// `fetch_add` would lock the cache line for nothing. Two writers at once would lose counts, not
/// memory safety.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds, wrapping: a gauge subtracts by adding the two's complement.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.get().wrapping_add(amount), Ordering::Relaxed);
    }

    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Things that can be added up over workers.
pub trait Sum {
    fn zero() -> Self;
    /// Adds `other` to `self`. The caller must be the only writer of `self`.
    fn absorb(&self, other: &Self);
    /// Whether anything has been counted.
    fn is_used(&self) -> bool;
}

impl Sum for Tally {
    fn zero() -> Tally {
        Tally::default()
    }

    fn absorb(&self, other: &Tally) {
        self.add(other.get());
    }

    fn is_used(&self) -> bool {
        self.get() != 0
    }
}

impl<T: Sum, const N: usize> Sum for [T; N] {
    fn zero() -> [T; N] {
        std::array::from_fn(|_| T::zero())
    }

    fn absorb(&self, other: &[T; N]) {
        for (mine, theirs) in self.iter().zip(other) {
            mine.absorb(theirs);
        }
    }

    fn is_used(&self) -> bool {
        self.iter().any(Sum::is_used)
    }
}

/// Declares a struct of summable fields, so that none can be forgotten when workers are added up.
/// Aligned to two cache lines (adjacent lines are fetched together), so that two workers never
/// write to the same one.
macro_rules! sums {
    ($(#[$about:meta])* pub struct $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)+ }) => {
        $(#[$about])*
        #[derive(Debug)]
        #[repr(align(128))]
        pub struct $name { $($(#[$doc])* pub(in $crate::metrics) $field: $type,)+ }

        impl $crate::metrics::tally::Sum for $name {
            fn zero() -> $name {
                $name { $($field: $crate::metrics::tally::Sum::zero(),)+ }
            }

            fn absorb(&self, other: &$name) {
                $($crate::metrics::tally::Sum::absorb(&self.$field, &other.$field);)+
            }

            fn is_used(&self) -> bool {
                false $(|| $crate::metrics::tally::Sum::is_used(&self.$field))+
            }
        }
    };
}
pub(super) use sums;
