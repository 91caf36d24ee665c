//! Progress: from every state that faults can lead to, what must come back can come back without
//! another one (I20, I29; protocol.md section 4).
//!
//! stateright searches for a state; this searches the whole graph. First every reachable state, by
//! every step; then, backwards from the good ones along the steps that are no fault and no
//! operator's, whoever reaches one. A state that is left over is stuck. It says that there is a way,
//! not that every way leads there: that needs whoever may go on to go on, which the product's loops
//! do and the simulator tries.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher as _};

use regent_guardian::clock::boot_time;
use stateright::Model;

use crate::run::Found;

/// Where a search is given up, in distinct states.
const MOST: usize = 20_000_000;

struct Graph<S> {
    /// The place of a state by its hash: 64 bits, as stateright's own.
    places: BTreeMap<u64, u32>,
    /// The step before: from where, by which of its actions.
    parents: Vec<(u32, u16)>,
    /// What is still to be expanded.
    ahead: VecDeque<(u32, S)>,
}

impl<S: Hash> Graph<S> {
    fn place(&mut self, state: S, parent: (u32, u16)) -> u32 {
        let next = u32::try_from(self.parents.len()).unwrap_or(u32::MAX);
        let mut hasher = DefaultHasher::new();
        state.hash(&mut hasher);
        let place = *self.places.entry(hasher.finish()).or_insert(next);
        if place == next {
            self.parents.push(parent);
            self.ahead.push_back((place, state));
        }
        place
    }
}

/// Searches `model` to its end for a state from which no step that is `free` leads on to a `good` one.
pub fn progress<M>(
    model: &M,
    name: &'static str,
    free: impl Fn(&M::Action) -> bool,
    good: impl Fn(&M::State) -> bool,
) -> Found
where
    M: Model,
    M::State: Hash + Clone,
    M::Action: std::fmt::Debug,
{
    let since = boot_time();
    let mut graph = Graph { places: BTreeMap::new(), parents: Vec::new(), ahead: VecDeque::new() };
    for state in model.init_states() {
        graph.place(state, (u32::MAX, 0));
    }
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut reaches: Vec<bool> = Vec::new();
    while let Some((from, state)) = graph.ahead.pop_front() {
        // Breadth first: states come here in the order of their places.
        reaches.push(good(&state));
        if graph.parents.len() > MOST {
            break;
        }
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        for (number, action) in (0_u16..).zip(actions) {
            let is_free = free(&action);
            let Some(next) = model.next_state(&state, action) else { continue };
            let to = graph.place(next, (from, number));
            if is_free {
                edges.push((to, from));
            }
        }
    }
    let complete = graph.ahead.is_empty();
    spread(&mut edges, &mut reaches);
    let stuck = reaches.iter().position(|reaches| !reaches).filter(|_| complete);
    let broken = stuck.map(|place| (name, way(model, &graph.parents, place))).into_iter().collect();
    let never = if reaches.contains(&true) { Vec::new() } else { vec![name] };
    Found {
        states: graph.parents.len(),
        depth: 0,
        took: boot_time().since(since),
        complete: complete && stuck.is_none(),
        broken,
        never,
    }
}

/// Whoever has an edge to one that reaches the good, reaches it. Edges are (to, from).
fn spread(edges: &mut [(u32, u32)], reaches: &mut [bool]) {
    edges.sort_unstable();
    let mut ahead: Vec<u32> =
        (0_u32..).zip(reaches.iter()).filter(|(_, reaches)| **reaches).map(|(at, _)| at).collect();
    while let Some(to) = ahead.pop() {
        let first = edges.partition_point(|edge| edge.0 < to);
        for (_, from) in edges[first..].iter().take_while(|edge| edge.0 == to) {
            let from_at = usize::try_from(*from).unwrap_or(usize::MAX);
            if !reaches[from_at] {
                reaches[from_at] = true;
                ahead.push(*from);
            }
        }
    }
}

/// The steps to the state at a place.
fn way<M>(model: &M, parents: &[(u32, u16)], place: usize) -> String
where
    M: Model,
    M::Action: std::fmt::Debug,
{
    let mut numbers = Vec::new();
    let mut at = place;
    while let Some((from, number)) = parents.get(at).filter(|(from, _)| *from != u32::MAX) {
        numbers.push(*number);
        at = usize::try_from(*from).unwrap_or(usize::MAX);
    }
    let mut state = model.init_states().into_iter().nth(at);
    let mut steps = Vec::new();
    for number in numbers.into_iter().rev() {
        let Some(before) = state else { break };
        let mut actions = Vec::new();
        model.actions(&before, &mut actions);
        let Some(action) = actions.into_iter().nth(usize::from(number)) else { break };
        steps.push(format!("{action:?}"));
        state = model.next_state(&before, action);
    }
    steps.join(" → ")
}

#[cfg(test)]
mod tests {
    use stateright::Property;

    use super::*;

    /// Counts up to 9; from 5 a fault leads to 20, from where a free step leads nowhere but to 21.
    struct Trap {
        /// Whether 21 leads back.
        mended: bool,
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Act {
        Up,
        Fault,
        Back,
    }

    impl Model for Trap {
        type State = u8;
        type Action = Act;

        fn init_states(&self) -> Vec<u8> {
            vec![0]
        }

        fn actions(&self, _: &u8, out: &mut Vec<Act>) {
            out.extend([Act::Up, Act::Fault, Act::Back]);
        }

        fn next_state(&self, at: &u8, action: Act) -> Option<u8> {
            match (action, *at) {
                (Act::Up, 0..=8 | 20) => Some(at + 1),
                (Act::Fault, 5) => Some(20),
                // A fault that would help does not count.
                (Act::Fault, 21) => Some(9),
                (Act::Back, 21) => self.mended.then_some(9),
                _ => None,
            }
        }

        fn properties(&self) -> Vec<Property<Self>> {
            Vec::new()
        }
    }

    fn of(mended: bool, good: u8) -> Found {
        progress(&Trap { mended }, "back", |act| *act != Act::Fault, |at| *at == good)
    }

    #[test]
    fn who_is_stuck_is_found_with_the_way_there() {
        let found = of(false, 9);
        assert_eq!(found.broken, [("back", "Up → Up → Up → Up → Up → Fault".to_owned())]);
        assert!(!found.clean());
    }

    #[test]
    fn nobody_is_stuck_where_a_free_step_leads_back() {
        let found = of(true, 9);
        assert!(found.clean(), "{found:?}");
        assert_eq!(found.states, 12);
    }

    #[test]
    fn what_is_never_reached_is_said() {
        assert_eq!(of(true, 99).never, ["back"]);
    }
}
