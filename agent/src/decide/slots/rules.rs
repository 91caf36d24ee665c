//! What the configuration says of slots.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::decide::view::{Follow, Slot};

/// What the dynamic configuration says of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// `postgresql.use_slots`.
    pub use_slots: bool,
    /// `member_slots_ttl`; zero: a slot goes with its member.
    pub member_ttl: Duration,
    /// `slots`.
    pub permanent: BTreeMap<String, Permanent>,
    /// `ignore_slots`.
    pub ignored: Vec<Matcher>,
    /// `slot_wal_budget`: how much WAL one slot may keep before it is warned of, in bytes.
    pub wal_budget: Option<u64>,
}

impl Default for Rules {
    /// Patroni's defaults (spec/patroni-compat.md section 4).
    fn default() -> Self {
        Self {
            use_slots: true,
            member_ttl: Duration::from_secs(1800),
            permanent: BTreeMap::new(),
            ignored: Vec::new(),
            wal_budget: None,
        }
    }
}

impl Rules {
    /// Others' slots: `ignore_slots`, and failover slots, which the server itself keeps in step.
    pub(super) fn leaves_alone(&self, name: &str, slot: &Slot) -> bool {
        (slot.failover && !slot.physical)
            || self.ignored.iter().any(|matcher| matcher.matches(name, slot))
    }

    /// Whether this server has to hold back the vacuum of whom it follows: without it what it keeps of
    /// logical slots would break. A site that follows another keeps nothing of them, and what it held back
    /// while the link is down would bloat the primary.
    #[must_use]
    pub fn want_feedback(&self, follows: Option<&Follow>) -> bool {
        let decodes = self.permanent.values().any(|permanent| permanent.kind != Kind::Physical);
        decodes
            && match follows {
                None | Some(Follow::Nobody | Follow::Member { .. }) => true,
                Some(Follow::Site { .. } | Follow::Remote { .. }) => false,
            }
    }
}

/// What is decoded from a slot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// WAL as it is.
    Physical,
    /// Changes of one database.
    Logical {
        /// Which.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
}

impl Kind {
    /// Whether a slot is of this kind.
    pub(super) fn is_of(&self, slot: &Slot) -> bool {
        match self {
            Self::Physical => slot.physical,
            Self::Logical { database, plugin } => {
                !slot.physical
                    && slot.database.as_ref() == Some(database)
                    && slot.plugin.as_ref() == Some(plugin)
            }
        }
    }
}

/// One of `slots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permanent {
    /// Of which kind.
    pub kind: Kind,
    /// `cluster_type`: only in such a site.
    pub only: Option<ClusterType>,
    /// `wal_budget`: this slot's own, in bytes.
    pub wal_budget: Option<u64>,
}

/// What a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterType {
    /// It writes.
    Primary,
    /// It follows another.
    Standby,
}

/// One of `ignore_slots`: what it says must all be so.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matcher {
    /// The slot's name.
    pub name: Option<String>,
    /// Physical, or logical.
    pub physical: Option<bool>,
    /// Its database.
    pub database: Option<String>,
    /// Its output plugin.
    pub plugin: Option<String>,
}

impl Matcher {
    pub(super) fn matches(&self, name: &str, slot: &Slot) -> bool {
        let same =
            |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        self.name.as_deref().is_none_or(|wanted| wanted == name)
            && self.physical.is_none_or(|physical| physical == slot.physical)
            && same(&self.database, &slot.database)
            && same(&self.plugin, &slot.plugin)
    }
}
