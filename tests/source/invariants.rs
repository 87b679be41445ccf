//! What may panic on the paths from the wire says why it does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

/// Everything that handles what a client, a server or an administrator sent.
const FROM_THE_WIRE: [&str; 11] = [
    "crates/kcp/src",
    "src/admin",
    "src/client",
    "src/crypto",
    "src/gateway",
    "src/hooks",
    "src/hosts",
    "src/proto",
    "src/session",
    "src/transport",
    "src/wire",
];

/// A string; then calls that panic, and indexing by what may be too large. The text of `expect` and
/// `unreachable` says what holds.
static PATTERNS: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    [
        r#""(\\.|[^"\\])*""#,
        r"\.unwrap(_err)?\(\)|\.expect(_err)?\(\s*\)|\bunreachable!\(\)",
        r"\b(panic|todo|unimplemented|assert|assert_eq|assert_ne)!\(",
        r"[\w)\]?]\[[^\]]*(\.\.|[a-z_])[^\]]*\]",
    ]
    .map(|pattern| Regex::new(pattern).unwrap())
});

/// So many lines below a comment that states an invariant may rely on it, up to the next empty one.
const REACH: usize = 8;

fn sources(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).unwrap();
    let mut sources: Vec<_> = entries
        .flat_map(|entry| sources(&entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    sources.sort();
    sources
}

/// Whether a line may panic, whatever its comment and its strings say.
fn may_panic(line: &str) -> bool {
    let [strings, may_panic @ ..] = &*PATTERNS;
    if line.trim_start().starts_with(['#', '/']) || !line.contains(['[', '!', '(']) {
        return false;
    }
    let line = strings.replace_all(line, "0");
    let code = line.split("//").next().unwrap();
    may_panic.iter().any(|pattern| pattern.is_match(code))
}

/// The lines of a source that may panic and do not say why they never do.
fn unstated(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    // What follows are tests.
    let tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ");
    let end = lines.windows(2).position(tests).unwrap_or(lines.len());
    let is_stated = |at: usize| {
        let above = lines[at.saturating_sub(REACH)..=at].iter().rev();
        let mut paragraph = above.take_while(|line| !line.trim().is_empty());
        paragraph.any(|line| line.contains("// invariant: "))
    };
    let is_bad = |at: &usize| may_panic(lines[*at]) && !is_stated(*at);
    (0..end)
        .filter(is_bad)
        .map(|at| (at + 1, lines[at]))
        .collect()
}

#[test]
fn what_may_panic_states_its_invariant() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = FROM_THE_WIRE
        .iter()
        .flat_map(|path| sources(&root.join(path)));
    let files = files.filter(|path| {
        !path
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .ends_with("tests")
    });
    let mut bad = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(root).unwrap().display();
        let lines = unstated(&text).into_iter();
        bad.extend(lines.map(|(number, line)| format!("{name}:{number}: {}", line.trim())));
    }
    assert!(
        bad.is_empty(),
        "{} lines may panic; say above them why not (`// invariant: …`), or mend them:\n{}",
        bad.len(),
        bad.join("\n")
    );
}

#[test]
fn what_is_found() {
    for (line, is_found) in [
        ("let x = y.unwrap();", true),
        ("let x = y.expect(\"it was checked\");", false),
        ("let x = y.unwrap_or_default();", false),
        ("panic!(\"no\");", true),
        ("assert!(x < y);", true),
        ("debug_assert!(x < y);", false),
        ("let x = &bytes[1..];", true),
        ("let x = bytes[len];", true),
        ("let x = bytes[0];", false),
        ("let x = [0; LEN];", false),
        ("let x: &[u8] = y;", false),
        ("#[cfg(target_os = \"linux\")]", false),
        ("// bytes[at..]", false),
        ("log(\"bytes[at..]\");", false),
        ("let x = bytes[at]; // invariant: it was checked.", false),
    ] {
        assert_eq!(!unstated(line).is_empty(), is_found, "{line}");
    }
    let stated = "// invariant: both are as long.\nlet x = a[i];\nlet y = b[i];";
    assert_eq!(unstated(stated), []);
    assert_eq!(
        unstated(&format!("{stated}\n\nlet z = a[i];")),
        [(5, "let z = a[i];")]
    );
    let tests = "fn f() {}\n#[cfg(test)]\nmod tests {\n    x.unwrap();\n}";
    assert_eq!(unstated(tests), []);
}
