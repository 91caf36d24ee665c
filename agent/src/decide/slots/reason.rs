//! Why a step of a plan for slots is what it is.

use std::fmt;

use regent_proto::lsn::Lsn;
use regent_proto::name::NodeName;

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A member streams, or could stream, from here.
    Member,
    /// A node of another site does.
    Downstream,
    /// Its member was here within `member_slots_ttl`.
    Retained,
    /// `slots` names it.
    Permanent,
    /// It was wanted here, and nobody wants it any more.
    Unneeded,
    /// Nobody wanted or used it for `member_slots_ttl`.
    Unknown,
    /// Its WAL is gone.
    Lost,
    /// It holds back vacuum, and nobody streams through it here.
    HoldsXmin,
    /// The configuration wants another plugin or database.
    Changed,
    /// A copy that was not found safe to use, on a node about to open.
    Unsafe,
    /// The leader has published it so far.
    Published,
    /// Its member has told that it has come so far.
    Told,
    /// The leader has it, this node has not.
    Missing,
    /// It is of a time when this node was the primary itself.
    NotCopied,
    /// Its copy has everything that its consumer may ask for.
    Proven,
    /// Several members share its name.
    SharedName(Vec<NodeName>),
    /// A logical slot of `slots` has the name of a node's slot.
    NodesName,
    /// There is a slot of this name, of another type, plugin or database.
    OtherKind,
    /// `wal_level` is not `logical`.
    WalLevel,
    /// A permanent logical slot is not here, and its consumer was last there.
    Gap(Lsn),
    /// A permanent logical slot has lost its WAL.
    LostForGood,
    /// Nobody wants it, and it will be dropped.
    Stranger,
    /// It keeps more than half of its budget.
    HalfBudget(u64),
    /// It keeps more than its budget.
    OverBudget(u64),
    /// The next checkpoint may take its WAL away.
    Unreserved,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Member => "a member may stream from here",
            Self::Downstream => "a node of another site may stream from here",
            Self::Retained => "its member was here within member_slots_ttl",
            Self::Permanent => "`slots` names it",
            Self::Unneeded => "nobody needs it any more",
            Self::Unknown => "nobody wanted or used it for member_slots_ttl",
            Self::Lost => "its WAL is gone",
            Self::HoldsXmin => "it holds back vacuum, and nobody streams through it here",
            Self::Changed => "the configuration wants another plugin or database",
            Self::Unsafe => {
                "this copy of a logical slot was not found safe yet: what it would give might lack \
                 something"
            }
            Self::Published => "the leader has published it so far",
            Self::Told => "its member has come so far",
            Self::Missing => "the leader has it and this node has not",
            Self::NotCopied => "it is of a time when this node was the primary",
            Self::Proven => "its copy has all that its consumer may ask for",
            Self::SharedName(names) => {
                let names: Vec<&str> = names.iter().map(NodeName::as_str).collect();
                return write!(f, "the members {} share this name: rename one", names.join(", "));
            }
            Self::NodesName => {
                "`slots` wants a logical slot by the name of a node's own: it is not made, rename it"
            }
            Self::OtherKind => {
                "a slot of this name is there, of another type, plugin or database than wanted: drop \
                 it, or rename the wanted one"
            }
            Self::WalLevel => "a logical slot is wanted, and wal_level is not `logical`",
            Self::Gap(at) => {
                return write!(
                    f,
                    "this permanent logical slot is not here, and its consumer was at {at}: made \
                     anew it would skip what came since; set the consumer up anew, and make the \
                     slot by hand, or take it out of `slots` and put it in again"
                );
            }
            Self::LostForGood => {
                "this permanent logical slot has lost its WAL: set its consumer up anew, and drop it"
            }
            Self::Stranger => {
                "nobody uses it, and neither `slots` nor `ignore_slots` names it: it is dropped after \
                 member_slots_ttl"
            }
            Self::HalfBudget(budget) => {
                return write!(f, "it keeps more than half of its WAL budget of {budget} bytes");
            }
            Self::OverBudget(budget) => {
                return write!(f, "it keeps more than its WAL budget of {budget} bytes");
            }
            Self::Unreserved => "it is about to be lost: a checkpoint may take its WAL away",
        };
        f.write_str(text)
    }
}
