//! What processes cost while nothing happens: CPU over a span, their share of memory at its end, and what
//! they ask of their store.

use std::fs;
use std::time::Duration;

use nix::unistd::Pid;

use crate::exit::Failure;

/// A tick of /proc in milliseconds: 100 a second in the kernel's interface, whatever the machine.
const TICK: u64 = 10;

/// What some processes have used up, or take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    /// CPU time, in user and kernel mode.
    pub cpu: Duration,
    /// Proportional set size: pages that several processes share count once among them.
    pub pss_kb: u64,
}

/// What they have used up so far, and take now.
pub fn cost(pids: &[Pid]) -> Result<Cost, Failure> {
    let mut all = Cost::default();
    for pid in pids {
        let read = |name: &str| {
            let file = format!("/proc/{pid}/{name}");
            fs::read_to_string(&file).map_err(|e| Failure::error(format!("read {file}: {e}")))
        };
        let wrong = |name: &str| Failure::error(format!("/proc/{pid}/{name} is not understood"));
        all.cpu += cpu(&read("stat")?).ok_or_else(|| wrong("stat"))?;
        all.pss_kb += pss(&read("smaps_rollup")?).ok_or_else(|| wrong("smaps_rollup"))?;
    }
    Ok(all)
}

/// The 14th and 15th field of /proc/PID/stat, of all its threads, also of those that have ended.
fn cpu(stat: &str) -> Option<Duration> {
    // The program's name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + kernel) * TICK))
}

/// The messages that an etcd has received, by its metrics: requests, and those in streams, such as renewals
/// of leases.
#[must_use]
pub fn requests(metrics: &str) -> Option<f64> {
    let lines = metrics.lines().filter(|line| line.starts_with("grpc_server_msg_received_total{"));
    let counts = lines.map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let counts: Vec<f64> = counts.collect::<Option<_>>()?;
    (!counts.is_empty()).then(|| counts.iter().sum())
}

fn pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "4711 (a (b) c) S 1 4711 4711 0 -1 4194560 900 0 1 0 123 45 6 7 20 0 5 0 99";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1680)));
        assert_eq!(cpu("4711 (x) S 1"), None);
        let rollup = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:  5000 kB\nPss:  3210 kB\n\
                      Pss_Dirty: 1 kB\n";
        assert_eq!(pss(rollup), Some(3210));
    }

    #[test]
    fn the_requests_of_all_methods_count() {
        let metrics = "# TYPE grpc_server_msg_received_total counter\n\
                       grpc_server_msg_received_total{grpc_method=\"Put\"} 12\n\
                       grpc_server_msg_sent_total{grpc_method=\"Put\"} 99\n\
                       grpc_server_msg_received_total{grpc_method=\"LeaseKeepAlive\"} 1.5e+03\n";
        assert_eq!(requests(metrics), Some(1512.0));
        assert_eq!(requests("up 1\n"), None);
    }

    #[test]
    fn this_process_takes_memory() {
        let own = cost(&[nix::unistd::getpid()]).expect("its files");
        assert!(own.pss_kb > 0, "{own:?}");
    }
}
