//! `decide/` imports only the vocabulary and itself, and has no hidden inputs.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn decide_imports_only_the_vocabulary_and_itself() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/decide"), &mut files);
    assert!(files.len() > 10, "the folder was not found");
    let allowed = ["std::", "regent_proto::", "sha2::", "super::", "self::", "crate::decide"];
    let own =
        ["plan::", "reason::", "switchover::", "servers::", "election::", "view::", "write::"];
    let banned = [
        "tokio",
        "tracing",
        "async ",
        ".await",
        "std::time::Instant",
        "SystemTime",
        "HashMap",
        "HashSet",
        "std::fs",
        "std::net",
        "std::env",
    ];
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        for line in text.lines() {
            let line = line.trim();
            if let Some(import) = line.strip_prefix("use ").or(line.strip_prefix("pub use ")) {
                let fine = allowed.iter().chain(&own).any(|prefix| import.starts_with(prefix));
                assert!(fine, "{}: {line}", file.display());
            }
            if line.starts_with("//") {
                continue;
            }
            for word in banned {
                assert!(!line.contains(word), "{}: {word:?} in {line}", file.display());
            }
        }
    }
}
