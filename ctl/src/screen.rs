//! Text for people as values: lines of toned pieces, columns, wrapping.
//!
//! Everything a verb shows is built here as data and printed by [`crate::render`] alone, so that
//! screens can be compared in tests and colour is decided in one place. Text that came from
//! elsewhere is made harmless: control characters never reach a terminal.

/// What a piece of text means; the terminal decides how that looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// Ordinary.
    #[default]
    Plain,
    /// Headings, names that matter.
    Strong,
    /// Less important.
    Dim,
    /// As wanted.
    Good,
    /// Worth a look.
    Warn,
    /// Not as wanted.
    Bad,
}

/// A piece of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its meaning.
    pub tone: Tone,
    /// Its text, without control characters.
    pub text: String,
}

/// One line of a screen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line(Vec<Piece>);

impl Line {
    /// An empty line.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of ordinary text.
    #[must_use]
    pub fn plain(text: impl AsRef<str>) -> Self {
        Self::new().put(Tone::Plain, text)
    }

    /// A line of one tone.
    #[must_use]
    pub fn toned(tone: Tone, text: impl AsRef<str>) -> Self {
        Self::new().put(tone, text)
    }

    /// With one more piece.
    #[must_use]
    pub fn put(mut self, tone: Tone, text: impl AsRef<str>) -> Self {
        let text = harmless(text.as_ref());
        if !text.is_empty() {
            self.0.push(Piece { tone, text });
        }
        self
    }

    /// With ordinary text up to column `column`.
    #[must_use]
    pub fn pad_to(self, column: usize) -> Self {
        let missing = column.saturating_sub(self.width());
        self.put(Tone::Plain, " ".repeat(missing))
    }

    /// The pieces.
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }

    /// Number of columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.0.iter().map(|piece| piece.text.chars().count()).sum()
    }

    /// The text without tones and trailing blanks.
    #[must_use]
    pub fn text(&self) -> String {
        let text: String = self.0.iter().map(|piece| piece.text.as_str()).collect();
        text.trim_end().to_owned()
    }

    /// Cut to `columns`, the cut shown by `…`.
    #[must_use]
    pub fn cut(self, columns: usize) -> Self {
        if self.width() <= columns {
            return self;
        }
        let mut left = columns.saturating_sub(1);
        let mut cut = Self::new();
        for piece in self.0 {
            let text: String = piece.text.chars().take(left).collect();
            left -= text.chars().count();
            cut = cut.put(piece.tone, text);
        }
        cut.put(Tone::Dim, "…")
    }
}

/// Control characters become `?`: a name or note must not steer the terminal.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A cell of a table.
pub type Cell = (Tone, String);

/// An ordinary cell.
#[must_use]
pub fn cell(text: impl Into<String>) -> Cell {
    (Tone::Plain, text.into())
}

/// Rows with their columns aligned, two blanks apart.
#[must_use]
pub fn columns(rows: &[Vec<Cell>]) -> Vec<Line> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|(_, text)| text.chars().count()).max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    rows.iter()
        .map(|row| {
            let mut line = Line::new();
            let mut start = 0;
            for ((tone, text), width) in row.iter().zip(&widths) {
                line = line.pad_to(start).put(*tone, text);
                start += width + 2;
            }
            line
        })
        .collect()
}

/// Breaks text into lines of at most `columns`, between words where it can.
#[must_use]
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        let used = line.chars().count();
        if used > 0 && used + 1 + word.len() > columns {
            lines.push(std::mem::take(&mut line));
        }
        while word.len() > columns {
            let rest = word.split_off(columns);
            lines.push(word.into_iter().collect());
            word = rest;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// A label in a fixed column, and text wrapped beside it.
#[must_use]
pub fn labelled(label: &str, tone: Tone, text: &str, columns: usize) -> Vec<Line> {
    const TEXT: usize = 11;
    let wrapped = wrap(text, columns.saturating_sub(TEXT));
    wrapped
        .into_iter()
        .enumerate()
        .map(|(i, part)| {
            let head = if i == 0 { label } else { "" };
            Line::toned(Tone::Dim, head).pad_to(TEXT).put(tone, part)
        })
        .collect()
}

/// Bytes in PostgreSQL's units.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| count >= *unit) {
        None => format!("{count} B"),
        Some((name, unit)) => format!("{}.{} {name}", count / unit, count % unit * 10 / unit),
    }
}

/// A span in the unit that a person would use.
#[must_use]
pub fn span(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..100_000 => format!("{}.{:03} s", millis / 1000, millis % 1000),
        100_000..7_200_000 => format!("{} min", millis / 60_000),
        _ => format!("{} h", millis / 3_600_000),
    }
}

/// How long ago, coarse.
#[must_use]
pub fn age(millis: u64) -> String {
    match millis {
        0..120_000 => format!("{} s", millis / 1000),
        120_000..7_200_000 => format!("{} min", millis / 60_000),
        _ => format!("{} h", millis / 3_600_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(Line::plain("a\x1b[2Jb\n").text(), "a?[2Jb?");
    }

    #[test]
    fn lines_are_cut_with_a_mark() {
        let line = Line::plain("abc").put(Tone::Bad, "defgh");
        assert_eq!(line.clone().cut(8).text(), "abcdefgh");
        assert_eq!(line.cut(5).text(), "abcd…");
    }

    #[test]
    fn columns_align_and_words_wrap() {
        let rows = vec![vec![cell("a"), cell("bb")], vec![cell("ccc"), cell("d")]];
        let text: Vec<String> = columns(&rows).iter().map(Line::text).collect();
        assert_eq!(text, ["a    bb", "ccc  d"]);
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("0123456789ab", 8), ["01234567", "89ab"]);
    }

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1 << 20 | 1 << 19), "1.5 MB");
        assert_eq!(span(62), "62 ms");
        assert_eq!(span(1234), "1.234 s");
        assert_eq!(age(3_999), "3 s");
    }
}
