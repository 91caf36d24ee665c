//! `make models`: every model within its long bounds, as a table and as `target/reports/models.json`.
//! Arguments: `--short` for the bounds of `make test`, names of models for those alone.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use regent_models::run::{Row, Size};
use serde_json::{Value, json};

fn json(row: &Row) -> Value {
    let mut out = json!({
        "model": row.model,
        "bounds": row.bounds,
        "states": row.found.states,
        "counted": row.counted,
        "depth": row.found.depth,
        "seconds": row.found.took.as_secs_f64(),
        "complete": row.found.complete,
        "broken": row.found.broken.iter().map(|(what, way)| json!([what, way])).collect::<Value>(),
        "never": row.found.never,
        "verdict": if row.passed() { "pass" } else { "fail" },
    });
    if let Some((mutant, wanted)) = &row.mutant {
        out["mutant"] = json!(mutant);
        out["caught-by"] = json!(wanted);
    }
    out
}

fn print(out: &mut impl std::io::Write, row: &Row) -> anyhow::Result<()> {
    let (states, took) = (row.found.states, row.found.took.as_secs_f64());
    let what = match (&row.mutant, row.passed()) {
        (None, _) => row.bounds.clone(),
        (Some((mutant, wanted)), true) => {
            let others = row.found.broken.iter().map(|(what, _)| *what);
            let others: Vec<&str> = others.filter(|what| what != wanted).collect();
            let earlier = if others.is_empty() { "" } else { "; on the way: " };
            format!("  {mutant} is caught by {wanted}{earlier}{}", others.join("; "))
        }
        (Some((mutant, wanted)), false) => format!("  {mutant} LIVES: {wanted}"),
    };
    writeln!(out, "{:<10} {states:>11} {took:>7.1}  {what}", row.model)?;
    if row.mutant.is_none() {
        if !row.found.complete {
            writeln!(out, "  NOT COMPLETE")?;
        }
        for (what, way) in &row.found.broken {
            writeln!(out, "  BROKEN {what}\n    {way}")?;
        }
        for what in &row.found.never {
            writeln!(out, "  NEVER {what}")?;
        }
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let size =
        if arguments.iter().any(|word| word == "--short") { Size::Short } else { Size::Long };
    let named: Vec<&String> = arguments.iter().filter(|word| *word != "--short").collect();
    let known = |name: &&String| regent_models::EACH.iter().any(|(known, _)| known == *name);
    ensure!(
        named.iter().all(known),
        "{named:?}: the models are {:?}",
        regent_models::EACH.map(|m| m.0)
    );
    let wanted = |name: &str| named.is_empty() || named.iter().any(|word| *word == name);
    let searches = regent_models::EACH.into_iter().filter(|(name, _)| wanted(name));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:<10} {:>11} {:>7}  bounds, or mutant", "model", "states", "s")?;
    let mut rows: Vec<Row> = Vec::new();
    for row in searches.flat_map(|(_, search)| search(size)) {
        print(&mut out, &row)?;
        rows.push(row);
    }
    let models = rows.iter().filter(|row| row.mutant.is_none() && row.counted);
    let states: usize = models.map(|row| row.found.states).sum();
    let mutants = rows.iter().filter(|row| row.mutant.is_some());
    let dead = mutants.clone().filter(|row| row.passed()).count();
    let took: f64 = rows.iter().map(|row| row.found.took.as_secs_f64()).sum();
    let all = mutants.count();
    writeln!(out, "{:<10} {states:>11} {took:>7.1}  {dead} of {all} mutants caught", "together")?;
    let reports = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/reports");
    let file = reports.join("models.json");
    std::fs::create_dir_all(&reports).with_context(|| format!("making {}", reports.display()))?;
    let passed = rows.iter().all(Row::passed);
    let verdict = if passed { "pass" } else { "fail" };
    let report = json!({
        "command": "make models",
        "verdict": verdict,
        "models": rows.iter().map(json).collect::<Value>(),
    });
    std::fs::write(&file, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("writing {}", file.display()))?;
    ensure!(passed, "a model is broken or a mutant lives, see above and {}", file.display());
    Ok(())
}
