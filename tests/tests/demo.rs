//! One complete run of the demo. (helper: being written)
