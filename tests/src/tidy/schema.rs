//! The tables: `schema.sql` is the contract of all parts, so each table and column has its sentence.

use super::{Breach, Tree};

/// Tables without a comment line above and columns without a comment behind.
#[must_use]
pub fn undescribed_tables(tree: &Tree) -> Vec<Breach> {
    let Some(file) = tree.file("schema.sql") else {
        return vec![Breach::new("schema.sql", 0, "the replicated tables belong in the root of the tree")];
    };
    let mut breaches = Vec::new();
    let mut before = "";
    let mut in_table = false;
    for (number, line) in file.text.lines().enumerate() {
        let code = line.trim();
        let mut breach = |message| breaches.push(Breach::new("schema.sql", number + 1, message));
        if code.starts_with("CREATE TABLE") {
            in_table = true;
            if !before.starts_with("-- ") {
                breach("a sentence above the table: what its rows are and who writes them");
            }
        } else if code.starts_with(')') {
            in_table = false;
        } else if in_table && !is_constraint(code) && !is_described(code) {
            breach("a sentence behind the column: `-- what it holds, in which unit`");
        }
        before = code;
    }
    breaches
}

fn is_constraint(code: &str) -> bool {
    ["PRIMARY KEY", "CHECK", "--"].iter().any(|start| code.starts_with(start)) || code.is_empty()
}

fn is_described(code: &str) -> bool {
    code.split_once("-- ").is_some_and(|(_, sentence)| sentence.split_whitespace().count() >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        undescribed_tables(&Tree::of(&[("schema.sql", text)])).len()
    }

    #[test]
    fn a_table_and_a_column_without_a_sentence_are_found() {
        let good =
            "-- Facts.\nCREATE TABLE a (\n    id TEXT NOT NULL,   -- the fact's name\n    PRIMARY KEY (id)\n);\n";
        assert_eq!(count(good), 0);
        assert_eq!(count(&good.replace("-- Facts.", "")), 1);
        assert_eq!(count(&good.replace("-- the fact's name", "")), 1);
        assert_eq!(count(&good.replace("-- the fact's name", "-- id")), 1);
        assert_eq!(undescribed_tables(&Tree::of(&[])).len(), 1);
    }
}
