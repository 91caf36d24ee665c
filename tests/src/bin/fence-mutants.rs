//! `make fence-mutants`: applies each patch of `tests/mutants` to a copy of the committed tree,
//! builds it beside the real one, and runs the faults that have to catch it. The tree without a
//! patch goes first and has to pass all of them: else a test that fails anyway would catch anything.
//!
//! REGENT_MUTANT: only the patches whose name contains one of these parts, with commas between.
//! REGENT_REPEAT: repetitions (2).

#![expect(clippy::disallowed_methods, reason = "runs git, tar and cargo, which end by themselves")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use regent_tests::report::{file, workspace};
use regent_tests::{option, say};
use regentctl::report::{Case, passed, write};
use serde_json::Value;

/// A patch and what its head says.
struct Mutant {
    name: String,
    patch: PathBuf,
    breaks: String,
    /// Faults of the fence report, parts of their names with commas between.
    faults: Option<String>,
    /// Other system tests: the file and the test.
    tests: Vec<(String, String)>,
    files: Vec<String>,
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
        let faults = all("caught-by:").pop();
        let tests = all("caught-by-test:").into_iter().map(|line| {
            let (file, test) = line.split_once(' ').with_context(|| {
                format!("{}: caught-by-test {line:?}: want a file and a test", patch.display())
            })?;
            Ok((file.to_owned(), test.to_owned()))
        });
        let tests = tests.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(faults.is_some() || !tests.is_empty(), said("caught-by: or caught-by-test:"));
        let name = patch.file_stem().context("a patch has a name")?.to_string_lossy().into_owned();
        let changed = text.lines().filter_map(|line| line.strip_prefix("+++ b/"));
        let files = changed.map(str::to_owned).collect();
        Ok(Self { name, breaks, faults, tests, files, patch })
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let shown = format!("{command:?}");
    let status = command.status().with_context(|| shown.clone())?;
    ensure!(status.success(), "{shown}: {status}");
    Ok(())
}

/// The committed tree in `source`, as it is.
fn copy(source: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(source)?;
    let archive = source.with_extension("tar");
    run(Command::new("git")
        .current_dir(workspace())
        .args(["archive", "--format=tar", "-o"])
        .arg(&archive)
        .arg("HEAD"))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(source))
}

/// What looks for a mutant: parts of the names of faults and strains, and other system tests.
#[derive(Default)]
struct Looking {
    faults: BTreeSet<String>,
    tests: BTreeSet<(String, String)>,
}

impl Looking {
    fn of<'a>(mutants: impl IntoIterator<Item = &'a Mutant>) -> Self {
        let mut looking = Self::default();
        for mutant in mutants {
            let faults = mutant.faults.iter().flat_map(|faults| faults.split(','));
            looking.faults.extend(faults.map(|fault| fault.trim().to_owned()));
            looking.tests.extend(mutant.tests.iter().cloned());
        }
        looking
    }

    /// Builds the copy and runs what looks for mutants in it; what failed, with what it says.
    fn failed_in(&self, source: &Path) -> anyhow::Result<Vec<String>> {
        let target = source.with_file_name("target");
        let faults = self.faults.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let cargo = |arguments: &[&str]| {
            let mut command = Command::new(option("CARGO").unwrap_or_else(|| "cargo".to_owned()));
            command
                .current_dir(source)
                .args(arguments)
                .env("CARGO_TARGET_DIR", &target)
                .env("REGENT_TOOLS", workspace().join(".tools"))
                .env("REGENT_FAULT", &faults)
                .env("REGENT_REPEAT", option("REGENT_REPEAT").unwrap_or_else(|| "2".to_owned()))
                .env("REGENT_HEALTHY", "60");
            command
        };
        run(&mut cargo(&["build", "--locked", "--workspace", "--bins"]))?;
        let mut failed = Vec::new();
        for (file, test) in &self.tests {
            let build = ["test", "--locked", "--no-run", "-p", "regent-tests", "--test", file];
            run(&mut cargo(&build))?;
            let arguments =
                ["test", "--locked", "-p", "regent-tests", "--test", file, "--", "--exact", test];
            // It fails where it does its work.
            if !cargo(&arguments).status().with_context(|| format!("run {test}"))?.success() {
                failed.push(format!("{file}: {test}"));
            }
        }
        if faults.is_empty() {
            return Ok(failed);
        }
        run(&mut cargo(&[
            "test",
            "--locked",
            "--no-run",
            "-p",
            "regent-tests",
            "--test",
            "fence",
        ]))?;
        let report = source.join("target/reports/fence.json");
        fs::remove_file(&report).ok();
        // It fails where it does its work: its report says by what.
        let arguments =
            ["test", "--locked", "-p", "regent-tests", "--test", "fence", "--", "--nocapture"];
        cargo(&arguments).status().context("run the faults")?;
        let text = fs::read_to_string(&report)
            .with_context(|| format!("the faults {faults:?} left no report"))?;
        let cases: Value = serde_json::from_str(&text)?;
        let cases = cases.as_array().context("a list of cases")?.iter();
        let found = cases.filter(|case| case["verdict"] == "fail");
        failed.extend(found.map(|case| format!("{}: {}", case["name"], case["reason"])));
        Ok(failed)
    }
}

/// The committed tree with a mutant in it, or as it is.
fn prepare(mutant: Option<&Mutant>, all: &[Mutant], source: &Path) -> anyhow::Result<()> {
    copy(source)?;
    if let Some(mutant) = mutant {
        run(Command::new("git")
            .current_dir(source)
            .env("GIT_CEILING_DIRECTORIES", source.parent().unwrap_or(source))
            .args(["apply", "--whitespace=nowarn"])
            .arg(&mutant.patch))
        .with_context(|| format!("{} does not apply any more", mutant.name))?;
    }
    // The copy's times are the commit's: what was or is mutated has to look new to cargo.
    for changed in all.iter().flat_map(|mutant| &mutant.files) {
        run(Command::new("touch").arg(source.join(changed)))?;
    }
    Ok(())
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
    let source = workspace().join("target/mutants/source");
    let asked = |mutant: &&Mutant| {
        only.as_ref().is_none_or(|only| only.split(',').any(|part| mutant.name.contains(part)))
    };
    say("no mutant: everything that looks for one has to pass");
    prepare(None, &mutants, &source)?;
    let failed = Looking::of(mutants.iter().filter(asked)).failed_in(&source)?;
    let control = Case::new("no mutant");
    let mut cases = vec![control.require(failed.is_empty(), || format!("failed: {failed:?}"))];
    for mutant in mutants.iter().filter(asked) {
        say(format!("mutant {}: {}", mutant.name, mutant.breaks));
        let caught = prepare(Some(mutant), &mutants, &source)
            .and_then(|()| Looking::of([mutant]).failed_in(&source));
        let case = Case::new(&mutant.name);
        cases.push(match caught {
            Ok(caught) => {
                caught.iter().for_each(|by| say(format!("  caught by {by}")));
                case.require(!caught.is_empty(), || {
                    format!("not caught by {:?} {:?}", mutant.faults, mutant.tests)
                })
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
