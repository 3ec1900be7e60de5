//! Why a session must keep its present server connection.

use crate::sql::Pin;

const ALL: [Pin; 12] = [
    Pin::TemporaryTable,
    Pin::AdvisoryLock,
    Pin::Listen,
    Pin::HoldCursor,
    Pin::Sequence,
    Pin::PreparedStatement,
    Pin::Setting,
    Pin::Variable,
    Pin::TableLock,
    Pin::DistributedTransaction,
    Pin::FoundRows,
    Pin::Unknown,
];

/// Pins whose cause a server can see. Of the others only DISCARD is known to end them.
const VISIBLE: [Pin; 5] =
    [Pin::TemporaryTable, Pin::AdvisoryLock, Pin::Listen, Pin::HoldCursor, Pin::PreparedStatement];

/// A set of pins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pins {
    bits: u16,
}

impl Pins {
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    pub fn contains(self, pin: Pin) -> bool {
        self.bits & bit(pin) != 0
    }

    /// Whether the pin is new.
    pub fn insert(&mut self, pin: Pin) -> bool {
        let new = !self.contains(pin);
        self.bits |= bit(pin);
        new
    }

    /// Whether the pin was there.
    pub fn remove(&mut self, pin: Pin) -> bool {
        let had = self.contains(pin);
        self.bits &= !bit(pin);
        had
    }

    pub fn clear(&mut self) {
        self.bits = 0;
    }

    /// Those that a server can be asked about.
    pub fn visible(self) -> Pins {
        let all = VISIBLE.into_iter().fold(0, |bits, pin| bits | bit(pin));
        Pins { bits: self.bits & all }
    }

    pub fn all_visible() -> Pins {
        Pins { bits: u16::MAX }.visible()
    }

    pub fn and(self, other: Pins) -> Pins {
        Pins { bits: self.bits & other.bits }
    }

    pub fn or(self, other: Pins) -> Pins {
        Pins { bits: self.bits | other.bits }
    }

    pub fn without(self, other: Pins) -> Pins {
        Pins { bits: self.bits & !other.bits }
    }

    pub fn iter(self) -> impl Iterator<Item = Pin> {
        ALL.into_iter().filter(move |pin| self.contains(*pin))
    }
}

fn bit(pin: Pin) -> u16 {
    1 << (pin as u16)
}

#[cfg(test)]
mod tests {
    use super::Pins;
    use crate::sql::Pin;

    #[test]
    fn a_pin_ends_with_its_own_cause() {
        let mut pins = Pins::default();
        assert!(pins.insert(Pin::Listen) && !pins.insert(Pin::Listen));
        pins.insert(Pin::Sequence);
        assert!(pins.remove(Pin::Listen) && !pins.remove(Pin::Listen));
        assert_eq!(pins.iter().collect::<Vec<_>>(), [Pin::Sequence]);
    }
}
