//! Which keys Patroni's sections have, so that a key nobody reads is at least said
//! (spec/patroni-compat.md 5.2). Keys that are known but not used yet are warned of as well: silence
//! would look like obedience.

/// Section, keys that are read, keys that Patroni knows and this version does not use.
const SECTIONS: [(&str, &[&str], &[&str]); 9] = [
    (
        "",
        &[
            "scope",
            "namespace",
            "name",
            "restapi",
            "sqlite",
            "etcd3",
            "federation",
            "regent",
            "bootstrap",
            "postgresql",
            "tags",
            "watchdog",
        ],
        &["log", "ctl", "consul", "etcd", "thread_pool_size", "thread_stack_size"],
    ),
    (
        "restapi",
        &["listen", "connect_address", "certfile", "authentication"],
        &[
            "keyfile",
            "keyfile_password",
            "cafile",
            "ciphers",
            "verify_client",
            "allowlist",
            "allowlist_include_members",
            "http_extra_headers",
            "https_extra_headers",
            "request_queue_size",
            "thread_pool_size",
            "server_tokens",
        ],
    ),
    (
        "etcd3",
        &["hosts", "host", "protocol", "username", "password", "cacert", "cert", "key"],
        &["url", "proxy", "srv", "srv_suffix", "use_proxies", "port"],
    ),
    (
        "bootstrap",
        &["dcs", "initdb", "pg_hba", "method", "post_bootstrap", "post_init"],
        &["users"],
    ),
    (
        "postgresql",
        &[
            "listen",
            "connect_address",
            "data_dir",
            "bin_dir",
            "pgpass",
            "parameters",
            "pg_hba",
            "pg_ident",
            "authentication",
            "recovery_conf",
            "callbacks",
            "pre_promote",
            "before_stop",
            "create_replica_methods",
            "create_replica_method",
        ],
        &[
            "proxy_address",
            "database",
            "config_dir",
            "config_base_name",
            "bin_name",
            "custom_conf",
            "use_unix_socket",
            "use_unix_socket_repl",
            "krbsrvname",
            "pg_ctl_timeout",
            "basebackup",
            "rewind",
        ],
    ),
    ("watchdog", &["mode", "device", "safety_margin"], &["driver"]),
    ("postgresql.authentication", &["superuser", "replication", "rewind"], &[]),
    ("bootstrap.dcs", super::dynamic::READ, super::dynamic::NOT_YET),
    (
        "postgresql.callbacks",
        &["on_start", "on_stop", "on_restart", "on_reload", "on_role_change"],
        &[],
    ),
];

/// Keys of `postgresql` that all nodes have in common here; in Patroni the file can have them, too.
const DYNAMIC_ONLY: &[&str] = &[
    "use_pg_rewind",
    "use_slots",
    "remove_data_directory_on_rewind_failure",
    "remove_data_directory_on_diverged_timelines",
];

/// One warning for each key that this version does not read.
pub(super) fn unknown_keys(file: &serde_json::Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (section, read, not_yet) in SECTIONS {
        let value = section.split('.').filter(|p| !p.is_empty()).try_fold(file, |v, p| v.get(p));
        let Some(map) = value.and_then(serde_json::Value::as_object) else { continue };
        let named = super::methods::named(file, section);
        let unread =
            |key: &&String| !read.contains(&key.as_str()) && !named.contains(&key.as_str());
        for key in map.keys().filter(unread) {
            let dot = if section.is_empty() { "" } else { "." };
            let why = if section == "postgresql" && DYNAMIC_ONLY.contains(&key.as_str()) {
                "counts in the dynamic configuration only (bootstrap.dcs.postgresql, PATCH /config)"
            } else if not_yet.contains(&key.as_str()) {
                "is Patroni's, but this version does not use it yet"
            } else {
                "is not a key that Patroni or Regent knows"
            };
            warnings.push(format!("{section}{dot}{key} {why}; it has no effect"));
        }
    }
    warnings
}
