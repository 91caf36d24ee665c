//! An instant as people and `patronictl` write it: ISO 8601 with the offset of its time zone, without
//! which it is ambiguous.

use std::time::Duration;

use regent_proto::time::{BootTime, WallTime};

/// Why it is no instant to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoInstant {
    /// It has no time zone.
    NoZone,
    /// It cannot be read.
    Unreadable,
    /// It is over.
    Past,
}

/// How long until then, as the clocks stand now; on the boot clock, which nothing steps (I11).
pub(super) fn due(text: &str, wall: WallTime, now: BootTime) -> Result<BootTime, NoInstant> {
    let at = read(text)?;
    let left = at.checked_sub(i128::from(wall.0)).ok_or(NoInstant::Unreadable)?;
    match u64::try_from(left) {
        Ok(left) => Ok(now.plus(Duration::from_millis(left))),
        Err(_) => Err(NoInstant::Past),
    }
}

/// Milliseconds since the Unix epoch.
fn read(text: &str) -> Result<i128, NoInstant> {
    let text = text.trim();
    let (date, rest) = text.split_once(['T', 't', ' ']).ok_or(NoInstant::Unreadable)?;
    let zone = rest.find(['Z', 'z', '+', '-']);
    let (time, zone) = match zone {
        Some(at) => (&rest[..at], Some(&rest[at..])),
        None => (rest, None),
    };
    let date = numbers(date, '-', 3)?;
    let [year, month, day] = date[..] else { return Err(NoInstant::Unreadable) };
    let (time, fraction) = time.trim_end().split_once('.').unwrap_or((time.trim_end(), "0"));
    let time = numbers(time, ':', 2).or_else(|_| numbers(time, ':', 3))?;
    let (hour, minute, second) = match time[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return Err(NoInstant::Unreadable),
    };
    let in_range = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61;
    if !in_range {
        return Err(NoInstant::Unreadable);
    }
    let offset = match zone {
        None => return Err(NoInstant::NoZone),
        Some("Z" | "z") => 0,
        Some(zone) => offset(zone)?,
    };
    let seconds = days_before(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Ok((i128::from(seconds) - i128::from(offset)) * 1000 + i128::from(millis(fraction)?))
}

/// Whole numbers between separators, just so many.
fn numbers(text: &str, separator: char, count: usize) -> Result<Vec<i64>, NoInstant> {
    let parts: Vec<&str> = text.split(separator).collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if parts.len() != count || !parts.iter().all(digits) {
        return Err(NoInstant::Unreadable);
    }
    parts.iter().map(|part| part.parse().map_err(|_| NoInstant::Unreadable)).collect()
}

/// Seconds east of Greenwich: `+02:00`, `+0200`, `+02`.
fn offset(zone: &str) -> Result<i64, NoInstant> {
    let (sign, digits) = match zone.split_at(1) {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return Err(NoInstant::Unreadable),
    };
    let digits: String = digits.trim().split(':').collect();
    if !matches!(digits.len(), 2 | 4) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoInstant::Unreadable);
    }
    let number = |text: &str| text.parse::<i64>().map_err(|_| NoInstant::Unreadable);
    let (hours, minutes) = (number(&digits[..2])?, number(digits.get(2..4).unwrap_or("0"))?);
    if hours > 23 || minutes > 59 {
        return Err(NoInstant::Unreadable);
    }
    Ok(sign * (hours * 3600 + minutes * 60))
}

fn millis(fraction: &str) -> Result<i64, NoInstant> {
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoInstant::Unreadable);
    }
    let padded = format!("{fraction:0<3}");
    padded[..3].parse().map_err(|_| NoInstant::Unreadable)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the Unix epoch.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let years = (1970..year).map(|year| 365 + i64::from(is_leap(year))).sum::<i64>();
    let months = (1..month).map(|month| days_of(year, month)).sum::<i64>();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_with_their_offset() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2026-11-30T12:00:00+00:00", 1_796_040_000),
            ("2026-11-30T14:00:00+02:00", 1_796_040_000),
            ("2026-11-30 06:30+0530", 1_796_000_400),
            ("2026-11-30T07:00:00-05", 1_796_040_000),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
        ] {
            assert_eq!(read(text), Ok(seconds * 1000), "{text}");
        }
        assert_eq!(read("1970-01-01T00:00:01.25+00:00"), Ok(1250));
    }

    #[test]
    fn what_is_no_instant_says_why() {
        use NoInstant::{NoZone, Unreadable};
        for (text, why) in [
            ("2026-11-30T12:00:00", NoZone),
            ("2026-11-30 12:00", NoZone),
            ("tomorrow", Unreadable),
            ("", Unreadable),
            ("2026-13-01T00:00:00Z", Unreadable),
            ("2025-02-29T00:00:00Z", Unreadable),
            ("2026-11-30T24:00:00Z", Unreadable),
            ("2026-11-30T12:00:00+2", Unreadable),
            ("2026-11-30T12:00:00+02:xx", Unreadable),
            ("2026-11-30", Unreadable),
            ("2026-11-30T12:00:00.xZ", Unreadable),
        ] {
            assert_eq!(read(text), Err(why), "{text}");
        }
    }

    #[test]
    fn what_is_over_is_not_waited_for() {
        let now = BootTime::from_nanos(5_000_000_000);
        let wall = WallTime(1_000);
        let at = |text| due(text, wall, now);
        assert_eq!(at("1970-01-01T00:00:01Z"), Ok(now), "now");
        assert_eq!(at("1970-01-01T00:00:03Z"), Ok(now.plus(Duration::from_secs(2))));
        assert_eq!(at("1970-01-01T00:00:00Z"), Err(NoInstant::Past));
    }
}
