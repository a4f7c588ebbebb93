//! Scripts: thin, so that what can go wrong is in Rust, where it is typed and tested.

use super::tree::Mode;
use super::{Breach, Tree};

/// Lines of a script, all counted.
const SCRIPT_LINES: usize = 40;

/// Scripts that are long, cannot be run, or go on after a command that failed unnoticed.
#[must_use]
pub fn thick_scripts(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in tree.files.iter().filter(|f| f.path.starts_with("scripts/") || f.path == ".ci/run") {
        let lines = file.text.lines().count();
        if lines > SCRIPT_LINES {
            let message = format!("{lines} lines, at most {SCRIPT_LINES}: what decides belongs in Rust");
            breaches.push(Breach::new(&file.path, 0, message));
        }
        if file.mode != Mode::Executable {
            breaches.push(Breach::new(&file.path, 0, "make it executable: git update-index --chmod=+x"));
        }
        let strict = file.text.lines().any(|l| l.starts_with("set -") && l.contains('u') && l.ends_with("pipefail"));
        if !file.text.starts_with("#!/usr/bin/env bash\n") || !strict {
            let message =
                "begin with `#!/usr/bin/env bash` and `set -euo pipefail` (without e only where all steps are to run)";
            breaches.push(Breach::new(&file.path, 1, message));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_and_a_careless_script_are_found() {
        let good = "#!/usr/bin/env bash\n# What it does.\nset -euo pipefail\necho\n";
        let count = |text: &str| thick_scripts(&Tree::of(&[("scripts/a", text)])).len();
        assert_eq!(count(good), 0);
        assert_eq!(count(&format!("{good}{}", "echo\n".repeat(37))), 1);
        assert_eq!(count("#!/bin/sh\nset -euo pipefail\n"), 1);
        assert_eq!(count("#!/usr/bin/env bash\necho\n"), 1);
        assert_eq!(thick_scripts(&Tree::of(&[("docs/a", "echo\n")])), []);
    }

    #[test]
    fn a_script_that_cannot_be_run_is_found() {
        let mut tree = Tree::of(&[("scripts/a", "#!/usr/bin/env bash\nset -euo pipefail\n")]);
        tree.files[0].mode = Mode::Plain;
        assert_eq!(thick_scripts(&tree).len(), 1);
    }
}
