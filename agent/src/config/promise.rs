//! `federation.promise`: the listener on which this node, while it leads its site, promises not to
//! take primacy, and by whose certificate it asks others. Without the section failsafe of the
//! quorum is off: nothing is asked, nothing is answered.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use serde::Deserialize;

use super::checks::Checks;
use super::{ConfigError, split};

/// The section, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    listen: String,
    #[serde(default)]
    connect_address: Option<String>,
    #[serde(default)]
    certfile: Option<PathBuf>,
    #[serde(default)]
    keyfile: Option<PathBuf>,
    #[serde(default)]
    cafile: Option<PathBuf>,
}

/// The section, checked.
#[derive(Debug, Clone)]
pub struct PromiseConfig {
    /// Where promises are given.
    pub listen: SocketAddr,
    /// What the other sites use, `host:port`.
    pub connect_address: String,
    /// Mutual TLS; none only on loopback, or where the configuration says `insecure`.
    pub tls: Option<PromiseTls>,
}

/// Files of mutual TLS, PEM. The certificate carries the site's name as a DNS name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromiseTls {
    /// This site's certificate, and what leads up to the authority.
    pub certfile: PathBuf,
    /// Its key.
    pub keyfile: PathBuf,
    /// The authority that all sites' certificates come from, and no other certificate.
    pub cafile: PathBuf,
}

impl PromiseConfig {
    /// Where other sites reach it.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}{}", self.connect_address, crate::act::failsafe::sites::PATH)
    }
}

impl Checks<'_> {
    pub(super) fn promise(
        &self,
        section: Section,
        insecure: bool,
        warnings: &mut Vec<String>,
    ) -> Result<PromiseConfig, ConfigError> {
        let place = "federation.promise.listen";
        let want = "want HOST:PORT, as in 127.0.0.1:8010";
        let found = section.listen.to_socket_addrs();
        let mut found =
            found.map_err(|e| self.error(place, format!("{:?}: {e}; {want}", section.listen)))?;
        let listen = found.next().ok_or_else(|| {
            self.error(place, format!("{:?} has no address; {want}", section.listen))
        })?;
        let tls = match (section.certfile, section.keyfile, section.cafile) {
            (Some(certfile), Some(keyfile), Some(cafile)) => {
                Some(PromiseTls { certfile, keyfile, cafile })
            }
            (None, None, None) => None,
            (certfile, keyfile, cafile) => {
                let missing = [("certfile", certfile), ("keyfile", keyfile), ("cafile", cafile)]
                    .into_iter()
                    .filter_map(|(key, value)| value.is_none().then_some(key));
                return Err(self.error(
                    "federation.promise",
                    format!(
                        "{} missing; mutual TLS wants certfile, keyfile and cafile, or none of \
                         them on a loopback address",
                        missing.collect::<Vec<_>>().join(" and ")
                    ),
                ));
            }
        };
        if tls.is_none() && !listen.ip().is_loopback() {
            if !insecure {
                return Err(self.error(
                    place,
                    format!(
                        "{listen} is not a loopback address and has no TLS; give certfile, keyfile \
                         and cafile, or say `regent: {{insecure: true}}`"
                    ),
                ));
            }
            warnings.push(format!(
                "insecure: promises on {listen} have no TLS: whoever reaches it can speak for a site"
            ));
        }
        let connect_address = section.connect_address.unwrap_or(section.listen);
        if split(&connect_address).is_none() {
            let place = "federation.promise.connect_address";
            return Err(self.error(place, format!("{connect_address:?}; {want}")));
        }
        Ok(PromiseConfig { listen, connect_address, tls })
    }
}
