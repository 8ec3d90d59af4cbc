//! Suggests a setting for a misspelled key.

use crate::config::table::{ROWS, Row};

/// The known key that is most similar to an unknown one.
pub(super) fn nearest_key(unknown: &str) -> &'static str {
    let distance = |row: &&Row| {
        // A key without its section ("listen") counts as one edit. A section used as a key ("usage = 5") is most
        // similar to the keys of that section.
        let (section, last) = row.key.split_once('.').unwrap_or(("", row.key));
        let near = edits(unknown, row.key).min(edits(unknown, last) + 1);
        if section == unknown { 0 } else { near }
    };
    ROWS.iter().min_by_key(distance).map_or("", |row| row.key)
}

/// Levenshtein distance: the number of letters to insert, delete or replace.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (at, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in to.iter().enumerate() {
            let change = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = change.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_most_similar_key() {
        for (unknown, meant) in [
            ("usage.lisen", "usage.listen"),
            ("usage.Listen", "usage.listen"),
            ("intervall", "interval"),
            ("max_connections", "usage.max_connections"),
            ("usage.max_connection", "usage.max_connections"),
            ("loglevel", "log_level"),
            ("heartbeat.units", "heartbeat.unit"),
            ("usage.tokenfile", "usage.token_file"),
        ] {
            assert_eq!(nearest_key(unknown), meant);
        }
        assert!(!nearest_key("").is_empty() && !nearest_key(&"x".repeat(100_000)).is_empty());
    }
}
