//! Rules of the house that no compiler checks: pure decisions, arrows between crates, lints in
//! every crate, links that lead somewhere, tests that the docs name, topologies that are valid.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regent_proto::topology::Topology;
use regent_tests::report::workspace;

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file that was just listed can be read")
}

/// Files below a directory with this ending, build products left out.
fn files(below: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below).expect("a directory of the workspace") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(files(&path, ending));
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn crates() -> BTreeMap<String, String> {
    let members = files(&workspace(), "Cargo.toml")
        .into_iter()
        .filter(|path| path.parent().is_some_and(|parent| parent != workspace()));
    members
        .map(|path| {
            let directory = path.parent().expect("a directory").file_name().expect("a name");
            (directory.to_string_lossy().into_owned(), read(&path))
        })
        .collect()
}

/// The code of a file: without comments, and without its tests at the end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn decisions_are_pure() {
    // `Arc` shares a value that nobody can change: the reports of a view are decoded once.
    const FORBIDDEN: [&str; 24] = [
        "tokio",
        "tracing",
        "async ",
        ".await",
        "Instant",
        "SystemTime",
        "std::fs",
        "std::net",
        "std::env",
        "std::io",
        "std::process",
        "std::thread",
        "std::sync",
        "Mutex",
        "RefCell",
        "static ",
        "thread_local",
        "HashMap",
        "HashSet",
        "rand",
        "println!",
        "regent_dcs",
        "unsafe",
        "boot_time()",
    ];
    for (name, allowed) in
        [("agent", &["regent_proto"][..]), ("coordinator", &["regent_proto", "sha2"][..])]
    {
        let own: Vec<PathBuf> = files(&workspace().join(name).join("src/decide"), ".rs")
            .into_iter()
            .filter(|path| !path.components().any(|part| part.as_os_str() == "tests"))
            .filter(|path| !path.ends_with("tests.rs"))
            .collect();
        assert!(own.len() >= 8, "{name}: only {own:?}");
        for path in own {
            let code = code(&read(&path));
            for (at, line) in code.lines().enumerate() {
                let place = format!("{}:{}: {}", path.display(), at + 1, line.trim());
                let line = if line.trim() == "use std::sync::Arc;" { "" } else { line };
                for word in FORBIDDEN {
                    // A word of its own: `operand` is not `rand`.
                    let found = line.match_indices(word).any(|(start, _)| {
                        let before = line[..start].chars().next_back();
                        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '\'')
                            && (!word.chars().all(char::is_alphanumeric)
                                || !line[start + word.len()..]
                                    .starts_with(|c: char| c.is_alphanumeric() || c == '_'))
                    });
                    assert!(!found, "{word:?} in a decision: {place}");
                }
                let import = line.trim_start();
                let import = import.strip_prefix("pub ").unwrap_or(import);
                if let Some(path) = import.strip_prefix("use ") {
                    let first = path.split([':', ';', '{', ' ']).next().unwrap_or_default();
                    let fine = ["std", "super", "self"].contains(&first)
                        || allowed.contains(&first)
                        || path.starts_with("crate::decide")
                        // A module of the same file's.
                        || code.contains(&format!("mod {first};"));
                    assert!(fine, "decide imports its own and the vocabulary only: {place}");
                }
                let foreign = line
                    .match_indices("crate::")
                    .find(|(start, _)| !line[start + 7..].starts_with("decide"));
                assert!(foreign.is_none(), "decide looks outside: {place}");
            }
        }
    }
}

/// Deadlines are instants of the boot clock. A timer of the runtime stops during suspend and starves
/// with it, and the wall clock is stepped, so nothing about a deadline may rest on either: the two
/// places that may wait by a timer only pace renewals, and one that comes late raises nothing.
#[test]
fn no_deadline_rests_on_a_timer_of_the_runtime_or_on_the_wall_clock() {
    const FORBIDDEN: [&str; 8] = [
        "tokio::time",
        ".reach(",
        "Instant",
        "SystemTime",
        ".elapsed(",
        "thread::sleep",
        "wall_time(",
        "CLOCK_REALTIME",
    ];
    let paced: BTreeMap<&str, &[&str]> = BTreeMap::from([
        // Each loop's wait for its next renewal.
        ("agent/src/fence/promises.rs", &["clock.reach(due)"][..]),
        ("agent/src/fence/silence.rs", &["clock.reach(due)"][..]),
    ]);
    let root = workspace();
    let rooms = ["agent/src/decide", "agent/src/fence", "guardian/src", "proto/src/time"];
    for room in rooms.map(|room| root.join(room)).iter().filter(|room| room.exists()) {
        for path in files(room, ".rs") {
            let name = path.strip_prefix(&root).expect("below").to_string_lossy().into_owned();
            let mut code = code(&read(&path));
            for once in paced.get(name.as_str()).copied().unwrap_or_default() {
                assert!(code.contains(once), "{name}: {once:?} is gone: take it off the list");
                code = code.replacen(once, "", 1);
            }
            for word in FORBIDDEN {
                assert!(!code.contains(word), "{word:?} in {name}");
            }
        }
    }
}

#[test]
fn every_crate_obeys_the_workspace_lints() {
    let crates = crates();
    assert!(crates.len() >= 6, "{:?}", crates.keys());
    let workspace = read(&workspace().join("Cargo.toml"));
    let (_, lints) = workspace.split_once("[workspace.lints.rust]").expect("the lints");
    let (lints, _) = lints.split_once("[profile").expect("the profiles come after them");
    let lints: Vec<&str> = lints.lines().filter(|line| line.contains(" = ")).collect();
    assert!(lints.len() > 20, "{lints:?}");
    for (name, manifest) in crates {
        if !["guardian", "sys"].contains(&name.as_str()) {
            assert!(manifest.contains("[lints]\nworkspace = true"), "{name}/Cargo.toml");
            continue;
        }
        // They may use `unsafe`. Cargo can't override one lint of the workspace, so they repeat all.
        for lint in lints.iter().filter(|lint| !lint.starts_with("unsafe_code ")) {
            let repeated = manifest.lines().any(|line| line == *lint);
            assert!(repeated, "{name}/Cargo.toml: {lint} of the workspace is missing");
        }
    }
}

#[test]
fn crates_depend_along_the_arrows_only() {
    let arrows: BTreeMap<&str, BTreeSet<&str>> = [
        ("proto", vec![]),
        ("dcs", vec!["regent-proto"]),
        ("agent", vec!["regent-proto", "regent-dcs", "regent-guardian"]),
        ("coordinator", vec!["regent-proto", "regent-dcs"]),
        // Talks to coordinators over gRPC only.
        ("ctl", vec!["regent-proto"]),
        // The second for its tests alone.
        ("guardian", vec!["regent-proto", "regent-test-sys"]),
        ("sys", vec!["regent-proto", "regent-guardian"]),
        ("models", vec!["regent-proto", "regent-guardian", "regent-agent", "regent-coordinator"]),
        (
            "simulator",
            vec![
                "regent-proto",
                "regent-dcs",
                "regent-guardian",
                "regent-agent",
                "regent-coordinator",
            ],
        ),
        (
            "tests",
            vec![
                "regent-proto",
                "regent-dcs",
                "regent-guardian",
                "regent-agent",
                "regent-coordinator",
                "regentctl",
                "regent-test-sys",
            ],
        ),
    ]
    .into_iter()
    .map(|(name, allowed)| (name, allowed.into_iter().collect()))
    .collect();
    for (name, manifest) in crates() {
        let allowed = arrows.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no arrows"));
        let own: BTreeSet<&str> = manifest
            .lines()
            .filter_map(|line| line.split([' ', '.', '=']).next())
            .filter(|word| word.starts_with("regent-") || *word == "regentctl")
            .collect();
        let foreign: Vec<&&str> = own.difference(allowed).collect();
        assert!(foreign.is_empty(), "{name} depends on {foreign:?}");
    }
}

/// Anchors of a page, as GitHub makes them from headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

#[test]
fn every_link_in_the_docs_leads_somewhere() {
    let root = workspace();
    let mut seen = 0;
    for page in files(&root, ".md") {
        let text = read(&page);
        let mut rest = text.as_str();
        while let Some(start) = rest.find("](") {
            rest = &rest[start + 2..];
            let Some(end) = rest.find(')') else { break };
            let target = &rest[..end];
            if target.contains("://") || target.starts_with("mailto:") || target.contains(' ') {
                continue;
            }
            seen += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                page.clone()
            } else {
                page.parent().expect("a directory").join(file)
            };
            assert!(path.exists(), "{}: link to {target}, which is not there", page.display());
            if !anchor.is_empty() && path.extension().is_some_and(|e| e == "md") {
                let known = anchors(&read(&path));
                assert!(known.contains(anchor), "{}: no heading for {target}", page.display());
            }
        }
    }
    assert!(seen > 0, "no link was found: is this the right directory?");
}

/// Words of a table's cell that are in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Cells of a table's line.
fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

/// Tests of a file, by name.
fn tests_of(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((before, rest)) = line.split_once("fn ")
            && is_test
            && matches!(before, "" | "async ")
        {
            found.extend(rest.split('(').next());
            is_test = false;
        }
    }
    found
}

/// Each row once, each with a state, and a test that moved or was renamed is not claimed any more.
#[test]
fn every_hazard_names_tests_that_exist_or_says_why_not() {
    let root = workspace();
    let text = read(&root.join("docs/hazards.md"));
    let mut rows = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        let [row, what, how, shown, state] = cells(line)[..] else {
            panic!("docs/hazards.md: want five cells: {line}");
        };
        let Ok(row) = row.parse::<u32>() else { continue };
        rows.push(row);
        assert!(!what.is_empty() && !how.is_empty(), "docs/hazards.md, row {row}: an empty cell");
        let (mut file, mut tests) = (None, 0);
        for word in quoted(shown) {
            if word.contains('/') {
                let path = root.join(word);
                assert!(path.exists(), "docs/hazards.md, row {row}: there is no {word}");
                file = Some(read(&path));
                continue;
            }
            let text = file.as_deref().unwrap_or_default();
            let there = tests_of(text).contains(word);
            assert!(there, "docs/hazards.md, row {row}: its file has no test {word}");
            tests += 1;
        }
        let known = match state.split_once(": ") {
            Some(("open", due)) => !due.is_empty(),
            Some(_) => false,
            None => state == "reason" || (state == "test" && tests > 0),
        };
        assert!(known, "docs/hazards.md, row {row}: {state:?}, {tests} tests");
    }
    assert_eq!(rows, (1..=101).collect::<Vec<u32>>(), "docs/hazards.md: each row, in order");
}

/// What docs/safety.md says that an invariant is shown by: a test, a file of tests, or its path's end.
#[test]
fn every_invariant_names_tests_that_exist() {
    let root = workspace();
    let sources: BTreeMap<PathBuf, String> =
        files(&root, ".rs").into_iter().map(|path| (path.clone(), read(&path))).collect();
    let tests: BTreeSet<&str> = sources.values().flat_map(|text| tests_of(text)).collect();
    assert!(tests.len() > 300, "only {} tests were found", tests.len());
    let stems: BTreeSet<String> = sources
        .keys()
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    let text = read(&root.join("docs/safety.md"));
    let mut seen = 0;
    for line in text.lines().filter(|line| line.starts_with("| I")) {
        let [number, _, _, _, shown, _] = cells(line)[..] else {
            panic!("docs/safety.md: want six cells: {line}");
        };
        for word in quoted(shown) {
            let is_name =
                word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            let there = if Path::new(word).extension().is_some_and(|e| e == "rs") {
                sources.keys().any(|path| path.ends_with(word))
            } else {
                // Commands and paths in code are no tests.
                !is_name || tests.contains(word) || stems.contains(word)
            };
            assert!(there, "docs/safety.md, {number}: there is no test {word}");
            seen += usize::from(is_name);
        }
    }
    assert!(seen > 60, "only {seen} tests are named: is this the right column?");
}

/// hazards.md row 81: PostgreSQL's processes that are all signalled at once cut standbys off before the
/// last WAL is sent.
#[test]
fn the_unit_signals_the_agent_and_nobody_else() {
    let unit = read(&workspace().join("packaging/regent-agent.service"));
    let kills: Vec<&str> = unit.lines().filter(|line| line.starts_with("Kill")).collect();
    assert_eq!(kills, ["KillMode=process", "KillSignal=SIGTERM"]);
}

/// What refuses a configuration before the agent does keeps it from ending an unguarded server; and one
/// backend that the kernel kills for memory must not stop the unit.
#[test]
fn the_unit_lets_the_agent_judge_and_outlives_a_backend() {
    let unit = read(&workspace().join("packaging/regent-agent.service"));
    let lines = |key: &str| unit.lines().filter(|line| line.starts_with(key)).collect::<Vec<_>>();
    assert_eq!(lines("ExecStartPre"), [""; 0]);
    assert_eq!(lines("OOMPolicy"), ["OOMPolicy=continue"]);
}

#[test]
fn every_topology_is_valid_and_without_warnings() {
    let all = files(&workspace().join("topologies"), ".yaml");
    assert!(all.len() >= 4, "{all:?}");
    for path in all {
        let (_, findings) =
            Topology::parse(&read(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(findings.is_empty(), "{}: {findings:?}", path.display());
    }
}

/// A condition that moved takes its mutant along, or `make fence-mutants` learns of it much later.
#[test]
#[expect(clippy::disallowed_methods, reason = "git reads some files and ends by itself")]
fn every_mutant_of_the_fence_still_applies() {
    let patches = files(&workspace().join("tests/mutants"), ".patch");
    assert!(patches.len() >= 9, "{patches:?}");
    for patch in patches {
        let git = std::process::Command::new("git")
            .current_dir(workspace())
            .args(["apply", "--check"])
            .arg(&patch)
            .output()
            .expect("git is installed");
        let said = String::from_utf8_lossy(&git.stderr);
        assert!(git.status.success(), "{} no longer applies: {said}", patch.display());
    }
}

#[test]
fn nothing_is_left_undone_and_every_file_says_what_it_is() {
    // In halves, or this file would find itself.
    let undone = [["TO", "DO"], ["FIX", "ME"], ["to", "do!"], ["unimple", "mented!"]];
    let skipped = ["#[ign", "ore"];
    let banned: Vec<String> =
        undone.iter().chain([&skipped]).map(|halves| halves.concat()).collect();
    let all = files(&workspace(), ".rs");
    assert!(all.len() > 100, "only {} files", all.len());
    for path in all {
        let text = read(&path);
        for word in &banned {
            assert!(!text.contains(word.as_str()), "{word:?} in {}", path.display());
        }
        let relative = path.strip_prefix(workspace()).expect("below the workspace");
        for part in relative.components() {
            let name = part.as_os_str().to_string_lossy();
            let vague = ["util", "utils", "helper", "helpers", "manager", "common"];
            assert!(!vague.contains(&name.trim_end_matches(".rs")), "{}", relative.display());
        }
    }
}
