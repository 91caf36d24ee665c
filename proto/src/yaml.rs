//! Files that people write: one reading for all of them, and one line for what is wrong with one.
//!
//! The line is quoted, so that the value is seen, unless it may hold a secret. The parser's own
//! excerpt of the lines around it would show those as well.

use serde::de::DeserializeOwned;

/// The most characters of a line that a message quotes.
const QUOTED: usize = 60;

/// Reads a document.
///
/// # Errors
/// With the place, what stands there, and what is accepted.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| explain(text, &error))
}

fn explain(text: &str, error: &serde_saphyr::Error) -> String {
    let said = error.to_string();
    let Some(place) = error.location() else { return said };
    let at = format!("line {} column {}", place.line(), place.column());
    let suffix = format!(" at line {}, column {}", place.line(), place.column());
    let problem = said.strip_suffix(&suffix).unwrap_or(&said);
    let number = usize::try_from(place.line()).unwrap_or(usize::MAX);
    let line = text.lines().nth(number.saturating_sub(1)).unwrap_or_default();
    if line.trim().is_empty() || line.to_lowercase().contains("pass") {
        return format!("{at}: {problem}");
    }
    format!("{at}: `{}`: {}", around(line, place.column()), plain(problem))
}

/// A short line whole, of a long one what stands around the column.
fn around(line: &str, column: u64) -> String {
    let length = line.chars().count();
    if length <= QUOTED {
        return line.trim().to_owned();
    }
    let column = usize::try_from(column).unwrap_or(usize::MAX);
    let start = column.saturating_sub(QUOTED / 2).min(length - QUOTED);
    let quoted: String = line.chars().skip(start).take(QUOTED).collect();
    let (before, after) = (start > 0, start + QUOTED < length);
    let dots = |more| if more { "…" } else { "" };
    format!("{}{}{}", dots(before), quoted.trim(), dots(after))
}

/// The parser's terms in a person's words.
fn plain(problem: &str) -> String {
    match problem {
        "expected mapping start" => "want `key: value` pairs here".to_owned(),
        "expected sequence start" => "want a list here".to_owned(),
        "expected string scalar" => "want a text here".to_owned(),
        "invalid boolean (strict mode expects true/false)" => "want true or false".to_owned(),
        other => match other.strip_prefix("invalid ") {
            Some("u8" | "u16" | "u32" | "u64" | "usize") => "want a whole number".to_owned(),
            Some(_) | None => other.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        #[serde(rename = "count")]
        _count: u32,
        #[serde(default, rename = "on")]
        _on: bool,
        #[serde(default, rename = "password")]
        _password: Option<u8>,
    }

    #[test]
    fn a_mistake_is_one_line_with_place_value_and_what_is_accepted() {
        for (text, wanted) in [
            ("count: many", "line 1 column 8: `count: many`: want a whole number"),
            ("count: 1\non: 3", "line 2 column 5: `on: 3`: want true or false"),
            ("count: [1]", "line 1 column 8: `count: [1]`: "),
            ("count: 1\ncuont: 2", "line 2 column 1: `cuont: 2`: unknown field `cuont`, expected"),
            ("[]", "line 1 column 1: `[]`: want `key: value` pairs here"),
            ("on: true", "missing field `count`"),
            ("count: '", "line 1"),
        ] {
            let problem = read::<Document>(text).expect_err(text);
            assert!(problem.contains(wanted), "{text:?}: {problem}");
            assert_eq!(problem.lines().count(), 1, "{problem}");
        }
    }

    #[test]
    fn of_a_long_line_the_place_is_quoted() {
        let text = format!("{{\"on\": true,{}\"count\": many, \"on\": 1}}", " ".repeat(200));
        let problem = read::<Document>(&text).expect_err("no number");
        assert!(problem.contains("\"count\": many") && problem.len() < 200, "{problem}");
    }

    #[test]
    fn a_line_that_may_hold_a_secret_is_not_quoted() {
        let problem = read::<Document>("count: 1\npassword: hunter2").expect_err("no number");
        assert!(!problem.contains("hunter2") && problem.contains("line 2"), "{problem}");
    }
}
