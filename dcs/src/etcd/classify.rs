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
