//! A cluster over links that can be cut.

use std::time::Duration;

use super::authority::Authority;
use super::links::Links;
use super::node::{Lab, Node};
use super::wait::eventually;

/// For nodes to find each other.
const TOGETHER: Duration = Duration::from_secs(60);

/// Nodes and the links between them.
#[derive(Debug)]
pub struct Fleet {
    // Dropped in this order: processes end before the network that they are in and the folder that they write to.
    /// The nodes; the first has number 1 on the links.
    pub nodes: Vec<Node>,
    /// What lies between them.
    pub links: Links,
    /// Their files.
    pub lab: Lab,
}

impl Fleet {
    /// `count` nodes that run and see each other; none, said aloud in the name of `test`, where this host has no links.
    /// `prepare` is done to each before its start.
    ///
    /// # Panics
    /// If they do not start, or do not find each other within 60 s.
    pub async fn start(test: &str, count: u8, prepare: impl FnMut(&mut Node)) -> Option<Fleet> {
        let links = Links::up(test, count)?;
        let lab = Lab::new("fleet");
        let names: Vec<_> = (1..=count).map(|number| format!("n{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let nodes = lab.nodes_apart(&Authority::new("fleet"), &names, &links);
        let mut fleet = Fleet { nodes, links, lab };
        fleet.nodes.iter_mut().for_each(prepare);
        fleet.nodes.iter_mut().for_each(Node::launch);
        for node in &mut fleet.nodes {
            node.ready().await;
        }
        fleet.together().await;
        Some(fleet)
    }

    /// Waits until every node sees all of them.
    ///
    /// # Panics
    /// If one does not within 60 s.
    pub async fn together(&self) {
        for node in &self.nodes {
            eventually(&format!("{} sees all", node.name), TOGETHER, async || {
                let members = node.api().members_up().await?;
                if members.len() == self.nodes.len() { Ok(()) } else { Err(format!("{members:?}")) }
            })
            .await;
        }
    }
}
