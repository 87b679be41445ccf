//! Imports go down: no file takes anything from a layer above its own, and no two files take
//! something from each other, over whatever detour.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The line of `ARCHITECTURE.md` that has the layers: those before a `<` are below those after it.
const ORDER: &str = "crypto, ";

/// The files of a crate by their modules.
struct Crate {
    files: BTreeMap<Vec<String>, File>,
}

#[derive(Default)]
struct File {
    path: PathBuf,
    uses: Vec<Use>,
    /// Names that are defined there.
    items: BTreeSet<String>,
    modules: BTreeSet<String>,
}

/// A name that a file takes from another.
#[derive(Debug, Clone)]
struct Use {
    line: usize,
    path: Vec<String>,
    /// What it is called there.
    alias: String,
    is_public: bool,
}

/// From which file, at which line, to which file.
type Arrow = (Vec<String>, usize, Vec<String>);

impl Crate {
    fn read(root: &Path) -> Self {
        let mut files = BTreeMap::new();
        read_modules(root, &[], &mut files);
        Self { files }
    }

    /// All arrows between files.
    fn arrows(&self) -> Vec<Arrow> {
        let mut arrows = Vec::new();
        for (module, file) in &self.files {
            for taken in &file.uses {
                let to = self.find(module, &taken.path, 0);
                if let Some(to) = to.filter(|to| to != module) {
                    arrows.push((module.clone(), taken.line, to));
                }
            }
        }
        arrows
    }

    /// The file where a path ends that stands in `module`.
    fn find(&self, module: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        assert!(depth < 16, "{module:?} {path:?}");
        let mut at = module.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => {
                at.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    at.pop()?;
                    rest = &rest[1..];
                }
            }
            // A module of this one, or another crate.
            first if !self.files.get(module)?.modules.contains(first) => return None,
            _ => {}
        }
        while let Some((name, behind)) = rest.split_first() {
            let mut child = at.clone();
            child.push(name.clone());
            if !self.files.contains_key(&child) {
                break;
            }
            at = child;
            rest = behind;
        }
        let file = self.files.get(&at)?;
        let Some(name) = rest.first() else {
            return Some(at);
        };
        if file.items.contains(name) {
            return Some(at);
        }
        let mut exports = file.uses.iter().filter(|it| it.is_public);
        let named = exports.clone().find(|it| it.alias == *name);
        if let Some(export) = named {
            let mut path = export.path.clone();
            path.extend_from_slice(&rest[1..]);
            return self.find(&at, &path, depth + 1);
        }
        let globbed = exports.find_map(|export| {
            let (last, inside) = export.path.split_last()?;
            let path = [inside, rest].concat();
            let found = self.find(&at, &path, depth + 1)?;
            (last == "*" && self.files[&found].items.contains(name)).then_some(found)
        });
        Some(globbed.unwrap_or(at))
    }

    fn shown(&self, module: &[String]) -> String {
        let path = &self.files[module].path;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        path.strip_prefix(root).unwrap().display().to_string()
    }

    /// Arrows on a circle, each with its file and line.
    fn circles(&self, arrows: &[Arrow]) -> Vec<String> {
        let mut below: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
        for (from, _, to) in arrows {
            below.entry(from).or_default().insert(to);
        }
        let reaches = |from: &[String], to: &[String]| {
            let mut seen = BTreeSet::new();
            let mut next = vec![from];
            while let Some(module) = next.pop() {
                if module == to {
                    return true;
                }
                if seen.insert(module) {
                    next.extend(below.get(module).into_iter().flatten());
                }
            }
            false
        };
        let circular = arrows.iter().filter(|(from, _, to)| reaches(to, from));
        circular
            .map(|(from, line, to)| {
                format!("{}:{line} takes from {}", self.shown(from), self.shown(to))
            })
            .collect()
    }
}

/// Reads a folder's files, with `module` as the path of the folder.
fn read_modules(folder: &Path, module: &[String], files: &mut BTreeMap<Vec<String>, File>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            let child = [module, &[name]].concat();
            read_modules(&path, &child, files);
            continue;
        }
        let is_source = path.extension().is_some_and(|it| it == "rs");
        if !is_source || name.ends_with("tests") || matches!(&*name, "main" | "netem") {
            continue;
        }
        let own = match &*name {
            "mod" | "lib" => module.to_vec(),
            _ => [module, &[name]].concat(),
        };
        let text = fs::read_to_string(&path).unwrap();
        files.insert(own, File::parse(path, &text));
    }
}

impl File {
    fn parse(path: PathBuf, text: &str) -> Self {
        let mut file = Self {
            path,
            ..Self::default()
        };
        let mut lines = text.lines().enumerate().peekable();
        let mut is_test = false;
        while let Some((at, line)) = lines.next() {
            if line.starts_with("#[cfg(test)]") {
                is_test = true;
                continue;
            }
            let skipped = is_test;
            is_test = is_test && line.starts_with("#[");
            if skipped && line.starts_with("mod ") && line.ends_with('{') {
                break;
            }
            let (is_public, code) = public(line);
            let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            let first = words
                .find(|word| !matches!(*word, "unsafe" | "async"))
                .unwrap_or("");
            // What a macro is given is defined, too.
            if let Some(name) = line.trim_start().strip_prefix("pub struct ") {
                let name = name.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                file.items.insert(name.to_owned());
            }
            if line.starts_with([' ', '}', '/']) || skipped {
                continue;
            }
            match first {
                "use" => {
                    let mut tree = code["use ".len()..].to_owned();
                    while !tree.ends_with(';') {
                        tree.push_str(lines.next().unwrap().1.trim());
                    }
                    let tree = tree.trim_end_matches(';');
                    for (path, alias) in leaves(tree) {
                        file.uses.push(Use {
                            line: at + 1,
                            path,
                            alias,
                            is_public,
                        });
                    }
                }
                "mod" => {
                    let name = words.next().unwrap().to_owned();
                    file.modules.insert(name);
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" => {
                    let mut names = words.filter(|word| !matches!(*word, "fn" | "mut"));
                    let name = names.next().unwrap().to_owned();
                    file.items.insert(name);
                }
                "macro_rules" => {
                    let name = words.find(|word| !word.is_empty()).unwrap().to_owned();
                    file.items.insert(name);
                }
                _ => {}
            }
        }
        file
    }
}

/// Whether a line begins with `pub`, of whatever reach, and what follows it.
fn public(line: &str) -> (bool, &str) {
    let Some(rest) = line.strip_prefix("pub") else {
        return (false, line);
    };
    let rest = match rest.strip_prefix('(') {
        Some(reach) => reach.split_once(')').map_or(reach, |(_, rest)| rest),
        None => rest,
    };
    (true, rest.trim_start())
}

/// The paths of a tree of uses, and what they are called.
fn leaves(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some((before, inside)) = tree.split_once('{') else {
        let (path, alias) = match tree.split_once(" as ") {
            Some((path, alias)) => (path, Some(alias)),
            None => (tree, None),
        };
        let path: Vec<_> = path
            .split("::")
            .map(|name| name.trim().to_owned())
            .collect();
        let alias = alias.map_or_else(|| path.last().unwrap().clone(), |it| it.trim().to_owned());
        return vec![(path, alias)];
    };
    let inside = inside.strip_suffix('}').unwrap();
    let prefix = before.split("::").filter(|name| !name.is_empty());
    let prefix: Vec<String> = prefix.map(str::to_owned).collect();
    let mut depth = 0;
    let branches = inside.split(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    let branches = branches.filter(|branch| !branch.trim().is_empty());
    let all = branches.flat_map(leaves);
    all.map(|(path, alias)| match &path[..] {
        [own] if own == "self" => (prefix.clone(), prefix.last().unwrap().clone()),
        _ => ([&prefix[..], &path].concat(), alias),
    })
    .collect()
}

/// The rank of each layer, from below.
fn order() -> BTreeMap<String, usize> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = fs::read_to_string(path).unwrap();
    let line = text.lines().find(|line| line.starts_with(ORDER));
    let line = line.expect("ARCHITECTURE.md has the order of the layers");
    let ranks = line.split('<').enumerate();
    let names = ranks.flat_map(|(rank, names)| names.split(',').map(move |name| (name, rank)));
    names
        .map(|(name, rank)| (name.trim().to_owned(), rank))
        .collect()
}

#[test]
fn imports_go_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let own = Crate::read(&root);
    let order = order();
    let mut bad = Vec::new();
    let arrows = own.arrows();
    assert!(arrows.len() > 500, "{}", arrows.len());
    for (from, line, to) in &arrows {
        let [Some(from_layer), Some(to_layer)] = [from, to].map(|module| module.first()) else {
            continue;
        };
        let rank = |layer: &String| {
            let rank = order.get(layer);
            *rank.unwrap_or_else(|| panic!("ARCHITECTURE.md has no layer {layer}"))
        };
        if from_layer != to_layer && rank(from_layer) <= rank(to_layer) {
            let (from, to) = (own.shown(from), own.shown(to));
            bad.push(format!(
                "{from}:{line} takes from {to}, which is not below it"
            ));
        }
    }
    let unknown = order.keys().find(|layer| {
        let layer = [(*layer).clone()];
        !own.files.keys().any(|module| module.starts_with(&layer))
    });
    assert_eq!(
        unknown, None,
        "ARCHITECTURE.md has a layer that is not there"
    );
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn no_imports_go_round() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "crates/kcp/src"] {
        let own = Crate::read(&manifest.join(folder));
        let circles = own.circles(&own.arrows());
        assert!(circles.is_empty(), "{}", circles.join("\n"));
    }
}
