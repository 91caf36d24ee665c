//! Bad input as a user of the real programs meets it. (helper: being written)
