//! Text in columns, for people.

/// Widest column that others are lined up behind; a longer cell pushes its own line only.
const MAX_WIDTH: usize = 60;

/// The width of each column over these lines.
pub(crate) fn widths<'a>(lines: impl Iterator<Item = &'a [String]>) -> Vec<usize> {
    let mut widths = Vec::new();
    for line in lines {
        widths.resize(widths.len().max(line.len()), 0);
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count().min(MAX_WIDTH));
        }
    }
    widths
}

/// One line, its cells two blanks apart, without blanks at its end.
pub(crate) fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        text.push_str(&format!("{cell:width$}  "));
    }
    text.truncate(text.trim_end().len());
    text
}

/// A whole table.
pub(crate) fn render(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    let lines: Vec<&[String]> = std::iter::once(head.as_slice()).chain(rows.iter().map(Vec::as_slice)).collect();
    let widths = widths(lines.iter().copied());
    lines.into_iter().map(|cells| line(cells, &widths)).collect()
}

/// Lines without a head.
pub(crate) fn pairs(rows: &[Vec<String>]) -> Vec<String> {
    let widths = widths(rows.iter().map(Vec::as_slice));
    rows.iter().map(|row| line(row, &widths)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let rows = vec![vec!["a".to_owned(), "ü".to_owned()], vec!["long one".to_owned(), String::new()]];
        assert_eq!(render(&["ID", "X"], &rows), ["ID        X", "a         ü", "long one"]);
    }
}
