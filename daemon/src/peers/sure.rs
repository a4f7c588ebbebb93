//! Which removals an operator is sure of, though they are many: the row `removal/ID` of `cluster_metadata`, which says the `removed_at`
//! that is meant. One of which it does not, as another time, is like any other.

use std::collections::BTreeSet;

use kith_gossip_client::{Statement, Value};

/// What the keys begin with.
const PREFIX: &str = "removal/";

/// The rows of all.
pub(super) fn select() -> Statement {
    Statement::new("SELECT key, value FROM cluster_metadata WHERE key >= 'removal/' AND key < 'removal0'")
}

/// The servers, of the rows of [`super::Row::select`], of whose removal somebody is sure.
pub(super) fn among(servers: &[Vec<Value>], said: &[Vec<Value>]) -> BTreeSet<String> {
    let said: BTreeSet<(&str, &str)> = said
        .iter()
        .filter_map(|cells| match &cells[..] {
            [Value::Text(key), Value::Text(value)] => Some((key.strip_prefix(PREFIX)?, value.as_str())),
            _ => None,
        })
        .collect();
    let removed = servers.iter().filter_map(|cells| match &cells[..] {
        [Value::Text(id), Value::Integer(at), ..] => Some((id, at.to_string())),
        _ => None,
    });
    removed.filter(|(id, at)| said.contains(&(id.as_str(), at.as_str()))).map(|(id, _)| id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_is_sure_of_one_removal_and_not_of_the_next_of_the_same_server() {
        let text = |text: &str| Value::Text(text.to_owned());
        let servers = [
            vec![text("a"), Value::Integer(7), text("key")],
            vec![text("b"), Value::Integer(8)],
            vec![text("c"), Value::Null],
            vec![text("d"), text("yes")],
            vec![Value::Integer(7)],
        ];
        let said = [
            vec![text("removal/a"), text("7")],
            vec![text("removal/b"), text("7")],
            vec![text("removal/c"), text("")],
            vec![text("removal/d"), text("yes")],
            vec![text("removal/a"), Value::Null],
            Vec::new(),
        ];
        assert_eq!(among(&servers, &said), BTreeSet::from(["a".to_owned()]));
    }
}
