//! Reading topology files, with the file's name in every error.

use std::path::Path;

use regent_proto::topology::{Finding, Topology};

use crate::exit::Failure;

/// The topologies that come with Regent, for the demo and the benchmark.
pub const TWO_SITES_AND_WITNESS: &str = include_str!("../../topologies/two-sites-and-witness.yaml");

/// Reads and checks a topology file.
pub fn read(file: &Path) -> Result<(String, Topology, Vec<Finding>), Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::usage(format!("read topology {}: {e}", file.display())))?;
    let (topology, findings) = Topology::parse(&text)
        .map_err(|e| Failure::usage(format!("topology {} is not valid: {e}", file.display())))?;
    Ok((text, topology, findings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    fn shipped() -> PathBuf {
        PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../topologies"))
    }

    #[test]
    fn every_shipped_topology_is_valid_and_without_news() {
        let mut seen = Vec::new();
        for entry in fs::read_dir(shipped()).expect("the directory") {
            let file = entry.expect("an entry").path();
            let (_, topology, findings) = read(&file).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(findings, [], "{}", file.display());
            assert_eq!(topology.policy.site_ttl.0.as_secs(), 5, "{}", file.display());
            assert_eq!(topology.policy.primary_ttl.0.as_secs(), 15, "{}", file.display());
            seen.push(file.file_stem().expect("a name").to_string_lossy().into_owned());
        }
        seen.sort();
        assert_eq!(seen, ["cascade", "single-site", "three-sites", "two-sites-and-witness"]);
    }

    /// One line of the shipped topology replaced, and what the message must name.
    #[test]
    fn bad_topologies_are_one_message_with_place_and_value() {
        let cases = [
            ("kind: witness", "kind: witnes", vec!["witnes"]),
            ("cost: 1", "cots: 1", vec!["cots"]),
            ("site_ttl: 5s", "site_ttl: 5", vec!["5"]),
            ("site_ttl: 5s", "site_ttl: \"5\"", vec!["\"5\"", "unit", "30s"]),
            ("site_ttl: 5s", "site_ttl: 1s", vec!["policy.site_ttl", "at least 3s"]),
            ("primary_ttl: 15s", "primary_ttl: 9s", vec!["policy.primary_ttl", "9s", "15s"]),
            ("- name: us-1", "- name: eu-1", vec!["sites[1].nodes[0].name", "eu-1", "twice"]),
            ("    dcs: embedded\n", "", vec!["sites[0].dcs", "has no DCS", "embedded"]),
            (
                "between: [eu, us]",
                "between: [eu, mars]",
                vec!["links[0].between", "mars", "eu, us"],
            ),
            ("between: [eu, us]", "between: [eu, witness]", vec!["witness", "no database"]),
            ("primary: eu", "primary: witness", vec!["primary", "holds no database"]),
            ("primary: eu", "primary: EU", vec!["EU"]),
            ("synchronous: true", "synchronous: yes please", vec!["synchronous"]),
        ];
        let dir = tempfile::tempdir().expect("a directory");
        for (i, (from, to, wanted)) in cases.iter().enumerate() {
            assert!(TWO_SITES_AND_WITNESS.contains(from), "case {i}: no {from:?} to replace");
            let file = dir.path().join(format!("{i}.yaml"));
            fs::write(&file, TWO_SITES_AND_WITNESS.replacen(from, to, 1)).expect("a file");
            let failure = read(&file).map(|(_, t, _)| t).expect_err(to);
            assert_eq!(failure.exit, crate::exit::Exit::Usage, "{failure}");
            for part in wanted.iter().chain(&[&*file.display().to_string()]) {
                assert!(failure.message.contains(part), "{to:?}: no {part:?} in: {failure}");
            }
        }
    }

    #[test]
    fn one_port_twice_is_refused() {
        let text = TWO_SITES_AND_WITNESS
            .replacen("- name: eu-1", "- name: eu-1\n        rest_port: 8008", 1)
            .replacen("- name: us-1", "- name: us-1\n        rest_port: 8008", 1);
        let error = Topology::parse(&text).expect_err("one port twice").to_string();
        assert!(error.contains("sites[1].nodes[0].rest_port") && error.contains("8008"), "{error}");
    }

    #[test]
    fn a_single_store_and_few_voters_are_named_warnings_that_a_lab_can_silence() {
        let silent = "accept: [single-store-quorum]";
        assert!(TWO_SITES_AND_WITNESS.contains(silent));
        let text = TWO_SITES_AND_WITNESS.replacen(silent, "accept: []", 1).replacen(
            "voters: [eu, us, witness]",
            "voters: [eu, us]",
            1,
        );
        let (_, findings) = Topology::parse(&text).expect("allowed");
        let names: Vec<&str> = findings.iter().map(|f| f.warning.name()).collect();
        assert_eq!(names, ["single-store-quorum", "few-voter-sites"]);
    }
}
