//! Builds an agent: what it is made of, what it opens, and the threads and tasks that it starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use regent_dcs::clock::BootClock;
use regent_guardian::page::Page;
use regent_proto::keys::{GlobalKeys, SiteKey, SiteKeys};
use regent_proto::time::{LeaseTiming, WallTime};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::preflight::LockError;
use super::requests::Requests;
use super::{Agent, Row, adoption, preflight, remote, tell};
use crate::act::callbacks::Callbacks;
use crate::act::cluster_file::{self, ClusterFile};
use crate::act::epoch_file::EpochFile;
use crate::act::failsafe::record::Keeper;
use crate::act::failsafe::word::Word;
use crate::act::failsafe::{self, SharedGiven, members, sites};
use crate::act::global::GlobalStore;
use crate::act::jobs::Jobs;
use crate::act::own_leases::OwnLeases;
use crate::act::postgres::configuration::Wanted;
use crate::act::postgres::files::Files;
use crate::act::postgres::found::{self, Frozen};
use crate::act::postgres::guardian::{Launcher, reap_what_was_left};
use crate::act::postgres::programs::Programs;
use crate::act::postgres::server::{Postmaster, Server};
use crate::act::postgres::slots::Work;
use crate::act::publish::{Picture, Publisher};
use crate::act::random::Ids;
use crate::act::site::SiteStore;
use crate::act::{Actor, store};
use crate::api;
use crate::config::dynamic::Dynamic;
use crate::config::watchdog::WatchdogMode;
use crate::config::{Config, Places};
use crate::decide::callbacks;
use crate::decide::remembered::Remembered;
use crate::decide::slots;
use crate::decide::view::Memory;
use crate::fence::guard::{Fenced, Guard, GuardSettings};
use crate::fence::renewal::{GlobalSide, RenewalThread, SiteSide};
use crate::fence::rounds::{QuorumRounds, SharedLeader, SiteRounds, Targets, on_this_runtime};
use crate::fence::{Deadlines, successor};
use crate::observe::clock::boot_time;
use crate::observe::failsafe::FailsafeObserver;
use crate::observe::global::GlobalObserver;
use crate::observe::mirror::Mirror;
use crate::observe::postgres::PostgresObserver;
use crate::observe::site::SiteObserver;
use crate::upgrade::Upgrade;

/// How long a frozen server may wait for the agent's start, whose steps each have a bound.
const STARTS_WITHIN: Duration = Duration::from_secs(30);

/// What a former life left, seen before anything that can fail.
struct Left {
    lock: Result<std::fs::File, LockError>,
    page: Option<Page>,
    frozen: Option<Frozen>,
}

impl Left {
    /// Freezes a server whose rights nobody knows, and ends backends that lost their postmaster.
    async fn freeze(data_dir: &Path, run_dir: &Path, inherited_page: Option<i32>) -> Self {
        let lock = preflight::lock_run_dir(run_dir);
        let page = successor::left(run_dir, inherited_page);
        // What a guardian guards ends by its deadline; what another agent has is that one's.
        let guarded = page.as_ref().is_some_and(successor::guards);
        let frozen = match &lock {
            Ok(_) | Err(LockError::Unusable { .. }) if !guarded => {
                found::freeze(data_dir, run_dir).await
            }
            Ok(_) | Err(LockError::Unusable { .. } | LockError::Taken { .. }) => None,
        };
        Self { lock, page, frozen }
    }
}

/// Nobody will renew its rights.
async fn end(frozen: Frozen, because: &anyhow::Error) {
    tracing::error!("this agent cannot start ({because:#}): PostgreSQL, frozen, is killed");
    frozen.end().await;
}

impl Agent {
    /// For a configuration that is refused: an agent that cannot start ends what a former life left
    /// without a guardian, whatever keeps it from starting.
    pub async fn refused(places: &Places, inherited_page: Option<i32>, because: &anyhow::Error) {
        let marked = found::marked_directory(&places.run_dir);
        let Some(data_dir) = marked.as_ref().or(places.data_dir.as_ref()) else { return };
        let left = Left::freeze(data_dir, &places.run_dir, inherited_page).await;
        if let Some(frozen) = left.frozen {
            end(frozen, because).await;
        }
        // Held until here: the next agent finds nothing half done.
        drop(left.lock);
    }

    /// Freezes a server whose rights nobody knows, before anything that can fail; then connects,
    /// binds, adopts. Where the start fails, that server ends: nobody will renew its rights.
    pub async fn build(
        config: Config,
        upgrade: Upgrade,
        inherited_page: Option<i32>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let (data_dir, run_dir) = (&config.postgres.data_dir, &config.regent.run_dir);
        let Left { lock, page, frozen } = Left::freeze(data_dir, run_dir, inherited_page).await;
        let freeze = frozen.as_ref().map(|frozen| frozen.postmaster);
        let begun = match lock {
            Ok(lock) => Self::begin(config, (upgrade, stop), page, freeze, lock).await,
            Err(error) => Err(error.into()),
        };
        if let (Err(error), Some(frozen)) = (&begun, frozen) {
            end(frozen, error).await;
        }
        begun
    }

    /// What a next life in this process would fail on at its start, where that can be known before: once
    /// it runs there is no way back. `held` are the addresses that the present one listens on; `None`:
    /// it does not say.
    pub async fn check_next_life(
        config: &Config,
        held: Option<&[SocketAddr]>,
    ) -> anyhow::Result<()> {
        let files = Files::new(config);
        preflight::check_run_dir(config)?;
        preflight::check_versions(&Programs::new(&config.postgres.bin_dir), &files).await?;
        guardian_program(config)?;
        if config.federation.is_some() {
            EpochFile::new(config).check()?;
        }
        let site_keys = SiteKeys::new(&config.namespace, &config.scope);
        ClusterFile::new(config, site_keys.prefix()).read()?;
        match held {
            Some(held) => api::Listeners::check(config, held).await,
            None => Ok(()),
        }
    }

    /// The addresses that this life listens on.
    pub(super) fn listens_on(&self) -> Vec<SocketAddr> {
        api::Listeners::addresses(&self.config)
    }

    async fn begin(
        config: Config,
        (upgrade, stop): (Upgrade, CancellationToken),
        before: Option<Page>,
        frozen: Option<Postmaster>,
        lock: std::fs::File,
    ) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let programs = Programs::new(&config.postgres.bin_dir);
        let files = Files::new(&config);
        check_places(&config, &files)?;
        reap_what_was_left();
        let own_leases = OwnLeases::left(&files.run_dir);
        let known = own_leases.known(before.is_some());
        let (deadlines, guard, fenced) = begin_fence(&config, before, frozen)?;
        files.write_passfile(&config).context("writing the password file")?;
        preflight::check_versions(&programs, &files).await?;
        let listeners = api::Listeners::bind(&config).await?;
        let launcher = launcher(&config, &files, deadlines.page().clone())?;
        let server = Arc::new(Server::new(launcher, guard.clone()));
        let site_keys = SiteKeys::new(&config.namespace, &config.scope);
        let (memory, cluster) = remembers(&config, &site_keys)?;
        let observer = SiteObserver::new(site_keys.clone(), config.name.clone());
        let clock = BootClock::kernel().context("reading this boot's identity")?;
        let (failsafe, targets) = open_failsafe(&config)?;
        let asks = (failsafe.leader.clone(), targets.subscribe());
        let dynamic = dynamic_at_start(&config, &files);
        let timing = config.site_timing(&dynamic);
        let renewal = start_renewal(&config, &timing, (&site_keys, &deadlines), (&clock, asks))?;
        let (site_store, global_store) = open_stores(&config, &site_keys, &clock)?;
        let http = reqwest::Client::builder().no_proxy().build().context("building HTTP client")?;
        preflight::refuse_twin(&config, &site_store, &http).await?;
        let (site_mirror, global_mirror) =
            start_mirrors(&site_store, global_store.as_ref(), timing.call_timeout, &clock);
        let in_force = files.read_in_force();
        adoption::adopt(&config, &server, &files, &guard).await?;
        let (finished_send, finished_jobs) = mpsc::channel(8);
        let (pictures, picture_receiver) = watch::channel(None);
        let keeper = Keeper::new(failsafe.leader.clone(), clock.clone());
        publish(&config, (&site_store, global_store.as_ref()), keeper, picture_receiver.clone());
        let seen = (picture_receiver.clone(), Arc::clone(&deadlines));
        let asks = (site_store.clone(), failsafe.clone(), http.clone());
        let arriving = serve(listeners, &config, seen, asks);
        let callbacks = Callbacks::begin(&config);
        let remote = remote::asks(&config, &programs, &files, picture_receiver.clone());
        let reaches = tell::reaches(&config, &programs, &files, picture_receiver);
        // Last: whoever waits for this life takes it for one that has begun.
        preflight::note_life(&config.regent.run_dir, &lock)?;
        Ok(Self {
            site_observer: observer.knowing(known),
            own_leases,
            global_observer: global_store
                .as_ref()
                .map(|global| GlobalObserver::new(global.keys.clone(), global.site.clone())),
            failsafe: FailsafeObserver::new(&config, failsafe.clone(), targets),
            postgres: PostgresObserver::new(Arc::clone(&config), programs.clone(), files.clone()),
            actor: Actor {
                config: Arc::clone(&config),
                programs,
                files,
                epoch_file: EpochFile::new(&config),
                server,
                guard,
                renewal,
                site: site_store,
                global: global_store,
                in_force: Arc::new(Mutex::new(in_force)),
                jobs: Jobs::new(finished_send),
                wanted: Arc::new(Wanted::of(&config, &dynamic)),
                dynamic,
                failsafe,
                marked_at: WallTime::default(),
                claimed: None,
                slot_work: Work::default(),
            },
            config,
            deadlines,
            site_mirror,
            global_mirror,
            memory,
            cluster,
            finished: None,
            finished_jobs,
            fenced,
            peers: None,
            peer_answers: watch::Sender::new(None),
            http,
            reaches,
            remote,
            pictures,
            opened: None,
            last_reason: String::new(),
            last_problem: String::new(),
            suspended: false,
            refused_dynamic: None,
            slots: slots::Told::default(),
            row: Row::default(),
            stop,
            upgrade,
            upgrade_asked: None,
            job_problem: None,
            requests: Requests::new(arriving),
            callbacks,
            told: callbacks::Told::default(),
            _lock: lock,
        })
    }
}

/// Writes down what each round has seen, for as long as rounds show pictures.
fn publish(
    config: &Arc<Config>,
    (site, global): (&SiteStore, Option<&GlobalStore>),
    keeper: Keeper,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
) {
    let stores = (site.clone(), global.cloned());
    let publisher = Publisher::new(Arc::clone(config), stores, keeper);
    tokio::spawn(tell::publish(publisher, pictures));
}

/// Where this node keeps what it must not lose is there, and its own.
fn check_places(config: &Config, files: &Files) -> anyhow::Result<()> {
    preflight::check_run_dir(config)?;
    if config.federation.is_some() {
        EpochFile::new(config).check()?;
    }
    files.take_note_over()
}

/// What an earlier life left of the cluster, and a task that writes down what this one remembers.
fn remembers(
    config: &Config,
    site_keys: &SiteKeys,
) -> anyhow::Result<(Memory, watch::Sender<Option<Remembered>>)> {
    let file = ClusterFile::new(config, site_keys.prefix());
    let left = file.read()?;
    let cluster = watch::Sender::new(left.clone());
    tokio::spawn(cluster_file::keep(file, cluster.subscribe()));
    Ok((Memory { cluster: left, ..Memory::of_a_new_process() }, cluster))
}

/// Answers from now on whoever asks; requests arrive at what is returned.
fn serve(
    listeners: api::Listeners,
    config: &Arc<Config>,
    (pictures, deadlines): (watch::Receiver<Option<Arc<Picture>>>, Arc<Deadlines>),
    (site, failsafe, http): (SiteStore, failsafe::Shared, reqwest::Client),
) -> mpsc::Receiver<api::requests::Asked> {
    let (desk, arriving) = mpsc::channel(api::requests::MOST);
    let config = Arc::clone(config);
    let http = Some(http);
    listeners.serve(&api::Shared {
        config,
        pictures,
        deadlines,
        site,
        failsafe,
        http,
        requests: desk,
    });
    arriving
}

fn open_stores(
    config: &Config,
    site_keys: &SiteKeys,
    clock: &BootClock,
) -> anyhow::Result<(SiteStore, Option<GlobalStore>)> {
    let site = SiteStore {
        store: store::open(&config.dcs)?,
        keys: site_keys.clone(),
        me: config.name.clone(),
    };
    let global = match &config.federation {
        None => None,
        Some(federation) => Some(GlobalStore {
            store: store::open(&federation.quorum)?,
            keys: GlobalKeys::new(&federation.name),
            site: federation.site.clone(),
            me: config.name.clone(),
            clock: clock.clone(),
            ids: Ids::Kernel,
        }),
    };
    Ok((site, global))
}

fn start_mirrors(
    site: &SiteStore,
    global: Option<&GlobalStore>,
    timeout: Duration,
    clock: &BootClock,
) -> (Mirror, Option<Mirror>) {
    let prefix = site.keys.prefix().to_owned();
    let of_site = Mirror::start(Arc::clone(&site.store), prefix, timeout, clock.clone());
    let of_quorum = global.map(|global| {
        let prefix = global.keys.prefix().to_owned();
        Mirror::start(Arc::clone(&global.store), prefix, Duration::from_secs(2), clock.clone())
    });
    (of_site, of_quorum)
}

/// This node's word of before, which it keeps also in this life.
fn open_failsafe(config: &Config) -> anyhow::Result<(failsafe::Shared, watch::Sender<Targets>)> {
    // Beside the epoch: it outlives a reboot as well, which may be over before the promise is.
    let file = EpochFile::new(config).path().with_extension("regent-failsafe");
    let word = Word::open(file.clone(), boot_time()).with_context(|| {
        format!(
            "{}: what this node promised its leader cannot be read; wait one TTL, then remove it",
            file.display()
        )
    })?;
    let shared = failsafe::Shared {
        leader: SharedLeader::default(),
        word: Arc::new(word),
        given: SharedGiven::default(),
    };
    Ok((shared, watch::Sender::new(Targets::default())))
}

/// What was in force before this process began, as it was kept in the data directory; the file's first
/// one where nothing was. Where this node could not keep its lease with it, the file's timings: nothing
/// else of it is in the way, and whom commits wait for must not become nobody (I3).
fn dynamic_at_start(config: &Config, files: &Files) -> Dynamic {
    let first = config.first_dynamic();
    let Some(mut kept) = files.read_dynamic() else { return first };
    // A pause may have ended while this agent was away, and it takes the fence off: only the DCS says so
    // (I18). Out of the document as well, which a leader puts back into a DCS that has none.
    if let Some(document) = kept.as_object_mut() {
        document.shift_remove("pause");
    }
    let (dynamic, refused) = config.fitted(Dynamic::read(&kept, &first), &first);
    if let Some(error) = refused {
        tracing::warn!(
            %error, file = %files.dynamic().display(),
            "the kept timings are not taken: those of bootstrap.dcs count until the DCS answers"
        );
    }
    dynamic
}

fn start_renewal(
    config: &Arc<Config>,
    timing: &LeaseTiming,
    (site_keys, deadlines): (&SiteKeys, &Arc<Deadlines>),
    (clock, (leader, targets)): (&BootClock, (SharedLeader, watch::Receiver<Targets>)),
) -> anyhow::Result<RenewalThread> {
    let leader_key = site_keys.key(SiteKey::Leader);
    let federated = config.federation.is_some();
    let config = Arc::clone(config);
    let (timing, clock) = (timing.clone(), clock.clone());
    RenewalThread::start(
        Box::new(move || {
            Box::pin(async move {
                // A client of this thread's own: its connections live on this runtime.
                let client = reqwest::Client::builder()
                    .no_proxy()
                    .redirect(reqwest::redirect::Policy::none())
                    .build()?;
                let site = SiteSide {
                    store: store::open(&config.dcs)?,
                    leader_key,
                    me: config.name.clone(),
                    timing,
                    clock: clock.clone(),
                    failsafe: Some(SiteRounds {
                        leader,
                        ask: members::asker(&config, client),
                        spawn: on_this_runtime(),
                    }),
                };
                let global = match &config.federation {
                    None => None,
                    Some(federation) => Some(GlobalSide {
                        store: store::open(&federation.quorum)?,
                        keys: GlobalKeys::new(&federation.name),
                        site: federation.site.clone(),
                        clock,
                        ids: Ids::Kernel,
                        failsafe: match &federation.promise {
                            None => None,
                            Some(promise) => {
                                let (ask, spawn) = (sites::asker(promise)?, on_this_runtime());
                                Some(QuorumRounds { targets, ask, spawn })
                            }
                        },
                    }),
                };
                Ok((site, global))
            })
        }),
        Arc::clone(deadlines),
        federated,
    )
}

/// The page, the deadlines in it and rung 1; with what was frozen, should the start hang, on a disk for
/// example.
fn begin_fence(
    config: &Config,
    before: Option<Page>,
    frozen: Option<Postmaster>,
) -> anyhow::Result<(Arc<Deadlines>, Guard, mpsc::Receiver<Fenced>)> {
    let page = successor::page(before).context("the guardian's page")?;
    let deadlines = Arc::new(Deadlines::new(page, config.federation.is_some()));
    let (events, fenced) = mpsc::channel(16);
    let guard = start_guard(config, &deadlines, events)?;
    if let Some(postmaster) = frozen {
        guard.adopt(postmaster.pid, STARTS_WITHIN);
    }
    Ok((deadlines, guard, fenced))
}

fn start_guard(
    config: &Config,
    deadlines: &Arc<Deadlines>,
    events: mpsc::Sender<Fenced>,
) -> std::io::Result<Guard> {
    let settings = GuardSettings {
        data_dir: config.postgres.data_dir.clone(),
        stop_budget: config.regent.stop_budget.0,
        kill_budget: config.regent.kill_budget.0,
        pause_threshold: config.regent.pause_threshold.0,
        epsilon: config.site_timing(&config.first_dynamic()).epsilon(),
    };
    Guard::start(settings, Arc::clone(deadlines), events)
}

/// How guardians of this node are run.
fn guardian_program(config: &Config) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    let beside = own.with_file_name("regent-guardian");
    let program = config.regent.guardian.clone().unwrap_or(beside);
    anyhow::ensure!(
        program.is_file(),
        "regent.guardian: {} is not there; it is installed beside regent-agent",
        program.display()
    );
    Ok(program)
}

fn launcher(config: &Config, files: &Files, page: Page) -> anyhow::Result<Launcher> {
    let device = &config.watchdog.device;
    if config.watchdog.mode == WatchdogMode::Required
        && let Err(error) = rustix::fs::access(device, rustix::fs::Access::WRITE_OK)
    {
        // It is armed when the leader key is free: too late to be told first.
        tracing::warn!(
            node = %config.name, device = %device.display(), %error,
            "watchdog.mode is required, and its device cannot be written to: this node will not lead. \
             Give its user write access, or change the mode"
        );
    }
    Ok(Launcher {
        program: guardian_program(config)?,
        data_dir: files.data_dir.clone(),
        run_dir: files.run_dir.clone(),
        log: files.server_log(),
        page,
        watchdog: (config.watchdog.mode != WatchdogMode::Off)
            .then(|| config.watchdog.device.clone()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::act::postgres::salvage::tests::{Place, config};

    #[test]
    fn what_was_kept_counts_until_the_dcs_answers_but_never_a_pause() {
        let place = Place::new();
        let config = config(place.dir.path());
        let starts = || dynamic_at_start(&config, &place.files);
        let keep = |document: &Value| {
            std::fs::write(place.files.dynamic(), document.to_string()).expect("written");
        };
        assert_eq!(starts(), config.first_dynamic());
        let mut document = json!({"ttl": 10, "loop_wait": 1, "retry_timeout": 1,
            "synchronous_mode": true, "pause": true, "theirs": 1});
        keep(&document);
        let kept = starts();
        assert_eq!((kept.ttl.as_secs(), kept.synchronous_mode, kept.pause), (10, true, false));
        // Not the pause: nobody said it to the DCS that it would be put back into (I18).
        document.as_object_mut().expect("an object").shift_remove("pause");
        assert_eq!(*kept.document, document, "what is put back is all of it but a pause");
        // This node could not keep its lease with it.
        document["ttl"] = json!(1);
        document["pause"] = json!(true);
        keep(&document);
        let kept = starts();
        assert_eq!((kept.ttl.as_secs(), kept.synchronous_mode, kept.pause), (5, true, false));
        document["ttl"] = json!(5);
        document.as_object_mut().expect("an object").shift_remove("pause");
        assert_eq!(*kept.document, document, "all but its timings and the pause");
    }
}
