//! Checked names: what two processes may call a site, a node, a federation, an operation.
//!
//! A name that reached one of these types is safe in a store key, in `application_name`, in a
//! replication slot name (after [`NodeName::slot`]) and in a log line. Keeps I22 (names are unique
//! and unambiguous) together with the topology check.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not a name. The message states the value seen and the form wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {wanted}")]
pub struct NameError {
    /// What the text was meant to name ("site name").
    pub kind: &'static str,
    /// The text as seen.
    pub value: String,
    /// The accepted form.
    pub wanted: &'static str,
}

const LABEL: &str = "want 1 to 32 characters: a lower-case letter, then lower-case letters, \
                     digits or '-', not ending in '-'";
const MEMBER: &str = "want 1 to 63 characters out of letters, digits, '.', '_' and '-', starting \
                      with a letter or digit";
const IDENTIFIER: &str = "want 1 to 64 characters out of letters, digits and '-'";

fn is_label(text: &str) -> bool {
    text.len() <= 32
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

fn is_member(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

fn is_identifier(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:ident, $wanted:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                if $check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NameError { kind: $kind, value: text.to_owned(), wanted: $wanted })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                (*name.0).to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

checked_name!(
    /// One datacenter or region of a federation.
    SiteName, "site name", is_label, LABEL
);
checked_name!(
    /// The clusters of all sites that hold one database.
    FederationName, "federation name", is_label, LABEL
);
checked_name!(
    /// One PostgreSQL server and its agent; Patroni's member name, unique in the whole federation.
    NodeName, "node name", is_member, MEMBER
);
checked_name!(
    /// A coordinator process, unique in the federation.
    CoordinatorName, "coordinator name", is_member, MEMBER
);
checked_name!(
    /// Patroni's `scope`: the cluster of one site.
    Scope, "scope", is_member, MEMBER
);
checked_name!(
    /// One regional operation, for example a switchover.
    OperationId, "operation id", is_identifier, IDENTIFIER
);
checked_name!(
    /// One term of one leader, random. Identifies the holder of the primary lease together with
    /// the lease record's revision, never by a node's name (protocol.md, section 1).
    Tenure, "tenure", is_identifier, IDENTIFIER
);
checked_name!(
    /// One request, random, so that a write read back can be told from its twin
    /// (protocol.md, rule 1).
    RequestId, "request id", is_identifier, IDENTIFIER
);
checked_name!(
    /// One promotion of one server: with (timeline, switch position) it tells apart two
    /// promotions that chose the same timeline number (I14).
    PromotionId, "promotion id", is_identifier, IDENTIFIER
);

impl NodeName {
    /// The name of this member's replication slot, by Patroni's rule (spec/patroni-compat.md 3.16):
    /// lower case, `-` and `.` become `_`, anything else outside `[a-z0-9_]` its code, 63 at most.
    #[must_use]
    pub fn slot(&self) -> String {
        if self.0.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
            return self.as_str().to_owned();
        }
        let mut slot = String::with_capacity(self.0.len());
        for c in self.0.chars().flat_map(char::to_lowercase) {
            match c {
                'a'..='z' | '0'..='9' | '_' => slot.push(c),
                '-' | '.' => slot.push('_'),
                other => slot.push_str(&format!("u{:04}", u32::from(other))),
            }
        }
        slot.truncate(63);
        slot
    }
}

/// The database system identifier that `initdb` draws, a decimal number of at least ten digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemIdentifier(u64);

impl SystemIdentifier {
    /// The number itself.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for SystemIdentifier {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = (10..=20).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Ok(Self(number)),
            Ok(_) | Err(_) => Err(NameError {
                kind: "system identifier",
                value: text.to_owned(),
                wanted: "want a decimal number of 10 to 20 digits, as pg_controldata prints it",
            }),
        }
    }
}

impl TryFrom<String> for SystemIdentifier {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<SystemIdentifier> for String {
    fn from(id: SystemIdentifier) -> String {
        id.0.to_string()
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn site_names_are_labels() {
        for good in ["eu", "us-east-1", "a"] {
            assert!(good.parse::<SiteName>().is_ok(), "{good}");
        }
        for bad in ["", "EU", "1a", "a-", "a/b", "a b", &"x".repeat(33)] {
            assert!(bad.parse::<SiteName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn slot_names_follow_patroni() {
        let slot = |name: &str| name.parse::<NodeName>().map(|n| n.slot());
        assert_eq!(slot("Eu-1.a"), Ok("eu_1_a".to_owned()));
        assert_eq!(slot("n_1"), Ok("n_1".to_owned()));
    }
}
