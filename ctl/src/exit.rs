//! How a verb ends: exit codes, and failures that say what to type next.
//!
//! The codes are part of the interface for scripts; `regentctl --help` lists them.

use std::fmt;

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done as asked.
    Done,
    /// An error on this side: a file, a program, a verdict that failed.
    Failed,
    /// The command line or a file it names is not valid.
    Usage,
    /// A check blocks, or the coordinator refuses; nothing was changed.
    Refused,
    /// The operation was rolled back or cancelled; the primary site is the one of before.
    RolledBack,
    /// No coordinator can be reached, or an answer was lost: the state is unknown.
    Unknown,
    /// Interrupted by the person.
    Interrupted,
}

impl Exit {
    /// All codes with their meaning, for the help text and its test.
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Done, "done"),
        (Self::Failed, "error"),
        (Self::Usage, "invalid command line or file"),
        (Self::Refused, "refused: a check blocks; nothing was changed"),
        (Self::RolledBack, "rolled back or cancelled: the primary site is the one of before"),
        (Self::Unknown, "no coordinator reached, or an answer was lost: look before trying again"),
        (Self::Interrupted, "interrupted"),
    ];

    /// The number that the process ends with.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::RolledBack => 4,
            Self::Unknown => 5,
            Self::Interrupted => 130,
        }
    }
}

/// Why a verb could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// What was being done, the value seen, the value wanted.
    pub message: String,
    /// The command to type next, if one would help.
    pub next: Option<String>,
}

impl Failure {
    /// A failure with its exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next: None }
    }

    /// An error on this side.
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// An invalid command line or file.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// With the command to type next.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.next {
            Some(next) => write!(f, "; next: {next}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self::error(format!("{error:#}")),
        }
    }
}

/// What a verb returns.
pub type Ending = Result<Exit, Failure>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|(exit, _)| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 130]);
    }

    #[test]
    fn a_failure_keeps_its_code_through_anyhow() {
        let failure = Failure::new(Exit::Refused, "no").next("regentctl status");
        let through = anyhow::Error::new(failure.clone());
        assert_eq!(Failure::from(through), failure);
        let other = anyhow::anyhow!("disk").context("write file");
        assert_eq!(Failure::from(other), Failure::error("write file: disk"));
    }
}
