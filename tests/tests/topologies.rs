//! Every topology of topologies/ starts as a lab, and goes without a trace. (helper: being written)
