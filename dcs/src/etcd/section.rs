//! An `etcd3` section as a configuration file has it, under Patroni's names, and what it comes to.
//! Agents and coordinators read files of their own, and speak to etcd by the same words.

use std::path::PathBuf;

use super::{EtcdConfig, EtcdTls, EtcdUser};

/// What a section says.
#[derive(Default)]
pub struct EtcdSection {
    /// `host:port` each, the nearest first.
    pub hosts: Vec<String>,
    /// `http` or `https`; without it `https` where there is a CA.
    pub protocol: Option<String>,
    /// User.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// CA certificate.
    pub cacert: Option<PathBuf>,
    /// Client certificate.
    pub cert: Option<PathBuf>,
    /// Client key.
    pub key: Option<PathBuf>,
}

/// A section that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct Unfit {
    /// Its key.
    pub key: &'static str,
    /// What was seen and what is accepted.
    pub problem: String,
}

impl EtcdSection {
    /// Where etcd is and how to speak to it.
    pub fn config(self) -> Result<EtcdConfig, Unfit> {
        let unfit = |key, problem: &str| Unfit { key, problem: problem.to_owned() };
        if self.hosts.is_empty() {
            return Err(unfit("hosts", "is empty: want HOST:PORT each"));
        }
        let scheme = match (self.protocol.as_deref(), &self.cacert) {
            (Some("https"), _) | (None, Some(_)) => "https",
            (Some("http"), _) | (None, None) => "http",
            (Some(other), _) => {
                return Err(unfit("protocol", &format!("is {other:?}: want http or https")));
            }
        };
        let user = match (self.username, self.password) {
            (Some(name), Some(password)) => Some(EtcdUser { name, password }),
            (None, None) => None,
            (Some(_), None) => return Err(unfit("password", "is needed beside `username`")),
            (None, Some(_)) => return Err(unfit("username", "is needed beside `password`")),
        };
        let tls = match (scheme, self.cacert) {
            ("https", None) => return Err(unfit("cacert", "is needed for https")),
            ("https", Some(ca)) => Some(EtcdTls { ca, certificate: self.cert, key: self.key }),
            _ => None,
        };
        let url = |host: &String| match host.contains("://") {
            true => host.clone(),
            false => format!("{scheme}://{host}"),
        };
        Ok(EtcdConfig { endpoints: self.hosts.iter().map(url).collect(), user, tls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> EtcdSection {
        EtcdSection { hosts: vec!["10.0.0.1:2379".into()], ..EtcdSection::default() }
    }

    #[test]
    fn a_certificate_authority_means_https() {
        let plain = section().config().expect("good");
        assert_eq!(plain.endpoints, ["http://10.0.0.1:2379"]);
        assert!(plain.tls.is_none());
        let tls = EtcdSection { cacert: Some("/ca.pem".into()), ..section() };
        let tls = tls.config().expect("good");
        assert_eq!(tls.endpoints, ["https://10.0.0.1:2379"]);
        assert_eq!(tls.tls.expect("its files").ca, PathBuf::from("/ca.pem"));
        let url = EtcdSection { hosts: vec!["http://a:1".into()], ..section() };
        assert_eq!(url.config().expect("good").endpoints, ["http://a:1"]);
    }

    #[test]
    fn what_leads_nowhere_names_its_key() {
        let some = |text: &str| Some(text.to_owned());
        for (section, key) in [
            (EtcdSection::default(), "hosts"),
            (EtcdSection { protocol: some("ftp"), ..section() }, "protocol"),
            (EtcdSection { protocol: some("https"), ..section() }, "cacert"),
            (EtcdSection { username: some("u"), ..section() }, "password"),
            (EtcdSection { password: some("p"), ..section() }, "username"),
        ] {
            assert_eq!(section.config().expect_err(key).key, key);
        }
    }
}
