//! What an error of etcd means: the table of `stack.md` section 3 as code.

use std::error::Error as StdError;
use std::io;

use etcd_client::Error;
use tonic::Code;

/// What may have happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// etcd says no, and every member will.
    Refused,
    /// It didn't take effect; another member, or the same one later, may do it.
    NotDone,
    /// It may have taken effect.
    Unknown,
}

/// Reads the verdict off an error.
pub(super) fn verdict(error: &Error) -> Verdict {
    match error {
        Error::InvalidArgs(_)
        | Error::InvalidUri(_)
        | Error::Utf8Error(_)
        | Error::InvalidMetadataValue(_)
        | Error::EndpointError(_)
        | Error::EndpointsNotManaged => Verdict::Refused,
        Error::GRpcStatus(status) => {
            if never_sent(status) {
                return Verdict::NotDone;
            }
            by_code(status.code(), status.message())
        }
        Error::TransportError(error) if never_sent(error) => Verdict::NotDone,
        Error::IoError(_)
        | Error::TransportError(_)
        | Error::WatchError(_)
        | Error::LeaseKeepAliveError(_)
        | Error::ElectError(_)
        | Error::Internal(_) => Verdict::Unknown,
    }
}

fn by_code(code: Code, message: &str) -> Verdict {
    // etcd refuses these before it proposes anything.
    const NOT_PROPOSED: [&str; 5] = [
        "etcdserver: no leader",
        "etcdserver: too many requests",
        "etcdserver: mvcc: database space exceeded",
        "etcdserver: revision of auth store is old",
        "auth: revision in header is old",
    ];
    if NOT_PROPOSED.iter().any(|text| message.contains(text)) {
        return Verdict::NotDone;
    }
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::ResourceExhausted => Verdict::Refused,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Verdict::Unknown,
    }
}

/// Whether the request never left this machine, because no connection could be made.
fn never_sent(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && matches!(
                io.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::AddrNotAvailable
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
            )
        {
            return true;
        }
        // hyper's connector keeps its error type to itself; its words are "tcp connect error",
        // "dns error" and, from tonic, "connect timeout".
        let words = error.to_string();
        if ["tcp connect error", "dns error", "connect timeout"].contains(&words.as_str()) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Whether the error says that there is no such lease.
pub(super) fn is_lost_lease(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => {
            status.code() == Code::NotFound && status.message().contains("lease not found")
        }
        // The client's own words for a TTL of 0 in the first answer.
        Error::LeaseKeepAliveError(words) => words == "lease not found",
        _ => false,
    }
}

/// The error with its causes: etcd-client's own text hides them.
pub(super) fn explain(error: &Error) -> String {
    let Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut text = format!("{} ({:?})", status.message(), status.code());
    let mut next = status.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    if text.contains("connection closed") || text.contains("operation was canceled") {
        text.push_str("; if the members want TLS or a client certificate, this is how it shows");
    }
    text
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    const CODES: [(Code, Verdict); 17] = [
        (Code::Ok, Verdict::Unknown),
        (Code::Cancelled, Verdict::Unknown),
        (Code::Unknown, Verdict::Unknown),
        (Code::InvalidArgument, Verdict::Refused),
        (Code::DeadlineExceeded, Verdict::Unknown),
        (Code::NotFound, Verdict::Refused),
        (Code::AlreadyExists, Verdict::Refused),
        (Code::PermissionDenied, Verdict::Refused),
        (Code::ResourceExhausted, Verdict::Refused),
        (Code::FailedPrecondition, Verdict::Refused),
        (Code::Aborted, Verdict::Unknown),
        (Code::OutOfRange, Verdict::Refused),
        (Code::Unimplemented, Verdict::Refused),
        (Code::Internal, Verdict::Unknown),
        (Code::Unavailable, Verdict::Unknown),
        (Code::DataLoss, Verdict::Unknown),
        (Code::Unauthenticated, Verdict::Refused),
    ];

    fn judged(code: Code, words: &str) -> Verdict {
        verdict(&Error::GRpcStatus(Status::new(code, words)))
    }

    /// hazards.md rows 12, 13 and 30: of each code with each text it is decided here whether it may have
    /// happened, and only what etcd says before it proposes anything has certainly not.
    #[test]
    fn each_code_has_its_verdict_whatever_the_text() {
        for (code, by_code) in CODES {
            for words in [
                "",
                "etcdserver: leader changed",
                "etcdserver: server stopped",
                "etcdserver: request timed out",
                "etcdserver: request timed out, possibly due to previous leader failure",
                "raft: stopped",
                "something new",
            ] {
                assert_eq!(judged(code, words), by_code, "{code:?} {words:?}");
            }
            for words in [
                "etcdserver: no leader",
                "rpc error: etcdserver: too many requests",
                "etcdserver: mvcc: database space exceeded",
                "etcdserver: revision of auth store is old",
            ] {
                assert_eq!(judged(code, words), Verdict::NotDone, "{code:?} {words:?}");
            }
        }
    }

    /// A lease is lost by etcd's very word only: anything else leaves the deadline to decide.
    #[test]
    fn no_other_error_says_that_a_lease_is_lost() {
        for (code, _) in CODES {
            for words in ["", "etcdserver: leader changed", "requested lease not found"] {
                let says = code == Code::NotFound && words.ends_with("lease not found");
                let error = Error::GRpcStatus(Status::new(code, words));
                assert_eq!(is_lost_lease(&error), says, "{code:?} {words:?}");
            }
        }
        assert!(is_lost_lease(&Error::LeaseKeepAliveError("lease not found".to_owned())));
        assert!(!is_lost_lease(&Error::LeaseKeepAliveError("no keep alive stream".to_owned())));
    }
}
