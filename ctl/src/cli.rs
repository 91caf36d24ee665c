//! The command line: every verb with its arguments. What a verb does is in its own file under
//! [`crate::verbs`], `lab`, `demo` and `bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use regent_proto::topology::{Size, Span};

use crate::render::Format;

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    error
  2    invalid command line or file
  3    refused: a check blocks; nothing was changed
  4    rolled back or cancelled: the primary site is the one of before
  5    no coordinator reached, or an answer was lost: look before trying again
  130  interrupted";

/// Regent: PostgreSQL high availability across datacenters.
#[derive(Debug, Parser)]
#[command(name = "regentctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Coordinators, host:port, several with commas; tried in order. Without it: those of --lab,
    /// or of the one lab that runs on this machine.
    #[arg(
        long,
        global = true,
        env = "REGENT_ENDPOINTS",
        value_name = "HOST:PORT[,..]",
        value_delimiter = ','
    )]
    pub endpoint: Vec<String>,
    /// The directory of a lab on this machine whose coordinators to ask.
    #[arg(long, global = true, env = "REGENT_LAB", value_name = "DIR")]
    pub lab: Option<PathBuf>,
    /// The federation, where a coordinator serves several.
    #[arg(long, global = true, env = "REGENT_FEDERATION", value_name = "NAME")]
    pub federation: Option<String>,
    /// Text for people or JSON for programs.
    #[arg(short, long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub output: Format,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Who is primary, is it safe, what would be lost right now.
    Status {
        /// Redraw at every change until interrupted.
        #[arg(short, long)]
        watch: bool,
        /// Every node's fence: deadline, round trips, worst stop, kill and wake-up, watchdog.
        #[arg(long, conflicts_with = "watch")]
        fence: bool,
        /// A site by itself, as its agents tell it: the REST address of any of them. For a site
        /// without coordinators, or when none answers.
        #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["watch", "endpoint", "lab"])]
        agent: Option<String>,
    },
    /// Move the primary to another site; nothing is lost.
    Switchover(Switchover),
    /// Make a standby site primary although the primary site may be gone: what only that one has is
    /// lost, within what you accept. If it is alive, use switchover.
    Promote(Promotion),
    /// Stop all writes: the primary site keeps primacy and serves reads until it is unfenced, also
    /// after a restart or a failover inside it.
    Fence(Fencing),
    /// Let a fenced primary site write again.
    Unfence(Fencing),
    /// Operations: the running one and those before.
    #[command(subcommand)]
    Operation(OperationVerb),
    /// The topology: sites, links, quorum, policy.
    #[command(subcommand)]
    Topology(TopologyVerb),
    /// The agent on this machine.
    #[command(subcommand)]
    Agent(AgentVerb),
    /// A whole federation on this machine.
    #[command(subcommand)]
    Lab(LabVerb),
    /// Two sites and a witness on this machine, switched over under load.
    Demo(Demo),
    /// Measurements.
    #[command(subcommand)]
    Bench(BenchVerb),
    /// Completions for a shell, on standard output.
    Completions {
        /// Which shell.
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// `switchover`.
#[derive(Debug, Args)]
pub struct Switchover {
    /// The next primary site.
    #[arg(long, value_name = "SITE")]
    pub to: String,
    /// Show the plan only.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Go on although the next primary would open without a synchronous standby.
    #[arg(long)]
    pub accept_unprotected: bool,
    /// Why; kept with the operation.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
}

/// `promote`.
#[derive(Debug, Args)]
pub struct Promotion {
    /// The next primary site.
    #[arg(value_name = "SITE")]
    pub site: String,
    /// Lose commits of at most this span, as in 90s; or any, also one that nobody knows.
    #[arg(long, value_name = "SPAN|any", value_parser = accepted_age)]
    pub accept_loss_age: Option<AcceptedAge>,
    /// Lose at most so much WAL, as in 16MB, as far as that is known; without it bytes do not count.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub accept_loss_bytes: Option<Size>,
    /// Leave a site out of account, with what it alone has; may be given several times.
    #[arg(long, value_name = "SITE")]
    pub without: Vec<String>,
    /// End the primary lease although it is alive.
    #[arg(long)]
    pub end_lease: bool,
    /// Why; kept with the operation and in the history.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// Show the plan only.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// `--accept-loss-age`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptedAge {
    /// Whatever it is.
    Any,
    /// Commits of this span.
    AtMost(Duration),
}

fn accepted_age(text: &str) -> Result<AcceptedAge, String> {
    match text {
        "any" => Ok(AcceptedAge::Any),
        span => Span::try_from(span.to_owned()).map(|span| AcceptedAge::AtMost(span.0)),
    }
}

fn size(text: &str) -> Result<Size, String> {
    Size::try_from(text.to_owned())
}

/// `fence` and `unfence`.
#[derive(Debug, Args)]
pub struct Fencing {
    /// The primary site, by name.
    #[arg(value_name = "SITE")]
    pub site: String,
    /// Why; kept with the operation, and shown by status while the site is fenced.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub reason: String,
    /// Show the plan only.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// `operation`.
#[derive(Debug, Subcommand)]
pub enum OperationVerb {
    /// The last operations, newest first.
    List {
        /// At most this many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// One operation with its plan and steps.
    Show {
        /// Its id; without it the newest.
        id: Option<String>,
    },
    /// Follow an operation until it has an outcome.
    Watch {
        /// Its id; without it the newest.
        id: Option<String>,
    },
    /// Cancel an operation; possible until the handover.
    Cancel {
        /// Its id; without it the running one.
        id: Option<String>,
    },
}

/// `topology`.
#[derive(Debug, Subcommand)]
pub enum TopologyVerb {
    /// Check a topology file without asking anybody.
    Validate {
        /// The file.
        file: PathBuf,
    },
    /// Apply a topology file.
    Apply {
        /// The file.
        file: PathBuf,
        /// Show the changes only.
        #[arg(long)]
        dry_run: bool,
        /// Make a new federation; refused when it exists.
        #[arg(long)]
        create: bool,
    },
    /// The topology as applied.
    Show,
}

/// Which store a lab uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dcs {
    /// The SQLite file.
    #[value(alias = "sqlite")]
    Embedded,
    /// Real etcd.
    Etcd,
}

/// Where a lab is.
#[derive(Debug, Clone, Args)]
pub struct LabPlace {
    /// The topology file.
    #[arg(value_name = "TOPOLOGY.yaml")]
    pub topology: Option<PathBuf>,
    /// The lab's directory; without it one named after the federation, in the temporary directory.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `agent`.
#[derive(Debug, Subcommand)]
pub enum AgentVerb {
    /// Let a running agent become the program that lies at its path now; PostgreSQL goes on.
    Upgrade(Upgrade),
}

/// `agent upgrade`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Upgrade {
    /// The agent's run directory (regent.run_dir).
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The agent's process number.
    #[arg(long, value_name = "PID")]
    pub pid: Option<i32>,
}

/// `lab`.
#[derive(Debug, Subcommand)]
pub enum LabVerb {
    /// Start a topology on this machine, on loopback.
    Up {
        /// The topology file.
        #[arg(value_name = "TOPOLOGY.yaml")]
        topology: PathBuf,
        /// A directory that does not exist yet.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// Use this store for every site and the quorum, whatever the topology says.
        #[arg(long, value_enum)]
        dcs: Option<Dcs>,
    },
    /// Stop a lab and remove everything it made.
    Down(LabPlace),
    /// A lab's processes and ports.
    Status(LabPlace),
    /// Kill a process of a lab, to see what happens: a node (its agent, guardian and PostgreSQL),
    /// the guardian alone as guardian-NODE, or a process as `lab status` names it.
    Kill {
        /// A node, or a process.
        name: String,
        /// Where the lab is.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Start a process of a lab that was killed.
    Start {
        /// A node, or a process.
        name: String,
        /// Where the lab is.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// The lab's owner process; started by `lab up`.
    #[command(hide = true)]
    Supervise {
        /// The lab's directory.
        dir: PathBuf,
    },
}

/// `demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// Leave it running at the end.
    #[arg(long)]
    pub keep: bool,
    /// The store.
    #[arg(long, value_enum, default_value = "embedded")]
    pub dcs: Dcs,
    /// Plain lines, also on a terminal.
    #[arg(long)]
    pub plain: bool,
    /// Where to write the report.
    #[arg(long, default_value = "target/reports/demo.json", value_name = "FILE")]
    pub report: PathBuf,
}

/// `bench`.
#[derive(Debug, Subcommand)]
pub enum BenchVerb {
    /// Write outage of a planned switchover against the bare hand-over of two such servers.
    Switchover {
        /// Alternating pairs.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        pairs: u32,
        /// The store.
        #[arg(long, value_enum, default_value = "embedded")]
        dcs: Dcs,
        /// Where to write the report.
        #[arg(long, default_value = "target/reports/bench.json", value_name = "FILE")]
        report: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_exit_code() {
        for (exit, meaning) in Exit::ALL {
            let line = format!("  {:<3}  {meaning}", exit.code());
            assert!(EXIT_CODES.contains(&line), "{line}");
        }
    }

    #[test]
    fn an_accepted_loss_is_said_with_its_unit() {
        let parse = |age: &str, bytes: &str| {
            let arguments =
                ["promote", "us", "--accept-loss-age", age, "--accept-loss-bytes", bytes];
            let cli = Cli::try_parse_from(["regentctl"].into_iter().chain(arguments))?;
            let Verb::Promote(promotion) = cli.verb else { panic!("another verb") };
            Ok::<_, clap::Error>((promotion.accept_loss_age, promotion.accept_loss_bytes))
        };
        let age = AcceptedAge::AtMost(Duration::from_secs(90));
        assert_eq!(parse("90s", "16MB").expect("good"), (Some(age), Some(Size(16 << 20))));
        assert_eq!(parse("any", "1B").expect("good"), (Some(AcceptedAge::Any), Some(Size(1))));
        assert!(parse("90", "1B").is_err() && parse("90s", "16").is_err());
    }

    #[test]
    fn etcd_and_sqlite_are_words_for_stores() {
        let parse = |dcs| Cli::try_parse_from(["regentctl", "demo", "--dcs", dcs]);
        assert!(parse("etcd").is_ok());
        assert!(parse("sqlite").is_ok());
        assert!(parse("zookeeper").is_err());
    }
}
