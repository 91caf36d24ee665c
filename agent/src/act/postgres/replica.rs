//! Making a replica's data directory: the operator's methods in their order, each falling through to the
//! next where it fails (spec/patroni-compat.md 5.4); `pg_basebackup` where none are configured.

use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use tokio::sync::watch;

use super::bootstrap::{Ground, encoded};
use super::copy;
use super::salvage::How;
use super::slots;
use crate::act::scripts;
use crate::config::{Maker, ReplicaMethod};

/// The longest that a method may take.
const MADE_WITHIN: Duration = Duration::from_secs(24 * 3600);

impl Ground<'_> {
    /// Makes the directory from whoever serves at one of these addresses, or, where there are none, by
    /// what needs nobody.
    pub async fn make_replica(
        self,
        configured: &[ReplicaMethod],
        addresses: &[(String, u16)],
        progress: &watch::Sender<Option<String>>,
    ) -> anyhow::Result<()> {
        let user = &self.config.postgres.authentication.replication;
        let built_in = [ReplicaMethod::Basebackup];
        let methods = if configured.is_empty() { &built_in[..] } else { configured };
        let keep = (self.salvage, self.config.regent.salvage_limit.0);
        let mut failed = None;
        for method in methods {
            scripts::end_what_makes(&self.files.data_dir).await?;
            let made = match method {
                ReplicaMethod::Basebackup if addresses.is_empty() => continue,
                ReplicaMethod::Basebackup => {
                    copy::clone(self.programs, self.files, user, addresses, progress, keep).await
                }
                ReplicaMethod::Custom { no_leader: false, .. } if addresses.is_empty() => continue,
                ReplicaMethod::Custom { maker, keep_data, .. } => {
                    let made = self.make_by(maker, addresses, *keep_data).await;
                    made.with_context(|| format!("create_replica_methods: {}", maker.name))
                }
            };
            match made {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!("{error:#}: the next method is tried");
                    failed = Some(error);
                }
            }
        }
        Err(failed.unwrap_or_else(|| {
            anyhow!(
                "no method makes a replica without a leader: wait for one, or give a method \
                 `no_leader: true`"
            )
        }))
    }

    async fn make_by(
        self,
        maker: &Maker,
        addresses: &[(String, u16)],
        keep_data: bool,
    ) -> anyhow::Result<()> {
        let (files, data_dir) = (self.files, &self.files.data_dir);
        let user = &self.config.postgres.authentication.replication;
        // As for a copy: what is here goes only for a source that answers.
        if copy::holds_data(files) {
            ensure!(!addresses.is_empty(), "what is here stays: there is nobody to have it from");
            let conninfo = files.conninfo(user, addresses, &maker.name);
            // What the method changes in place is kept as copies.
            let how = if keep_data { How::Copy } else { How::Link };
            let keep = (self.salvage, self.config.regent.salvage_limit.0);
            copy::make_room(self.programs, files, &conninfo, how, keep).await?;
        }
        if keep_data {
            files.begin("copy\n")?;
            slots::forget(files);
        } else {
            copy::begin(files)?;
        }
        let mut arguments = Vec::new();
        if !maker.no_params {
            arguments.push(format!("--scope={}", self.config.scope));
            arguments.push("--role=replica".to_owned());
            arguments.push(format!("--datadir={}", data_dir.display()));
            if let Some((host, port)) = addresses.first() {
                let user = encoded(&user.username);
                arguments.push(format!("--connstring=postgres://{user}@{host}:{port}/postgres"));
            }
        }
        arguments.extend(maker.more.iter().cloned());
        let call = scripts::Call::new("create_replica", &maker.command)
            .arguments(&arguments)
            .passfile(files.passfile());
        scripts::run(call.makes(data_dir), MADE_WITHIN).await?;
        ensure!(
            data_dir.join("PG_VERSION").is_file(),
            "the command ended well and left no cluster in {}",
            data_dir.display()
        );
        // Of the server that was copied.
        drop(std::fs::remove_file(data_dir.join("postmaster.pid")));
        copy::forget_sources_configuration(files)?;
        // And its note of what is a copy there.
        slots::forget(files);
        copy::done(files)
    }
}
