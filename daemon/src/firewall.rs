//! The firewall's rules that are ours, by the `iptables` binary: the one program that Kith runs. A rule of nftables that accepts
//! does not beat Docker's FORWARD policy, which drops; only one in Docker's own chain does, and that is iptables'.
//!
//! Our rules carry a comment by which they are found again. They are compared as iptables renders them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// What our rules carry.
const MARK: &str = "-m comment --comment kith ";
/// Seconds that iptables waits for whoever else changes the rules.
const LOCK: &str = "5";
/// How long one run may take.
const RUN: Duration = Duration::from_secs(8);

/// A table of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// What passes.
    Filter,
    /// What addresses are rewritten.
    Nat,
}

/// One rule, as `iptables -S` prints it behind its chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rule {
    /// Its table.
    pub(crate) table: Table,
    /// Its chain.
    pub(crate) chain: String,
    /// What it matches and does.
    pub(crate) text: String,
}

/// What there is, of what concerns us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    /// The rules that carry our mark, in their order.
    pub(crate) ours: Vec<Rule>,
    /// The chains that there are.
    pub(crate) chains: BTreeSet<(Table, String)>,
    /// The policies of the built-in chains.
    pub(crate) policies: BTreeMap<(Table, String), String>,
}

/// Why the rules cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FirewallError {
    /// It is not there, or cannot be run.
    #[error("iptables cannot be run")]
    Run(#[source] std::io::Error),
    /// It refused.
    #[error("iptables {arguments}: {said}")]
    Refused {
        /// What was asked.
        arguments: String,
        /// What it said.
        said: String,
    },
    /// It did not end.
    #[error("iptables did not end within {} s", RUN.as_secs())]
    Late,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Filter => "filter",
            Table::Nat => "nat",
        }
    }
}

impl Rule {
    /// A rule of ours that matches `matches` and goes to `target`.
    pub(crate) fn ours(table: Table, chain: &str, matches: &str, target: &str) -> Rule {
        Rule { table, chain: chain.to_owned(), text: format!("{matches} {MARK}-j {target}") }
    }
}

impl Rules {
    /// Reads what there is.
    pub(crate) async fn read() -> Result<Rules, FirewallError> {
        let mut rules = Rules::default();
        for table in [Table::Filter, Table::Nat] {
            rules.add(table, &run(&["-w", LOCK, "-t", table.name(), "-S"]).await?);
        }
        Ok(rules)
    }

    /// Adds what `iptables -S` printed of a table.
    fn add(&mut self, table: Table, printed: &str) {
        for line in printed.lines() {
            let mut words = line.splitn(3, ' ');
            let (Some(what), Some(chain)) = (words.next(), words.next()) else { continue };
            let (key, rest) = ((table, chain.to_owned()), words.next().unwrap_or_default());
            match what {
                "-P" => {
                    self.policies.insert(key.clone(), rest.to_owned());
                    self.chains.insert(key);
                }
                "-N" => {
                    self.chains.insert(key);
                }
                "-A" if rest.contains(MARK) => self.ours.push(Rule { table, chain: key.1, text: rest.to_owned() }),
                _ => {}
            }
        }
    }

    /// Whether there is this chain.
    pub(crate) fn has(&self, table: Table, chain: &str) -> bool {
        self.chains.contains(&(table, chain.to_owned()))
    }
}

/// Puts a rule in front of its chain.
pub(crate) async fn insert(rule: &Rule) -> Result<(), FirewallError> {
    change("-I", rule).await
}

/// Takes one rule away.
pub(crate) async fn delete(rule: &Rule) -> Result<(), FirewallError> {
    change("-D", rule).await
}

async fn change(what: &str, rule: &Rule) -> Result<(), FirewallError> {
    let mut arguments = vec!["-w", LOCK, "-t", rule.table.name(), what, rule.chain.as_str()];
    // Nothing in a rule of ours is quoted.
    arguments.extend(rule.text.split(' '));
    run(&arguments).await.map(drop)
}

async fn run(arguments: &[&str]) -> Result<String, FirewallError> {
    let mut command = Command::new("iptables");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(RUN, command.output()).await.map_err(|_| FirewallError::Late)?;
    let output = ended.map_err(FirewallError::Run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("it says nothing").to_owned();
    Err(FirewallError::Refused { arguments: arguments.join(" "), said })
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.table.name(), self.chain, self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_iptables_prints_our_rules_the_chains_and_the_policies_are_read() {
        let mut rules = Rules::default();
        rules.add(
            Table::Filter,
            "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n\
             -A FORWARD -j DOCKER-USER\n\
             -A DOCKER-USER -i kith0 -o kith-br -m comment --comment kith -j ACCEPT\n\
             -A DOCKER-USER -m comment --comment \"not kith -j\" -j DROP\n\
             -A DOCKER-USER -j RETURN\n",
        );
        let ours = Rule::ours(Table::Filter, "DOCKER-USER", "-i kith0 -o kith-br", "ACCEPT");
        assert_eq!(rules.ours, [ours]);
        assert!(rules.has(Table::Filter, "DOCKER-USER") && !rules.has(Table::Nat, "DOCKER-USER"));
        assert_eq!(rules.policies[&(Table::Filter, "FORWARD".to_owned())], "DROP");
    }
}
