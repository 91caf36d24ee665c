//! What a site follows, and whom its members stream from.

use std::collections::BTreeMap;
use std::sync::Arc;

use regent_proto::name::NodeName;

use super::world::{World, name, remote};
use crate::decide::upstream::{Upstream, is_standby_site, of, of_member};
use crate::decide::view::*;
use crate::decide::{Action, Job, Reason};

#[test]
fn a_federation_s_records_say_what_its_sites_follow_and_the_section_what_others_do() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend, &str); 6] = [
        ("it holds primacy", |_| {}, "nobody"),
        ("another holds it", World::held_by_b, "site"),
        ("nothing was read", |w| w.federation().primary = None, "unknown"),
        ("no federation", |w| w.view.federation = None, "nobody"),
        (
            "no federation, with the section",
            |w| {
                w.view.federation = None;
                w.view.remote = Some(remote(3));
            },
            "remote",
        ),
        ("a section in a federation", |w| w.view.remote = Some(remote(3)), "nobody"),
    ];
    for (what, bend, wanted) in cases {
        let mut world = World::new();
        bend(&mut world);
        let found = match of(&world.view) {
            Upstream::Nobody(_) => "nobody",
            Upstream::Unknown => "unknown",
            Upstream::Site(..) => "site",
            Upstream::Remote(_) => "remote",
        };
        assert_eq!(found, wanted, "{what}");
        let follows = matches!(wanted, "site" | "remote");
        assert_eq!(is_standby_site(&world.view), follows, "{what}");
    }
}

/// Members by `NAME`, `NAME<FROM`, each of them running but those with a `!`.
fn members(text: &str) -> BTreeMap<NodeName, Arc<Member>> {
    let any = Arc::clone(&World::new().site().members[&name::<NodeName>("a2")]);
    let member = |word: &str| {
        let (word, state) = match word.strip_suffix('!') {
            Some(word) => (word, "stopped"),
            None => (word, "running"),
        };
        let (who, from) = word
            .split_once('<')
            .map_or((word, None), |(who, from)| (who, Some(name::<NodeName>(from))));
        let mut member = (*any).clone();
        (member.state, member.replicatefrom) = (state.to_owned(), from);
        (name::<NodeName>(who), Arc::new(member))
    };
    text.split(' ').map(member).collect()
}

/// `a1` leads.
#[test]
fn replicatefrom_names_a_running_member_and_a_loop_ends_at_the_leader() {
    for (site, who, wanted) in [
        ("a1 a2 a3", "a3", "a1"),
        ("a1 a2 a3<a2", "a3", "a2"),
        ("a1 a2 a3<a1", "a3", "a1"),
        ("a1 a2 a3<a3", "a3", "a1"),
        ("a1 a2! a3<a2", "a3", "a1"),
        ("a1 a3<a9", "a3", "a1"),
        ("a1 a2<a4 a3<a2 a4", "a3", "a2"),
        // A loop of two, of three, and one that leads into it.
        ("a1 a2<a3 a3<a2", "a2", "a1"),
        ("a1 a2<a3 a3<a2", "a3", "a1"),
        ("a1 a2<a3 a3<a4 a4<a2", "a4", "a1"),
        ("a1 a2<a3 a3<a2 a4<a3", "a4", "a3"),
        // It is none where one of them does not run, or leads.
        ("a1 a2<a3 a3<a4! a4<a2", "a3", "a4"),
        ("a1 a2<a3 a3<a4 a4<a2!", "a2", "a3"),
        ("a1<a2 a2<a1", "a2", "a1"),
    ] {
        let (members, leader, me) = (members(site), name::<NodeName>("a1"), name::<NodeName>(who));
        let tag = members[&me].replicatefrom.as_ref();
        let found = of_member(&members, &leader, (&me, tag));
        assert_eq!(*found, name::<NodeName>(wanted), "{site}: {who}");
    }
}

/// `a1` under `a2`, beside `a3`, which its tag names.
fn under_a2() -> World {
    let mut world = World::new();
    world.leader(Some("a2"));
    world.view.tenure.primary = None;
    world.standby(3, 310);
    let third = Arc::clone(&world.site().members[&name::<NodeName>("a2")]);
    world.site().members.insert(name("a3"), third);
    world.status().slots.insert("a3".to_owned(), Slot::physical(true));
    world.member("a3").port = 6003;
    world.member("a3").role = "replica".to_owned();
    world.policy.replicatefrom = Some(name("a3"));
    world
}

fn member(who: &str, port: u16) -> Follow {
    Follow::Member { name: name(who), address: ("127.0.0.1".to_owned(), port) }
}

#[test]
fn a_member_turns_to_whom_its_tag_names_and_an_archive_only_one_to_nobody() {
    type Bend = fn(&mut World);
    let cases: [(&str, Bend, Follow); 5] = [
        ("cascades", |_| {}, member("a3", 6003)),
        ("no tag", |w| w.policy.replicatefrom = None, member("a2", 6002)),
        ("it is away", |w| w.member("a3").state = "stopped".to_owned(), member("a2", 6002)),
        ("a loop", |w| w.member("a3").replicatefrom = Some(name("a1")), member("a2", 6002)),
        ("nostream", |w| w.policy.nostream = true, Follow::Nobody),
    ];
    for (what, bend, target) in cases {
        let mut world = under_a2();
        bend(&mut world);
        assert_eq!(world.decide().actions, vec![Action::Follow(target.clone())], "{what}");
        world.view.postgres.follows = Some(target);
        let then = world.decide();
        assert_eq!((then.actions, then.reason), (vec![], Reason::Following), "{what}");
    }
}

/// Whomever it streams from, the leader's history is what it was judged by.
#[test]
fn a_member_that_cascades_rewinds_onto_the_leader_and_is_copied_from_it() {
    for nostream in [false, true] {
        let mut world = under_a2();
        world.policy.nostream = nostream;
        world.stopped(ControlState::ShutDown, 2, 250);
        let rewinds = vec![Action::Run(Job::Rewind(member("a2", 6002)))];
        assert_eq!(world.decide().actions, rewinds);
        world.view.postgres.data = DataDirectory::Empty;
        let copies = vec![Action::Run(Job::Clone(member("a2", 6002)))];
        assert_eq!(world.decide().actions, copies);
        world.member("a3").clonefrom = true;
        let copies = vec![Action::Run(Job::Clone(member("a3", 6003)))];
        assert_eq!(world.decide().actions, copies);
    }
}
