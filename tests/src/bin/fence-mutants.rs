//! `make fence-mutants`: applies each patch of `tests/mutants` to a clone of the committed tree,
//! builds the programs that it changes, and runs them under the unbroken tree's tests until one that
//! has to catch it does. The tree without a patch goes first and has to pass all of them, once: else
//! a test that fails anyway would catch anything.
//!
//! REGENT_MUTANT: only the patches whose name contains one of these parts, with commas between.
//! REGENT_REPEAT: times that a mutant has to be caught in (2).

#![expect(clippy::disallowed_methods, reason = "runs git and cargo, which end by themselves")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use regent_tests::report::{file, workspace};
use regent_tests::{option, say};
use regentctl::report::{Case, passed, write};
use serde_json::Value;

/// Times that each fault and test is given to catch a mutant.
const REPEAT: usize = 2;
/// Seconds under a strain.
const HEALTHY: &str = "20";
/// What a node and a federation run.
const PROGRAMS: [&str; 4] = ["regent-agent", "regent-coordinator", "regent-guardian", "regentctl"];

/// A patch and what its head says.
struct Mutant {
    name: String,
    patch: PathBuf,
    breaks: String,
    /// What has to catch it.
    looks: Vec<Look>,
    files: Vec<String>,
}

/// What looks for a mutant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    /// A fault or strain of the fence report.
    Fault(String),
    /// Another system test.
    Test { file: String, test: String },
}

impl Look {
    /// The file of tests that it is in.
    fn file(&self) -> &str {
        match self {
            Self::Fault(_) => "fence",
            Self::Test { file, .. } => file,
        }
    }
}

impl Mutant {
    fn read(patch: PathBuf) -> anyhow::Result<Self> {
        let text = fs::read_to_string(&patch)?;
        let all = |word: &str| {
            let lines = text.lines().take_while(|line| !line.starts_with("diff "));
            let found = lines.filter_map(|line| line.strip_prefix(word));
            found.map(|rest| rest.trim().to_owned()).collect::<Vec<_>>()
        };
        let said =
            |word: &str| format!("{}: want a line that begins with {word:?}", patch.display());
        let breaks = all("mutant:").pop().with_context(|| said("mutant:"))?;
        let mut looks = Vec::new();
        for line in all("caught-by:") {
            looks.extend(line.split(',').map(|fault| Look::Fault(fault.trim().to_owned())));
        }
        for line in all("caught-by-test:") {
            let (file, test) = line.split_once(' ').with_context(|| {
                format!("{}: caught-by-test {line:?}: want a file and a test", patch.display())
            })?;
            looks.push(Look::Test { file: file.to_owned(), test: test.to_owned() });
        }
        ensure!(!looks.is_empty(), said("caught-by: or caught-by-test:"));
        let name = patch.file_stem().context("a patch has a name")?.to_string_lossy().into_owned();
        let changed = text.lines().filter_map(|line| line.strip_prefix("+++ b/"));
        let files = changed.map(str::to_owned).collect();
        Ok(Self { name, breaks, looks, files, patch })
    }

    /// The packages whose programs it changes. The tests stay those of the unbroken tree, and a
    /// program that only links what is broken stays whole: that makes it harder to catch.
    fn packages(&self) -> BTreeSet<&'static str> {
        let own = |file: &String| match file.split('/').next() {
            Some("agent") => vec!["regent-agent"],
            Some("coordinator") => vec!["regent-coordinator"],
            Some("guardian") => vec!["regent-guardian"],
            Some("ctl") => vec!["regentctl"],
            Some(_) | None => PROGRAMS.to_vec(),
        };
        self.files.iter().flat_map(own).collect()
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| shown.clone())?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// Where everything lies. All of it is kept for the next time.
struct Places {
    /// A clone of the committed tree.
    source: PathBuf,
    /// What cargo builds of it.
    target: PathBuf,
    /// Programs and, in `deps`, tests of the unbroken tree.
    whole: PathBuf,
    /// The same with the programs of a mutant in their places.
    mixed: PathBuf,
}

impl Places {
    fn new() -> Self {
        let own = |name: &str| workspace().join("target/mutants").join(name);
        let [source, target, whole, mixed] = ["clone", "target", "whole", "mixed"].map(own);
        Self { source, target, whole, mixed }
    }

    fn git(&self, arguments: &[&str]) -> anyhow::Result<()> {
        run(Command::new("git").current_dir(&self.source).args(arguments))
    }

    /// The committed tree as it is. Git writes only files that differ: the others look old to cargo.
    fn restore(&self) -> anyhow::Result<()> {
        let asked = ["rev-parse", "HEAD"];
        let head = Command::new("git").current_dir(workspace()).args(asked).output()?;
        let head = String::from_utf8(head.stdout)?;
        if !self.source.join(".git").exists() {
            let asked = ["clone", "--quiet", "--shared", "--no-checkout"];
            run(Command::new("git").args(asked).arg(workspace()).arg(&self.source))?;
        }
        self.git(&["checkout", "--quiet", "--force", "--detach", head.trim()])?;
        self.git(&["clean", "--quiet", "--force", "-d"])
    }

    /// Builds, and gives the name and the file of every program or test that comes of it.
    fn built(&self, arguments: &[&str]) -> anyhow::Result<Vec<(String, PathBuf)>> {
        let mut command = Command::new(option("CARGO").unwrap_or_else(|| "cargo".to_owned()));
        command
            .current_dir(&self.source)
            .args(arguments)
            .args(["--locked", "--message-format", "json-render-diagnostics"])
            .env("CARGO_TARGET_DIR", &self.target)
            .stderr(Stdio::inherit());
        let done = command.output().with_context(|| format!("{command:?}"))?;
        ensure!(done.status.success(), "{command:?}: {}", done.status);
        let mut built = Vec::new();
        for line in String::from_utf8(done.stdout)?.lines() {
            let told: Value = serde_json::from_str(line).context("cargo's messages")?;
            if let (Some(name), Some(file)) =
                (told["target"]["name"].as_str(), told["executable"].as_str())
            {
                built.push((name.to_owned(), PathBuf::from(file)));
            }
        }
        Ok(built)
    }

    /// The unbroken tree's programs, and the tests that look for these mutants.
    fn build_whole(&self, looks: &BTreeSet<Look>) -> anyhow::Result<()> {
        self.restore()?;
        fs::remove_dir_all(&self.whole).ok();
        fs::create_dir_all(self.whole.join("deps"))?;
        let packages = PROGRAMS.into_iter().flat_map(|package| ["-p", package]);
        let programs: Vec<_> = ["build", "--bins"].into_iter().chain(packages).collect();
        for (name, program) in self.built(&programs)? {
            fs::copy(program, self.whole.join(name))?;
        }
        let files: BTreeSet<&str> = looks.iter().map(Look::file).collect();
        let files = files.into_iter().flat_map(|file| ["--test", file]);
        let tests: Vec<_> =
            ["test", "--no-run", "-p", "regent-tests"].into_iter().chain(files).collect();
        for (name, test) in self.built(&tests)? {
            fs::copy(test, self.whole.join("deps").join(name))?;
        }
        Ok(())
    }

    /// The programs of a mutant among the others of the unbroken tree.
    fn build_mixed(&self, mutant: &Mutant) -> anyhow::Result<()> {
        self.restore()?;
        let patch = mutant.patch.to_string_lossy();
        self.git(&["apply", "--whitespace=nowarn", &patch])
            .with_context(|| format!("{} does not apply any more", mutant.name))?;
        fs::remove_dir_all(&self.mixed).ok();
        fs::create_dir_all(self.mixed.join("deps"))?;
        for part in ["", "deps"] {
            for entry in fs::read_dir(self.whole.join(part))? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    fs::hard_link(entry.path(), self.mixed.join(part).join(entry.file_name()))?;
                }
            }
        }
        let packages = mutant.packages();
        let packages = packages.into_iter().flat_map(|package| ["-p", package]);
        let programs: Vec<_> = ["build", "--bins"].into_iter().chain(packages).collect();
        let built = self.built(&programs)?;
        ensure!(!built.is_empty(), "{} changes no program", mutant.name);
        for (name, program) in built {
            // The link goes first: what it leads to stays whole.
            let place = self.mixed.join(name);
            fs::remove_file(&place).ok();
            fs::copy(program, place)?;
        }
        Ok(())
    }

    fn test(&self, programs: &Path, file: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs.join("deps").join(file));
        let tools =
            option("REGENT_TOOLS").map_or_else(|| workspace().join(".tools"), PathBuf::from);
        command
            .current_dir(self.source.join("tests"))
            .args(arguments)
            .env("REGENT_TOOLS", tools)
            .env("REGENT_REPEAT", "1")
            .env("REGENT_HEALTHY", HEALTHY);
        command
    }

    /// Runs these once; what failed, with what it says.
    fn failed(&self, programs: &Path, looks: &BTreeSet<Look>) -> anyhow::Result<Vec<String>> {
        let mut failed = Vec::new();
        let mut faults = Vec::new();
        for look in looks {
            match look {
                Look::Fault(fault) => faults.push(fault.as_str()),
                Look::Test { file, test } => {
                    let status = self.test(programs, file, &["--exact", test]).status();
                    if !status.with_context(|| format!("run {test}"))?.success() {
                        failed.push(format!("{file}: {test}"));
                    }
                }
            }
        }
        if faults.is_empty() {
            return Ok(failed);
        }
        let report = self.source.join("target/reports/fence.json");
        fs::remove_file(&report).ok();
        // It fails where it does its work: its report says by what.
        let mut command = self.test(programs, "fence", &["--nocapture"]);
        command.env("REGENT_FAULT", faults.join(",")).status().context("run the faults")?;
        let text = fs::read_to_string(&report)
            .with_context(|| format!("the faults {faults:?} left no report"))?;
        let cases: Value = serde_json::from_str(&text)?;
        let cases = cases.as_array().context("a list of cases")?.iter();
        let found = cases.filter(|case| case["verdict"] == "fail");
        failed.extend(found.map(|case| format!("{}: {}", case["name"], case["reason"])));
        Ok(failed)
    }

    /// One after the other until one catches the mutant; what it says.
    fn caught(&self, mutant: &Mutant, repeat: usize) -> anyhow::Result<Vec<String>> {
        self.build_mixed(mutant)?;
        for _ in 0..repeat {
            for look in &mutant.looks {
                let caught = self.failed(&self.mixed, &BTreeSet::from([look.clone()]))?;
                if !caught.is_empty() {
                    return Ok(caught);
                }
            }
        }
        Ok(Vec::new())
    }
}

fn main() -> anyhow::Result<()> {
    let only = option("REGENT_MUTANT");
    let mut mutants = Vec::new();
    for entry in fs::read_dir(workspace().join("tests/mutants"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "patch") {
            mutants.push(Mutant::read(path)?);
        }
    }
    mutants.sort_by(|a, b| a.name.cmp(&b.name));
    mutants.retain(|mutant| {
        only.as_ref().is_none_or(|only| only.split(',').any(|part| mutant.name.contains(part)))
    });
    let repeat = option("REGENT_REPEAT").and_then(|n| n.parse().ok()).unwrap_or(REPEAT);
    let places = Places::new();
    say("no mutant: everything that looks for one has to pass");
    let looks = mutants.iter().flat_map(|mutant| mutant.looks.iter().cloned()).collect();
    places.build_whole(&looks)?;
    let failed = places.failed(&places.whole, &looks)?;
    let control = Case::new("no mutant");
    let mut cases = vec![control.require(failed.is_empty(), || format!("failed: {failed:?}"))];
    for mutant in &mutants {
        say(format!("mutant {}: {}", mutant.name, mutant.breaks));
        let case = Case::new(&mutant.name);
        cases.push(match places.caught(mutant, repeat) {
            Ok(caught) => {
                caught.iter().for_each(|by| say(format!("  {} caught by {by}", mutant.name)));
                case.require(!caught.is_empty(), || format!("not caught by {:?}", mutant.looks))
            }
            Err(problem) => case.require(false, || format!("{problem:#}")),
        });
    }
    write(&file("fence-mutants"), &cases)?;
    for case in cases.iter().filter(|case| !case.reason.is_empty()) {
        say(format!("{}: {}", case.name, case.reason));
    }
    ensure!(passed(&cases), "not every mutant was caught, or the tree without one failed");
    Ok(())
}
