//! `regent-coordinator CONFIG.yml`: reads the configuration, runs until SIGTERM or SIGINT.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use regent_coordinator::config::Config;
use regent_coordinator::run::Coordinator;
use regent_proto::log::{LogConfig, LogFormat};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The coordinator of a Regent federation: one or more per site, all equal, one elected.
#[derive(Debug, Parser)]
#[command(name = "regent-coordinator", version)]
struct Arguments {
    /// The configuration file.
    config: PathBuf,
    /// Check the configuration and exit.
    #[arg(long)]
    check: bool,
}

#[expect(clippy::print_stderr, reason = "the one message of a program that can't run")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("regent-coordinator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let config = Config::read(&arguments.config)?;
    if arguments.check {
        return Ok(());
    }
    start_log(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(serve(&config));
    // A store call that hangs must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let coordinator = Coordinator::build(config).await?;
    let address = coordinator.address().context("read the listener's address")?;
    tracing::info!(name = %config.name, site = %config.site, %address, "serving");
    let stop = coordinator.stopper();
    let running = coordinator.run();
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
    running.await
}

fn start_log(log: &LogConfig) {
    let filter =
        EnvFilter::new(format!("warn,regent_coordinator={0},regent_dcs={0}", log.level.name()));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}
