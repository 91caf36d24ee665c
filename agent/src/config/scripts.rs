//! The operator's own programs: `postgresql.callbacks`, `pre_promote`, `before_stop`, and the commands of
//! `methods` (spec/patroni-compat.md 5.4). A command line is split as a shell splits words, and run without one.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use serde::Deserialize;

/// A command line, split into words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct CommandLine {
    /// The program: a path, or a name that is looked for in PATH.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl TryFrom<String> for CommandLine {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut words = words(&text)?.into_iter();
        let program = words.next().filter(|program| !program.is_empty());
        let program = program.ok_or("want a command, as in /usr/local/bin/callback.sh")?;
        Ok(Self { program: program.into(), arguments: words.collect() })
    }
}

/// `postgresql.callbacks`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CallbacksSection {
    /// The server has started.
    pub on_start: Option<CommandLine>,
    /// It has stopped.
    pub on_stop: Option<CommandLine>,
    /// It was restarted.
    pub on_restart: Option<CommandLine>,
    /// It has read its configuration anew.
    pub on_reload: Option<CommandLine>,
    /// Its role has changed.
    pub on_role_change: Option<CommandLine>,
}

impl CallbacksSection {
    /// Each with its key.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &CommandLine)> {
        [
            ("on_start", &self.on_start),
            ("on_stop", &self.on_stop),
            ("on_restart", &self.on_restart),
            ("on_reload", &self.on_reload),
            ("on_role_change", &self.on_role_change),
        ]
        .into_iter()
        .filter_map(|(key, command)| command.as_ref().map(|command| (key, command)))
    }
}

/// What is wrong with a program, if anything.
pub(super) fn problem(command: &CommandLine, search: Option<&std::ffi::OsStr>) -> Option<String> {
    let program = &command.program;
    let runs = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    let shown = program.display();
    if program.components().count() > 1 {
        return match (program.is_absolute(), program.is_file()) {
            (false, _) => Some(format!("{shown} is not absolute")),
            (true, false) => Some(format!("{shown} is not there")),
            (true, true) => (!runs(program)).then(|| format!("{shown} may not be executed")),
        };
    }
    let mut places = search.into_iter().flat_map(std::env::split_paths);
    let found = places.any(|place| runs(&place.join(program)));
    (!found).then(|| format!("{shown} is in no directory of PATH; want an absolute path"))
}

/// What is wrong with a command is said without it: arguments may be secrets (I23).
const UNQUOTED: &str = "the command has a quote without its end";

/// A shell's words: blanks part them, quotes and backslashes keep them together. Nothing is expanded.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('\'') => break,
                        Some(inside) => word.push(inside),
                        None => return Err(UNQUOTED.to_owned()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next() {
                        Some('"') => break,
                        Some('\\') => match characters.next() {
                            Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                            Some(other) => word.extend(['\\', other]),
                            None => return Err(UNQUOTED.to_owned()),
                        },
                        Some(inside) => word.push(inside),
                        None => return Err(UNQUOTED.to_owned()),
                    }
                }
            }
            '\\' => match characters.next() {
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => return Err("the command ends in a backslash".to_owned()),
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_split_as_a_shell_does() {
        for (text, wanted) in [
            ("a", vec!["a"]),
            ("  a  b\tc ", vec!["a", "b", "c"]),
            ("a 'b c' d", vec!["a", "b c", "d"]),
            (r#"a "b \"c\" \d" ''"#, vec!["a", r#"b "c" \d"#, ""]),
            (r"a b\ c", vec!["a", "b c"]),
            ("a'b'\"c\"", vec!["abc"]),
            ("", vec![]),
        ] {
            assert_eq!(words(text), Ok(wanted.into_iter().map(str::to_owned).collect()), "{text}");
        }
        for text in ["a 'b", "a \"b", "a \"b\\", "a\\"] {
            assert!(words(text).is_err(), "{text}");
        }
        let problem = CommandLine::try_from("a --key 's3cret".to_owned()).expect_err("open");
        assert!(!problem.contains("s3cret"), "{problem}");
        assert!(CommandLine::try_from("  ".to_owned()).is_err());
        assert!(CommandLine::try_from("'' a".to_owned()).is_err());
    }

    #[test]
    fn a_program_that_cannot_be_run_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("script");
        std::fs::write(&file, "").expect("written");
        let problem = |program: &Path| {
            let command = CommandLine { program: program.to_owned(), arguments: Vec::new() };
            problem(&command, Some(dir.path().as_os_str())).unwrap_or_default()
        };
        assert!(problem(&dir.path().join("none")).contains("is not there"));
        assert!(problem(dir.path()).contains("is not there"), "a directory");
        assert!(problem(&file).contains("may not be executed"));
        assert!(problem(Path::new("script")).contains("PATH"));
        assert!(problem(Path::new("./script")).contains("not absolute"));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("done");
        assert_eq!(problem(&file), "");
        assert_eq!(problem(Path::new("script")), "", "found in PATH");
    }
}
