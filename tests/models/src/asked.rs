//! Answers of the product's rules, kept: the rules are pure, so a question that was asked once need
//! not be asked again. A search asks the same few thousand questions some hundred million times.

use std::cell::RefCell;
use std::hash::Hash;
use std::thread::LocalKey;

/// Answers by their whole question; one for each thread of a search.
#[derive(Debug)]
#[expect(clippy::disallowed_types, reason = "looked up by its key, never walked through")]
pub struct Asked<Q, A>(RefCell<std::collections::HashMap<Q, A>>);

impl<Q, A> Default for Asked<Q, A> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

/// The answer to `question`, which must name everything that `ask` looks at.
pub fn once<Q, A>(kept: &'static LocalKey<Asked<Q, A>>, question: Q, ask: impl FnOnce() -> A) -> A
where
    Q: Hash + Eq,
    A: Copy,
{
    let known = kept.with(|Asked(answers)| answers.borrow().get(&question).copied());
    known.unwrap_or_else(|| {
        let answer = ask();
        kept.with(|Asked(answers)| answers.borrow_mut().insert(question, answer));
        answer
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static SQUARES: Asked<u8, u8> = Asked::default();
    }

    #[test]
    fn each_question_is_asked_once_and_gets_its_own_answer() {
        let count = Cell::new(0);
        let square = |n: u8| {
            once(&SQUARES, n, || {
                count.set(count.get() + 1);
                n * n
            })
        };
        assert_eq!([square(2), square(3), square(2), square(3)], [4, 9, 4, 9]);
        assert_eq!(count.get(), 2);
    }
}
