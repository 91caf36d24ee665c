//! The records: what sites and coordinators tell each other, and the marks an agent keeps in its
//! site's DCS.
//!
//! JSON, versioned, one writer role each (design.md section 4, protocol.md section 1). Fields this
//! version does not know are kept and written back. A record that cannot be read is an error that
//! names its key; it never means "absent" (I9, I13).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod coordinator;
mod federation;
mod marks;
mod operation;
mod site;

pub use coordinator::{CoordinatorLeader, CoordinatorMember};
pub use federation::{
    EpochHistory, Lease, Primary, PrimaryState, Token, TopologyRecord, WritesFenced,
};
pub use marks::{Mark, Promise, Promotions, SeenEpoch};
pub use operation::{
    Check, Operation, OperationKind, Outcome, Plan, RunningOperation, StepRecord, SwitchoverStep,
    Verdict,
};
pub use site::{
    Assignment, Opened, Reach, Report, ReportedFence, ReportedNode, ReportedObjects,
    ReportedPromise, ReportedRole, SiteRole,
};

/// Fields of a newer version, kept as they came.
pub type Unknown = BTreeMap<String, serde_json::Value>;

/// The record format this version writes.
pub const VERSION: u32 = 1;

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {key} cannot be read as {kind}: {problem}; it is ignored until it is repaired")]
pub struct RecordError {
    /// The store key.
    pub key: String,
    /// The record type expected.
    pub kind: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// A JSON record with a version.
pub trait Record: Serialize + DeserializeOwned {
    /// The record type, for messages.
    const KIND: &'static str;

    /// Checks what the types alone do not say. The default accepts.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Reads a record; `key` is for the message.
    fn decode(key: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        let error =
            |problem: String| RecordError { key: key.to_owned(), kind: Self::KIND, problem };
        // Before anything else: of another format nothing can be missed.
        if let Ok(Versioned { version }) = serde_json::from_slice(bytes)
            && version != VERSION
        {
            return Err(error(format!("version {version} instead of {VERSION}")));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|e| error(e.to_string()))?;
        record.check().map_err(error)?;
        Ok(record)
    }

    /// The record as stored.
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("records hold only values that JSON can express")
    }
}

/// What every record begins with.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

macro_rules! record {
    ($name:ident, $kind:literal) => {
        impl $crate::record::Record for $name {
            const KIND: &'static str = $kind;
        }
    };
}
use record;

mod millis {
    //! Spans as whole milliseconds.
    use super::{Deserialize, Duration};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(span: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use proptest::prelude::*;

    fn primary() -> Primary {
        Primary {
            version: VERSION,
            federation: uuid::Uuid::nil(),
            system_identifier: "7000000000000000001".parse().ok(),
            holder: "eu".parse().expect("a label"),
            epoch: Epoch::FIRST,
            state: PrimaryState::Handover {
                to: "us".parse().expect("a label"),
                operation: "op-1".parse().expect("an identifier"),
                span: Duration::from_secs(30),
            },
            floor: None,
            electorate: ["eu", "us"].iter().map(|s| s.parse().expect("a label")).collect(),
            ttl_max: Duration::from_secs(90),
            span_max: Duration::from_secs(30),
            writes_fenced: None,
            unknown: Unknown::new(),
        }
    }

    #[test]
    fn fields_of_a_newer_version_are_kept() {
        let mut json: serde_json::Value =
            serde_json::from_slice(&primary().encode()).expect("own encoding");
        json["comet"] = serde_json::json!({"tail": 3});
        let read = Primary::decode("primary", json.to_string().as_bytes()).expect("readable");
        let again: serde_json::Value =
            serde_json::from_slice(&read.encode()).expect("own encoding");
        assert_eq!(again["comet"]["tail"], 3);
        assert_eq!(again["state"]["name"], "handover");
        assert_eq!(again["state"]["span_ms"], 30_000);
    }

    #[test]
    fn a_record_of_another_version_is_refused_with_its_key() {
        let mut newer = primary();
        newer.version = 2;
        let error = Primary::decode("/regent/f/primary", &newer.encode()).expect_err("version 2");
        assert!(error.to_string().contains("/regent/f/primary"), "{error}");
        // Of a format in which it has nothing that this one knows.
        let bare = Primary::decode("p", br#"{"version": 3, "comet": 1}"#).expect_err("version 3");
        assert_eq!(bare.problem, "version 3 instead of 1");
        let mut foreign = primary();
        foreign.electorate.clear();
        assert!(Primary::decode("p", &foreign.encode()).is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_refused_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Primary::decode("k", &bytes).is_err());
            prop_assert!(Lease::decode("k", &bytes).is_err());
            prop_assert!(Assignment::decode("k", &bytes).is_err());
            prop_assert!(Report::decode("k", &bytes).is_err());
            prop_assert!(Operation::decode("k", &bytes).is_err());
            prop_assert!(Mark::decode("k", &bytes).is_err());
            prop_assert!(Promise::decode("k", &bytes).is_err());
        }
    }
}
