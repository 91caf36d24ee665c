//! Durations and sizes as people write them: never without a unit.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration that must be written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        humantime::parse_duration(&text).map(Self).map_err(|problem| {
            format!("duration {text:?} is not valid ({problem}): want a number with its unit, as in 500ms, 30s, 5m")
        })
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        humantime::format_duration(span.0).to_string()
    }
}

/// A number of bytes that must be written with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 5] =
    [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parsed = UNITS.iter().find_map(|(unit, factor)| {
            let number = text.strip_suffix(unit)?.trim().parse::<u64>().ok()?;
            number.checked_mul(*factor)
        });
        parsed.map(Self).ok_or_else(|| {
            format!("size {text:?} is not valid: want a whole number with one of PostgreSQL's units B, kB, MB, GB, TB, as in 16MB")
        })
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        let (unit, factor) = UNITS
            .iter()
            .find(|(_, factor)| size.0 >= *factor && size.0.is_multiple_of(*factor))
            .unwrap_or(&("B", 1));
        format!("{}{unit}", size.0 / factor)
    }
}
