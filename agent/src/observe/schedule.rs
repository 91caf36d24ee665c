//! Instants that people write down: ISO 8601 with an offset from UTC, as Patroni's tools send them,
//! and what they are on this machine's boot clock.

use std::time::Duration;

use regent_proto::time::{BootTime, WallTime};

use crate::decide::view::Due;

/// What is wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoInstant {
    /// It is no date with a time.
    Unparsable,
    /// It does not say of which time zone it is.
    NoTimeZone,
}

/// Reads `2026-11-30T10:00:00+01:00` and its kin: a space for the `T`, no seconds or parts of one,
/// `Z`, `UTC`, `+0100`, `+01`.
///
/// # Errors
/// What is wrong with it.
pub fn read(text: &str) -> Result<WallTime, NoInstant> {
    let text = text.trim();
    let mut rest = Rest(text);
    let year = rest.number(4)?;
    rest.sign(&['-'])?;
    let month = rest.number(2)?;
    rest.sign(&['-'])?;
    let day = rest.number(2)?;
    rest.sign(&['T', 't', ' '])?;
    let hour = rest.number(2)?;
    rest.sign(&[':'])?;
    let minute = rest.number(2)?;
    let mut second = 0;
    let mut millis = 0;
    if rest.sign(&[':']).is_ok() {
        second = rest.number(2)?;
        if rest.sign(&['.', ',']).is_ok() {
            millis = rest.fraction()?;
        }
    }
    let offset = offset(rest.0.trim_start())?;
    let valid = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    if !valid {
        return Err(NoInstant::Unparsable);
    }
    let minutes = (days(year, month, day) * 24 + hour) * 60 + minute - offset;
    let instant = (minutes * 60 + second) * 1000 + millis;
    u64::try_from(instant).map(WallTime).map_err(|_| NoInstant::Unparsable)
}

/// That instant on the boot clock, by what both clocks say now.
#[must_use]
pub fn due(instant: WallTime, wall: WallTime, now: BootTime) -> Due {
    if instant >= wall {
        return Due::At(now.plus(Duration::from_millis(instant.0 - wall.0)));
    }
    let ago = Duration::from_millis(wall.0 - instant.0);
    match ago <= Duration::from_nanos(now.nanos()) {
        true => Due::At(now.minus(ago)),
        false => Due::BeforeBoot,
    }
}

/// What is left to read.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn number(&mut self, digits: usize) -> Result<i64, NoInstant> {
        let (number, rest) = self.0.split_at_checked(digits).ok_or(NoInstant::Unparsable)?;
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NoInstant::Unparsable);
        }
        self.0 = rest;
        number.parse().map_err(|_| NoInstant::Unparsable)
    }

    fn sign(&mut self, signs: &[char]) -> Result<(), NoInstant> {
        self.0 = self.0.strip_prefix(signs).ok_or(NoInstant::Unparsable)?;
        Ok(())
    }

    /// Parts of a second, in milliseconds; what is finer is left out.
    fn fraction(&mut self) -> Result<i64, NoInstant> {
        let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        if digits.is_empty() {
            return Err(NoInstant::Unparsable);
        }
        self.0 = rest;
        let millis: String = digits.chars().chain("000".chars()).take(3).collect();
        millis.parse().map_err(|_| NoInstant::Unparsable)
    }
}

/// Minutes east of UTC.
fn offset(text: &str) -> Result<i64, NoInstant> {
    if ["Z", "UTC", "GMT"].iter().any(|utc| text.eq_ignore_ascii_case(utc)) {
        return Ok(0);
    }
    let (sign, digits) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(digits), _) => (1, digits),
        (None, Some(digits)) => (-1, digits),
        (None, None) if text.is_empty() => return Err(NoInstant::NoTimeZone),
        (None, None) => return Err(NoInstant::Unparsable),
    };
    let mut rest = Rest(digits);
    let hours = rest.number(2)?;
    let mut minutes = 0;
    if !rest.0.is_empty() {
        rest.sign(&[':']).ok();
        minutes = rest.number(2)?;
    }
    if !rest.0.is_empty() || hours > 23 || minutes > 59 {
        return Err(NoInstant::Unparsable);
    }
    Ok(sign * (hours * 60 + minutes))
}

fn is_leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 1970-01-01 to this one of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400;
    // 719162 days lie between 0001-01-01 and 1970-01-01.
    let of_years = before * 365 + leap_days - 719_162;
    (1..month).map(|month| days_of(year, month)).sum::<i64>() + of_years + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_in_the_forms_that_patronis_tools_send() {
        for (text, wanted) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00+00:00", 951_825_600_000),
            ("2026-11-30T10:00:00+00:00", 1_796_032_800_000),
            ("2026-11-30 10:00 +01:00", 1_796_029_200_000),
            ("2026-11-30T10:00:00.123456-0130", 1_796_038_200_123),
            ("2026-11-30T10:00:00.5+02", 1_796_025_600_500),
            ("2026-11-30T10:00:00UTC", 1_796_032_800_000),
            ("2026-11-30 06:30+0530", 1_796_000_400_000),
            ("2026-11-30T07:00:00-05", 1_796_040_000_000),
            ("2024-02-29T23:59:59Z", 1_709_251_199_000),
            ("1970-01-01T00:00:01.25+00:00", 1_250),
        ] {
            assert_eq!(read(text), Ok(WallTime(wanted)), "{text}");
            let shown = WallTime(wanted).to_string();
            assert_eq!(read(&shown), Ok(WallTime(wanted)), "and back: {shown}");
        }
    }

    #[test]
    fn what_is_no_instant_is_told_as_what_it_is() {
        for text in ["2026-11-30T10:00:00", "2026-11-30 10:00", "2026-11-30T10:00:00.1"] {
            assert_eq!(read(text), Err(NoInstant::NoTimeZone), "{text}");
        }
        for text in [
            "",
            "soon",
            "2026-11-30",
            "2026-13-01T00:00Z",
            "2026-02-29T00:00Z",
            "2026-01-01T24:00Z",
            "2026-01-01T00:60Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00+25",
            "2026-01-01T00:00+01:0",
            "2026-01-01T00:00+01:000",
            "2026-01-01T00:00CEST",
            "2026-01-01T12:00:00+2",
            "2026-01-01T12:00:00+02:xx",
            "2026-01-01T12:00:00.xZ",
            "20é6-01-01T00:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(read(text), Err(NoInstant::Unparsable), "{text}");
        }
    }

    #[test]
    fn an_instant_of_the_wall_clock_is_one_of_the_boot_clock() {
        let now = BootTime::from_nanos(10_000_000_000);
        let wall = WallTime(1_000_000);
        let at = |seconds: u64| Due::At(BootTime::from_nanos(seconds * 1_000_000_000));
        for (instant, wanted) in [
            (1_000_000, at(10)),
            (1_003_000, at(13)),
            (993_000, at(3)),
            (990_000, at(0)),
            (989_999, Due::BeforeBoot),
            (0, Due::BeforeBoot),
        ] {
            assert_eq!(due(WallTime(instant), wall, now), wanted, "{instant}");
        }
    }
}
