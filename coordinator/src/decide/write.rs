//! A coordinator's only kind of action: one transaction on the records of its federation.
//!
//! A decision names every record it rests on; `act` turns that into the store's compares without
//! a choice of its own (protocol.md section 2). What changes `primary` is one of
//! [`regent_proto::transactions`], to which a decision adds what else it rests on. Reports are the exception: they are observations
//! that change every second, their age is part of the view, and whatever rests on them is
//! confirmed by the agents before anything irreversible happens.
//! Invariant: each record that is put or forgotten is also compared.

use std::fmt;

use regent_proto::keys::GlobalKey;
use regent_proto::name::{OperationId, SiteName};
use regent_proto::record::{
    Assignment, CoordinatorLeader, CoordinatorMember, Operation, Primary, RunningOperation,
    TopologyRecord,
};
use regent_proto::transactions::{Transaction, Unchanged};

use super::view::{Revision, StoreLease, View};

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Announce this coordinator.
    Join,
    /// Become the elected coordinator.
    Campaign,
    /// Write the assignments that changed.
    Assign,
    /// Record where an operation is.
    RecordStep,
    /// Hand primacy over.
    Handover,
    /// Give primacy back.
    RollBack,
    /// Record how an operation ended.
    End,
    /// Forget a running operation that has no record.
    ClearOperation,
    /// Begin an operation.
    Execute,
    /// Ask for an operation's end.
    Cancel,
    /// Fence the primary site for a promotion.
    Promote,
    /// End a promotion that did not come to it.
    GiveUp,
    /// Take the right to write from the primary site.
    Fence,
    /// Give it back.
    Unfence,
    /// Make a new federation.
    Create,
    /// Apply a topology.
    Apply,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Join => "announce this coordinator",
            Self::Campaign => "become the elected coordinator",
            Self::Assign => "write assignments",
            Self::RecordStep => "record the operation's step",
            Self::Handover => "hand primacy over",
            Self::RollBack => "roll the handover back",
            Self::End => "record the operation's outcome",
            Self::ClearOperation => "clear the running operation",
            Self::Execute => "begin the operation",
            Self::Cancel => "ask for the operation's end",
            Self::Promote => "begin the promotion",
            Self::GiveUp => "give the promotion up",
            Self::Fence => "fence the writes",
            Self::Unfence => "unfence the writes",
            Self::Create => "create the federation",
            Self::Apply => "apply the topology",
        })
    }
}

/// A record must still have this revision, or not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// Which.
    pub record: GlobalKey,
    /// `None`: it must not exist.
    pub revision: Option<Revision>,
}

/// A record to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Put {
    /// `topology`.
    Topology(Box<TopologyRecord>),
    /// `primary`.
    Primary(Box<Primary>),
    /// `sites/S/assignment`.
    Assignment(SiteName, Box<Assignment>),
    /// `operation`.
    Running(RunningOperation),
    /// `operations/ID`.
    Operation(Box<Operation>),
    /// `leader`, bound to the store lease.
    Leader(CoordinatorLeader, StoreLease),
    /// `coordinators/ID`, bound to the store lease.
    Coordinator(Box<CoordinatorMember>, StoreLease),
}

impl Put {
    /// The record it writes.
    #[must_use]
    pub fn record(&self) -> GlobalKey {
        match self {
            Self::Topology(_) => GlobalKey::Topology,
            Self::Primary(_) => GlobalKey::Primary,
            Self::Assignment(site, _) => GlobalKey::Assignment(site.clone()),
            Self::Running(_) => GlobalKey::RunningOperation,
            Self::Operation(operation) => GlobalKey::Operation(operation.id.clone()),
            Self::Leader(..) => GlobalKey::Leader,
            Self::Coordinator(member, _) => GlobalKey::Coordinator(member.name.clone()),
        }
    }
}

/// One transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// What for.
    pub purpose: Purpose,
    /// All must hold.
    pub compares: Vec<Expect>,
    /// Written together when they do.
    pub puts: Vec<Put>,
    /// Ended operations that are forgotten in the same transaction.
    pub forgets: Vec<OperationId>,
}

impl Write {
    /// A transaction that compares and writes nothing yet.
    #[must_use]
    pub fn new(purpose: Purpose) -> Self {
        Self { purpose, compares: Vec::new(), puts: Vec::new(), forgets: Vec::new() }
    }

    /// Compares `record` with the revision that `view` has of it.
    #[must_use]
    pub fn comparing(mut self, view: &View, record: GlobalKey) -> Self {
        if !self.compares.iter().any(|expect| expect.record == record) {
            let revision = view.revision_of(&record);
            self.compares.push(Expect { record, revision });
        }
        self
    }

    /// Writes a record, comparing it with the revision that `view` has of it.
    #[must_use]
    pub fn put(mut self, view: &View, put: Put) -> Self {
        self = self.comparing(view, put.record());
        self.puts.push(put);
        self
    }

    /// Writes what a transaction on `primary` puts, comparing what it compares.
    #[must_use]
    pub fn with(mut self, transaction: Transaction) -> Self {
        let Transaction { name, compares, primary, lease, history } = transaction;
        debug_assert!(lease.is_none() && history.is_none(), "{name}: a site's leader sends it");
        for Unchanged { record, revision } in compares {
            if !self.compares.iter().any(|expect| expect.record == record) {
                self.compares.push(Expect { record, revision: revision.map(Revision) });
            }
        }
        self.puts.extend(primary.map(|primary| Put::Primary(Box::new(primary))));
        self
    }

    /// Forgets an operation, comparing it with the revision that `view` has of it.
    #[must_use]
    pub fn forget(mut self, view: &View, id: OperationId) -> Self {
        self = self.comparing(view, GlobalKey::Operation(id.clone()));
        self.forgets.push(id);
        self
    }
}
