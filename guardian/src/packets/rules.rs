//! The words for nft(8). One table a port; a batch is one transaction of the kernel's.

use super::Rule;

/// The table of a port.
pub(super) fn table(port: u16) -> String {
    format!("inet regent_packets_{port}")
}

/// Makes the table, instead of one that an earlier life left. It begins open.
///
/// What is refused resets the socket that sent it: dropped silently, it would stay in the kernel's
/// send queue beyond the death of its process, and be sent again once the port is open for reads.
pub(super) fn make(port: u16) -> String {
    let table = table(port);
    format!(
        "add table {table}\ndelete table {table}\ntable {table} {{\n\
         set open {{ type inet_service; flags timeout; elements = {{ {port} }}; }}\n\
         chain out {{ type filter hook output priority 0; policy accept;\n\
         tcp sport {port} tcp sport != @open counter reject with tcp reset\n}}\n}}\n"
    )
}

/// Puts a rule in force.
pub(super) fn put(port: u16, rule: Rule) -> String {
    let table = table(port);
    let flush = format!("flush set {table} open\n");
    match rule {
        Rule::Open => format!("{flush}add element {table} open {{ {port} }}\n"),
        // Whole milliseconds, rounded down.
        Rule::For(span) if span.as_millis() > 0 => {
            let millis = span.as_millis();
            format!("{flush}add element {table} open {{ {port} timeout {millis}ms }}\n")
        }
        Rule::For(_) | Rule::Closed => flush,
    }
}

/// Takes everything away.
pub(super) fn remove(port: u16) -> String {
    format!("delete table {}\n", table(port))
}
