//! Manifests: every version is written once, in the root, with its reason and without default features.

use toml::{Table, Value};

use super::tree::TextFile;
use super::{Breach, Tree};

const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];
const DEPENDENCIES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Manifests that say for themselves what the workspace says for all.
#[must_use]
pub fn manifests(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in tree.files.iter().filter(|f| f.path == "Cargo.toml" || f.path.ends_with("/Cargo.toml")) {
        match file.text.parse::<Table>() {
            Err(error) => breaches.push(Breach::new(&file.path, 0, format!("not TOML: {error}"))),
            Ok(manifest) if file.path == "Cargo.toml" => breaches.extend(root(file, &manifest)),
            Ok(manifest) => breaches.extend(member(file, &manifest)),
        }
    }
    if tree.file("Cargo.toml").is_none() {
        breaches.push(Breach::new("Cargo.toml", 0, "the workspace has its manifest in the root"));
    }
    breaches
}

fn root(file: &TextFile, manifest: &Table) -> Vec<Breach> {
    let workspace = manifest.get("workspace").and_then(Value::as_table);
    let Some(dependencies) = workspace.and_then(|w| w.get("dependencies")).and_then(Value::as_table) else {
        return vec![Breach::new(&file.path, 0, "the versions of all crates belong in [workspace.dependencies]")];
    };
    let mut breaches = Vec::new();
    for (name, dependency) in dependencies {
        let line = file.text.lines().position(|line| line.starts_with(&format!("{name} ="))).unwrap_or(0);
        let mut breach = |what: &str| breaches.push(Breach::new(&file.path, line + 1, format!("{name}: {what}")));
        if dependency.get("path").is_some() {
            continue;
        }
        if dependency.get("default-features") != Some(&Value::Boolean(false)) {
            breach("`default-features = false`, and the features that are used by name");
        }
        let reason =
            file.text.lines().nth(line).and_then(|line| line.rsplit_once("# ")).map(|(_, reason)| reason.trim());
        if reason.is_none_or(str::is_empty) {
            breach("say behind it why it is there: `# what we use it for`");
        }
    }
    breaches
}

fn member(file: &TextFile, manifest: &Table) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut breach = |what: String| breaches.push(Breach::new(&file.path, 0, what));
    let package = manifest.get("package").and_then(Value::as_table);
    for key in INHERITED.iter().filter(|key| !is_inherited(package.and_then(|p| p.get(**key)))) {
        breach(format!("`{key}.workspace = true`"));
    }
    if !is_inherited(manifest.get("lints")) {
        breach("`[lints]` with `workspace = true`: the same rules hold everywhere".to_owned());
    }
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let tables = targets.filter_map(Value::as_table).chain([manifest]);
    for (name, dependency) in tables.flat_map(dependencies) {
        if !is_inherited(Some(dependency)) {
            breach(format!("`{name}.workspace = true`, its version and reason in the root"));
        }
        if dependency.get("default-features").is_some() {
            breach(format!("{name}: default features are decided in the root"));
        }
    }
    breaches
}

fn dependencies(table: &Table) -> impl Iterator<Item = (&String, &Value)> {
    DEPENDENCIES.iter().filter_map(|kind| table.get(*kind).and_then(Value::as_table)).flatten()
}

fn is_inherited(value: Option<&Value>) -> bool {
    value.and_then(|v| v.get("workspace")) == Some(&Value::Boolean(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace.dependencies]\nours = { path = \"ours\" }\n\
                        bytes = { version = \"1\", default-features = false } # shared frames\n";
    const MEMBER: &str = "[package]\nversion.workspace = true\nedition.workspace = true\nrust-version.workspace = true\n\
                          license.workspace = true\npublish.workspace = true\n[lints]\nworkspace = true\n\
                          [dependencies]\nbytes.workspace = true\n";

    fn count(root: &str, member: &str) -> usize {
        manifests(&Tree::of(&[("Cargo.toml", root), ("ours/Cargo.toml", member)])).len()
    }

    #[test]
    fn a_dependency_without_reason_or_with_default_features_is_found() {
        assert_eq!(count(ROOT, MEMBER), 0);
        assert_eq!(count(&ROOT.replace(" # shared frames", ""), MEMBER), 1);
        assert_eq!(count(&ROOT.replace(", default-features = false", ""), MEMBER), 1);
        assert_eq!(count(&ROOT.replace("{ version = \"1\", default-features = false }", "\"1\""), MEMBER), 1);
        assert_eq!(count("[workspace]\n", MEMBER), 1);
    }

    #[test]
    fn a_member_that_decides_for_itself_is_found() {
        assert_eq!(count(ROOT, &MEMBER.replace("edition.workspace = true", "edition = \"2024\"")), 1);
        assert_eq!(count(ROOT, &MEMBER.replace("[lints]\nworkspace = true\n", "")), 1);
        assert_eq!(count(ROOT, &MEMBER.replace("bytes.workspace = true", "bytes = \"1\"")), 1);
        let target = format!("{MEMBER}[target.'cfg(unix)'.dev-dependencies]\nlibc = \"0.2\"\n");
        assert_eq!(count(ROOT, &target), 1);
    }

    #[test]
    fn a_tree_without_a_manifest_is_no_workspace() {
        assert_eq!(manifests(&Tree::of(&[])).len(), 1);
        assert_eq!(manifests(&Tree::of(&[("Cargo.toml", "not toml")])).len(), 1);
    }
}
