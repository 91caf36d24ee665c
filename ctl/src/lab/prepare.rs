//! Making a lab: the programs are found, ports taken, and every file is written before the first
//! process starts.

use std::path::PathBuf;

use regent_proto::topology::{StoreKind, Topology};

use super::config::{self, Secrets};
use super::layout::{Ground, Layout};
use super::owner::{self, Owner};
use super::{Lab, PREFIX, ports, process, programs, sweep};
use crate::exit::Failure;

/// How to start a lab.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A directory that does not exist yet; without it a new one in the temporary directory.
    pub dir: Option<PathBuf>,
    /// Use this store everywhere, whatever the topology says.
    pub dcs: Option<StoreKind>,
    /// Only start the processes: no federation is created, nothing is waited for.
    pub bare: bool,
}

/// A lab whose files are written and whose processes are not started yet: here a test can change
/// what they will read. Dropping it removes the files.
#[derive(Debug)]
pub struct Prepared {
    /// Where everything will be. [`Prepared::start`] starts what stands here.
    pub layout: Layout,
    secrets: Secrets,
    topology: Topology,
    owner: Owner,
    started: bool,
}

impl Prepared {
    /// Writes every file of `topology` (the file's text).
    pub fn new(
        topology_text: &str,
        options: &Options,
        progress: &mut (dyn FnMut(&str) + Send),
    ) -> Result<Self, Failure> {
        let (topology, _) =
            Topology::parse(topology_text).map_err(|e| Failure::usage(e.to_string()))?;
        let owner = Owner::choose()?;
        if owner.dropped {
            progress(&format!(
                "started as root: everything of the lab runs as user {}",
                owner.name
            ));
        }
        let (layout, secrets) = prepare(&topology, topology_text, options, &owner, progress)?;
        Ok(Self { layout, secrets, topology, owner, started: false })
    }

    /// The user that everything will run as.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The run's passwords.
    #[must_use]
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Starts every process; waits for none but the lab's owner process.
    pub async fn start(mut self) -> Result<Lab, Failure> {
        let file = Layout::file(&self.layout.dir);
        let written = serde_json::to_string_pretty(&self.layout).map_err(std::io::Error::from);
        written
            .and_then(|text| std::fs::write(&file, text))
            .map_err(|e| Failure::error(format!("write {}: {e}", file.display())))?;
        let supervisor = process::start_supervisor(
            &self.layout.dir.join("bin/regentctl"),
            &self.layout.dir,
            &self.layout.log("supervise"),
            &self.owner,
        )?;
        self.started = true;
        let mut lab = Lab {
            layout: self.layout.clone(),
            secrets: self.secrets.clone(),
            topology: self.topology.clone(),
            supervisor: Some(supervisor),
        };
        lab.wait_for_supervisor().await?;
        Ok(lab)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if !self.started {
            sweep::remove_dir(&self.layout.dir);
        }
    }
}

/// Finds the programs, makes the directory and writes every file.
fn prepare(
    topology: &Topology,
    topology_text: &str,
    options: &Options,
    owner: &Owner,
    progress: &mut (dyn FnMut(&str) + Send),
) -> Result<(Layout, Secrets), Failure> {
    let postgres = programs::postgres(owner)?;
    if postgres.major > programs::NEWEST {
        progress(&format!(
            "PostgreSQL {} is newer than {}, the newest one Regent was tested with",
            postgres.major,
            programs::NEWEST
        ));
    }
    let mut binaries = vec![
        programs::sibling("regentctl")?,
        programs::sibling("regent-agent")?,
        programs::sibling("regent-guardian")?,
        programs::sibling("regent-coordinator")?,
    ];
    let etcd = |kind| options.dcs.unwrap_or(kind) == StoreKind::Etcd;
    if etcd(topology.quorum.store) || topology.data_sites().any(|s| s.dcs.is_some_and(etcd)) {
        binaries.push(programs::etcd()?);
    }
    let random = random_number()?;
    let dir = match &options.dir {
        Some(dir) => std::path::absolute(dir)
            .map_err(|e| Failure::error(format!("resolve {}: {e}", dir.display())))?,
        None => owner::base(owner).join(format!("{PREFIX}{:08x}", random)),
    };
    if let Some(barred) = owner.barred(&dir) {
        return Err(Failure::usage(format!(
            "user {} cannot reach {}: {} is closed to it (or is not there); want a directory that \
             this user can pass, such as one in /tmp",
            owner.name,
            dir.display(),
            barred.display()
        )));
    }
    let mut free = ports::Ports::new(u16::try_from(random & 0xFFFF).unwrap_or(0));
    let ground = Ground {
        dir: dir.clone(),
        postgres_bin: postgres.bin,
        postgres_major: postgres.major,
        dcs: options.dcs,
    };
    let mut layout = Layout::new(topology, &ground, |wish| free.take(wish))?;
    let secrets = Secrets::random()?;
    owner.make_dir(&dir)?;
    layout.port_blocks = free.release();
    let written = write_files(&layout, topology, topology_text, &secrets, owner, &binaries);
    if let Err(problem) = written {
        sweep::remove_dir(&dir);
        return Err(problem);
    }
    progress(&format!(
        "PostgreSQL {} on {} nodes in {} sites, in {}",
        layout.postgres_major,
        layout.nodes.len(),
        topology.sites.len(),
        dir.display()
    ));
    Ok((layout, secrets))
}

fn random_number() -> Result<u32, Failure> {
    getrandom::u32().map_err(|e| Failure::error(format!("draw a random number: {e}")))
}

fn write_files(
    layout: &Layout,
    topology: &Topology,
    topology_text: &str,
    secrets: &Secrets,
    owner: &Owner,
    binaries: &[PathBuf],
) -> Result<(), Failure> {
    let dir = &layout.dir;
    for name in ["bin", "config", "log", "nodes", "run", "stores"] {
        owner.make_dir(&dir.join(name))?;
    }
    for binary in binaries {
        programs::place(binary, &dir.join("bin"), owner)?;
    }
    for node in &layout.nodes {
        owner.make_dir(&layout.run_dir(node))?;
        owner.make_dir(&dir.join("nodes").join(node.name.as_str()))?;
        let text = config::agent(layout, topology, node, secrets)?;
        owner.write(&layout.config(&node.agent()), &text)?;
    }
    for place in &layout.coordinators {
        let text = config::coordinator(layout, place)?;
        owner.write(&layout.config(&place.process()), &text)?;
    }
    for place in &layout.etcds {
        owner.make_dir(&dir.join("stores").join(&place.name))?;
    }
    let json = |e: serde_json::Error| Failure::error(format!("write the lab's files: {e}"));
    owner.write(&Layout::file(dir), &serde_json::to_string_pretty(layout).map_err(json)?)?;
    owner.write(&Secrets::file(dir), &serde_json::to_string(secrets).map_err(json)?)?;
    owner.write(&dir.join("pgpass"), &secrets.pgpass())?;
    owner.write(&dir.join("topology.yaml"), topology_text)?;
    owner.write(&layout.log("supervise"), "")?;
    owner.hand_over(dir)
}
