//! `regent-agent CONFIG.yml`: the agent of one PostgreSQL.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use regent_agent::act::epoch_by_hand;
use regent_agent::config::{Config, Places};
use regent_agent::log::Log;
use regent_agent::run::Agent;
use regent_agent::upgrade::{self, HELD, Upgrade};
use regent_proto::Epoch;
use regent_proto::log::{LogConfig, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Regent's agent: high availability for the PostgreSQL beside it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file (Patroni's YAML, with our sections).
    config: PathBuf,
    /// Check the configuration and end.
    #[arg(long)]
    check: bool,
    /// Show the epoch in the global quorum, in the site DCS and on this node's disk, and end.
    #[arg(long, conflicts_with = "check")]
    show_epoch: bool,
    /// Vouch for the quorum's present epoch where this node or site does not know any more what it
    /// has seen, and end: writes it to this node's disk and the site DCS.
    #[arg(long, value_name = "EPOCH", conflicts_with_all = ["check", "show_epoch"])]
    accept_epoch: Option<u64>,
    /// Descriptor of the guardian's page, from the life before in this process (upgrade).
    #[arg(long, hide = true, value_name = "FD")]
    inherit_page: Option<i32>,
    /// With --check and --inherit-page: the addresses that the running agent listens on. One of a
    /// version that does not say so asks for no look at addresses.
    #[arg(long, hide = true, env = HELD, value_name = "ADDRESS[,..]", value_delimiter = ',')]
    held: Option<Vec<SocketAddr>>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("regent-agent: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one place where start-up tells something")]
fn report(text: &str) {
    eprintln!("{text}");
}

#[expect(clippy::print_stdout, reason = "what was asked for")]
fn by_hand(config: &Config, accept: Option<u64>) -> anyhow::Result<()> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let text = runtime.block_on(async {
        match accept {
            Some(epoch) => epoch_by_hand::accept(config, Epoch::new(epoch)).await,
            None => epoch_by_hand::show(config).await,
        }
    })?;
    println!("{}", text.trim_end());
    Ok(())
}

/// From here on what is logged is written.
fn begin_log(config: &LogConfig) -> std::io::Result<Log> {
    let filter = tracing_subscriber::EnvFilter::new(config.level.name());
    let lines = Log::start(std::io::stderr())?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Colours are for people who look on, not for a file or the journal.
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(lines.clone());
    match config.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(lines)
}

/// The configuration is refused: what it says of places is enough to end what nobody guards.
fn end_what_was_left(arguments: &Arguments, because: &anyhow::Error) -> anyhow::Result<()> {
    let Some(places) = Places::of(&arguments.config) else { return Ok(()) };
    // How it should log is not known either; without a log the server ends all the same.
    let lines = begin_log(&LogConfig::default()).ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Agent::refused(&places, arguments.inherit_page, because));
    if let Some(lines) = lines {
        lines.flush(Duration::from_millis(500));
    }
    Ok(())
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    let only_asks = arguments.check || arguments.show_epoch || arguments.accept_epoch.is_some();
    // Before anything is touched: a lock that root made would keep the right user out.
    anyhow::ensure!(
        only_asks || !nix::unistd::geteuid().is_root(),
        "started as root, which PostgreSQL refuses; start it as the unprivileged user that owns the \
         data directory (the unit's User=)"
    );
    let config = match Config::load(&arguments.config).map_err(anyhow::Error::from) {
        Ok(config) => config,
        Err(error) if only_asks => return Err(error),
        Err(error) => {
            if let Err(failed) = end_what_was_left(arguments, &error) {
                report(&format!("regent-agent: looking for an unguarded PostgreSQL: {failed:#}"));
            }
            return Err(error);
        }
    };
    if arguments.check {
        if let Some(fd) = arguments.inherit_page {
            let page = regent_guardian::page::Page::open(format!("/proc/self/fd/{fd}"));
            page.map_err(|error| anyhow::anyhow!("the guardian's page: {error}"))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(Agent::check_next_life(&config, arguments.held.as_deref()))?;
        }
        for warning in config.first_warnings() {
            report(&format!("warning: {warning}"));
        }
        return Ok(());
    }
    if arguments.show_epoch || arguments.accept_epoch.is_some() {
        return by_hand(&config, arguments.accept_epoch);
    }
    // Every TLS user of this process shares one provider; a second call would be a mistake of ours.
    drop(rustls::crypto::ring::default_provider().install_default());
    let lines = begin_log(&config.regent.log)?;
    for warning in config.first_warnings() {
        tracing::warn!("{warning}");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut usr2 = signal(SignalKind::user_defined2())?;
        // What Patroni's operators send for a reload: the program reads its file anew by starting anew.
        let mut hangup = signal(SignalKind::hangup())?;
        let (ask, asked) = mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                let asked = tokio::select! {
                    asked = usr2.recv() => asked,
                    asked = hangup.recv() => asked,
                };
                if asked.is_none() {
                    return;
                }
                // One that waits already is enough.
                ask.try_send(()).ok();
            }
        });
        let upgrade =
            Upgrade { program: std::env::current_exe()?, config: arguments.config.clone(), asked };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        upgrade::unblock()?;
        let cancel = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            cancel.cancel();
        });
        let agent = Agent::build(config, upgrade, arguments.inherit_page, stop).await?;
        Box::pin(agent.run()).await
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
    lines.flush(Duration::from_millis(500));
    result
}
