//! Size: a file is one idea, a function one screen.

use super::{Breach, Tree};

/// Lines of a file, tests aside, above which it must be split. (About 150 is aimed at; 400 is a smell.)
const FILE_LINES: usize = 800;
/// Lines of a function, from `fn` to its closing brace: one screen.
const FUNCTION_LINES: usize = 70;

/// Files with more than 800 lines that are not tests.
#[must_use]
pub fn long_files(tree: &Tree) -> Vec<Breach> {
    let breach = |file: &super::rust::Rust| {
        let lines = file.text.lines().zip(&file.test).filter(|(_, test)| !**test).count();
        let message = format!("{lines} lines besides tests, at most {FILE_LINES}: split it by its nouns");
        (lines > FILE_LINES).then(|| Breach::new(&file.path, 0, message))
    };
    tree.rust.iter().filter_map(breach).collect()
}

/// Functions of more than 70 lines that are not tests.
#[must_use]
pub fn long_functions(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.rust {
        for function in file.functions().filter(|f| !file.test[f.lines.start - 1]) {
            let (name, lines) = (function.name, function.lines.len());
            if lines > FUNCTION_LINES {
                let message = format!(
                    "fn {name} has {lines} lines, at most {FUNCTION_LINES}: keep the branching, move the leaves out"
                );
                breaches.push(Breach::new(&file.path, function.lines.start, message));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_801_lines_is_too_long_and_its_tests_do_not_count() {
        let code = "const A: u8 = 0;\n".repeat(FILE_LINES);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    fn a() {}\n".repeat(500));
        assert_eq!(long_files(&Tree::of(&[("a/src/a.rs", &format!("{code}{tests}"))])), []);
        assert_eq!(long_files(&Tree::of(&[("a/src/a.rs", &format!("{tests}{code}const B: u8 = 0;\n"))])).len(), 1);
    }

    #[test]
    fn a_function_of_71_lines_is_too_long_and_a_test_may_be() {
        let function = |body: usize| format!("pub fn long() {{\n{}}}\n", "    step();\n".repeat(body));
        assert_eq!(long_functions(&Tree::of(&[("a/src/a.rs", &function(FUNCTION_LINES - 2))])), []);
        let breaches = long_functions(&Tree::of(&[("a/src/a.rs", &format!("\n{}", function(FUNCTION_LINES - 1)))]));
        assert_eq!((breaches.len(), breaches[0].line), (1, 2));
        assert_eq!(long_functions(&Tree::of(&[("a/src/a.rs", &format!("#[test]\n{}", function(100)))])), []);
    }
}
