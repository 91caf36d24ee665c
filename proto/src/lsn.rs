//! Positions in the write-ahead log.
//!
//! An [`Lsn`] alone never orders two histories; compare [`crate::timeline::Ancestry`] first (I14).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A byte position in the WAL, printed as PostgreSQL's `pg_lsn` (`X/X`, hexadecimal).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(u64);

/// Why a text is not a WAL position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("WAL position {0:?} is not valid: want two hexadecimal numbers as in 0/3000028")]
pub struct LsnError(pub String);

impl Lsn {
    /// A position from its byte offset (Patroni's form in its keys and REST bodies).
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The byte offset.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Bytes from `earlier` up to here; 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl FromStr for Lsn {
    type Err = LsnError;
    fn from_str(text: &str) -> Result<Self, LsnError> {
        let half = |part: &str| {
            let plain =
                (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            if plain { u64::from_str_radix(part, 16).ok() } else { None }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some((half(high)? << 32) | half(low)?))
            .map(Self)
            .ok_or_else(|| LsnError(text.to_owned()))
    }
}

impl TryFrom<String> for Lsn {
    type Error = LsnError;
    fn try_from(text: String) -> Result<Self, LsnError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(bytes in any::<u64>()) {
            let lsn = Lsn::new(bytes);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>(), Ok(lsn));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,24}") {
            if let Ok(lsn) = text.parse::<Lsn>() {
                prop_assert_eq!(lsn.to_string().parse::<Lsn>(), Ok(lsn));
            }
        }

        /// hazards.md row 64: in PostgreSQL's text the halves are not padded, so the order of texts is
        /// another one, and a signed or narrower number would turn round at an edge.
        #[test]
        fn positions_order_as_their_bytes_do(one in (half(), half()), two in (half(), half())) {
            let number = (u64::from(one.0) << 32) | u64::from(one.1);
            let other = (u64::from(two.0) << 32) | u64::from(two.1);
            let read = |n: u64| format!("{:X}/{:X}", n >> 32, n & 0xFFFF_FFFF).parse::<Lsn>();
            let (Ok(lsn), Ok(than)) = (read(number), read(other)) else {
                return Err(TestCaseError::fail("PostgreSQL's own form is refused"));
            };
            prop_assert_eq!(lsn.get(), number);
            prop_assert_eq!(lsn.cmp(&than), number.cmp(&other));
            prop_assert_eq!(lsn.bytes_since(than), number.saturating_sub(other));
        }
    }

    /// Half a position: any, and the edges.
    fn half() -> impl Strategy<Value = u32> {
        let edges = [0, 1, 0xF, 0x10, 0x7FFF_FFFF, 0x8000_0000, u32::MAX - 1, u32::MAX];
        prop_oneof![any::<u32>(), proptest::sample::select(edges.to_vec())]
    }

    #[test]
    fn refuses_what_is_not_a_position() {
        for bad in ["", "0", "/", "0/", "/0", "0/123456789", "+0/1", "0/1/2", "x/1"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
