//! Invitations: who may join, under which name and number, until when.
//!
//! Each is a file beside the authority's key, `NAME.json`, so that whoever may use that key may invite, and nobody else: no
//! request over the network or the API makes one. The running node reads them when somebody comes with a token, so an
//! invitation holds at once and outlives a restart. Of the secret there is a hash only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kith_gossip_proto::NodeId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::files;
use super::subnets::NUMBER_MAX;
use super::token::Secret;

/// How long an invitation holds: for walking from one terminal to another.
pub const LASTS: Duration = Duration::from_secs(15 * 60);

/// How long one that is over is remembered, so that who comes late hears why.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// The invitations of one authority.
#[derive(Clone, Debug)]
pub struct Invites {
    dir: PathBuf,
}

/// One invitation, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    node: String,
    number: u8,
    secret_sha256: String,
    /// Seconds since 1970 by this host's clock, as below.
    expires: u64,
    used: Option<u64>,
}

/// An invitation that was made.
#[derive(Debug)]
pub struct Invite {
    /// The number that is kept for the new node.
    pub number: u8,
    /// What it must show.
    pub secret: Secret,
}

/// Why none was made, or why what is kept cannot be read.
#[derive(Debug, Error)]
pub enum InviteError {
    /// There is no number left.
    #[error("all {NUMBER_MAX} numbers are taken: remove a server's row, or let invitations run out")]
    Full,
    /// The files.
    #[error("cannot use {path}")]
    Files {
        /// Which one.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The secret.
    #[error("cannot draw a secret")]
    Secret(#[from] super::AuthorityError),
}

/// Why a token is refused, in words for the one who shows it.
#[derive(Debug, Error)]
pub(super) enum Invalid {
    #[error("this token is unknown here: it was replaced by a later one for the same name, or made elsewhere")]
    Unknown,
    #[error("this token has expired {0} s ago: ask for another one, `kith invite NAME`")]
    Expired(u64),
    #[error("this token was used already: ask for another one, `kith invite NAME`")]
    Used,
    #[error("this token is for {0}, and holds for no other name")]
    OtherName(String),
    #[error("the invitations cannot be read")]
    Files(#[from] InviteError),
}

impl Invites {
    /// Those kept in this folder, which is made when the first is.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Invites a node: under the number it has, else under the lowest that neither a server nor an invitation has. An
    /// earlier invitation for the name is void.
    pub fn issue(&self, node: &NodeId, servers: &BTreeMap<NodeId, u8>, now: SystemTime) -> Result<Invite, InviteError> {
        let _lock = self.lock()?;
        let now = seconds(now);
        let mut kept = self.kept()?;
        for (path, over) in kept.iter().filter(|(_, kept)| kept.expires + REMEMBERED.as_secs() < now) {
            tracing::debug!(node = over.node, "an old invitation is forgotten");
            fs::remove_file(path).map_err(|source| InviteError::Files { path: path.clone(), source })?;
        }
        // One that ran out unused keeps nothing; one that was used is a server's, whose row may still be on its way.
        kept.retain(|(_, kept)| kept.used.is_some() || kept.expires >= now);
        let invited = |number| kept.iter().any(|(_, kept)| kept.number == number && kept.node != node.as_str());
        let free = |number: &u8| !servers.values().any(|taken| taken == number) && !invited(*number);
        let known = kept.iter().find(|(_, kept)| kept.node == node.as_str()).map(|(_, kept)| kept.number);
        let number = servers.get(node).copied().or(known.filter(free)).or_else(|| (1..=NUMBER_MAX).find(free));
        let (number, secret) = (number.ok_or(InviteError::Full)?, Secret::draw()?);
        let invite = Kept {
            node: node.to_string(),
            number,
            secret_sha256: secret.hash(),
            expires: now + LASTS.as_secs(),
            used: None,
        };
        self.keep(&invite)?;
        Ok(Invite { number, secret })
    }

    /// The number that goes with a secret, if it holds for this name and time.
    pub(super) fn check(&self, node: &NodeId, secret: &Secret, now: SystemTime) -> Result<u8, Invalid> {
        self.find(node, secret, now).map(|kept| kept.number)
    }

    /// The same, and it holds no more. Of two who come at once, one has it.
    pub(super) fn use_up(&self, node: &NodeId, secret: &Secret, now: SystemTime) -> Result<u8, Invalid> {
        let _lock = self.lock()?;
        let kept = self.find(node, secret, now)?;
        let number = kept.number;
        self.keep(&Kept { used: Some(seconds(now)), ..kept })?;
        Ok(number)
    }

    fn find(&self, node: &NodeId, secret: &Secret, now: SystemTime) -> Result<Kept, Invalid> {
        let hash = secret.hash();
        let kept = self.kept()?.into_iter().map(|(_, kept)| kept).find(|kept| kept.secret_sha256 == hash);
        let kept = kept.ok_or(Invalid::Unknown)?;
        if kept.node != node.as_str() {
            return Err(Invalid::OtherName(kept.node));
        }
        if kept.used.is_some() {
            return Err(Invalid::Used);
        }
        match seconds(now).checked_sub(kept.expires) {
            Some(late) if late > 0 => Err(Invalid::Expired(late)),
            _ => Ok(kept),
        }
    }

    /// All, at most one per name. A file that is no invitation is none.
    fn kept(&self) -> Result<Vec<(PathBuf, Kept)>, InviteError> {
        let files = |source| InviteError::Files { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(files(error)),
        };
        let mut kept = Vec::new();
        for entry in entries {
            let path = entry.map_err(files)?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read(&path).map_err(|source| InviteError::Files { path: path.clone(), source })?;
                kept.extend(serde_json::from_slice(&text).ok().map(|invite| (path, invite)));
            }
        }
        kept.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(kept)
    }

    fn keep(&self, invite: &Kept) -> Result<(), InviteError> {
        let path = self.dir.join(format!("{}.json", invite.node));
        let text = serde_json::to_vec(invite).expect("texts and numbers are JSON");
        files::replace(&path, &text).map_err(|source| InviteError::Files { path, source })
    }

    /// Holds off other processes, as a second `kith invite` is one. Gone with the file.
    fn lock(&self) -> Result<File, InviteError> {
        let attempt = |path: &Path| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            let file = File::options().create(true).truncate(false).write(true).open(path)?;
            file.lock()?;
            Ok(file)
        };
        let path = self.dir.join("lock");
        attempt(&path).map_err(|source| InviteError::Files { path, source })
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    #[test]
    fn a_token_works_once_for_its_name_and_for_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let invites = Invites::new(dir.path().join("invites"));
        let now = SystemTime::now();
        let a = invites.issue(&node("a"), &BTreeMap::new(), now).unwrap();
        assert!(matches!(invites.check(&node("b"), &a.secret, now), Err(Invalid::OtherName(name)) if name == "a"));
        let late = now + LASTS + Duration::from_secs(2);
        assert!(matches!(invites.use_up(&node("a"), &a.secret, late), Err(Invalid::Expired(1..=2))));
        assert_eq!(invites.use_up(&node("a"), &a.secret, now).unwrap(), a.number);
        assert!(matches!(invites.use_up(&node("a"), &a.secret, now), Err(Invalid::Used)));
        assert!(matches!(invites.check(&node("a"), &Secret::draw().unwrap(), now), Err(Invalid::Unknown)));
    }

    #[test]
    fn a_later_invitation_for_a_name_voids_the_earlier_and_keeps_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let invites = Invites::new(dir.path());
        let now = SystemTime::now();
        let first = invites.issue(&node("a"), &BTreeMap::new(), now).unwrap();
        let second = invites.issue(&node("a"), &BTreeMap::new(), now).unwrap();
        assert_eq!(first.number, second.number);
        assert!(matches!(invites.check(&node("a"), &first.secret, now), Err(Invalid::Unknown)));
        assert_eq!(invites.check(&node("a"), &second.secret, now).unwrap(), second.number);
    }

    #[test]
    fn no_two_servers_have_one_number() {
        let dir = tempfile::tempdir().unwrap();
        let invites = Invites::new(dir.path());
        let now = SystemTime::now();
        let mut servers = BTreeMap::from([(node("one"), 1), (node("three"), 3)]);
        let invite = |name: &str, servers: &BTreeMap<NodeId, u8>| invites.issue(&node(name), servers, now);
        assert_eq!(invite("two", &servers).unwrap().number, 2);
        assert_eq!(invite("four", &servers).unwrap().number, 4);
        // A server that is there already keeps its own.
        assert_eq!(invite("three", &servers).unwrap().number, 3);
        // One that ran out unused is free again; one that was used is not, though its row is not here yet.
        let five = invite("five", &servers).unwrap();
        invites.use_up(&node("five"), &five.secret, now).unwrap();
        let later = now + LASTS * 2;
        assert_eq!(invites.issue(&node("six"), &servers, later).unwrap().number, 2);
        assert_eq!(invites.issue(&node("seven"), &servers, later).unwrap().number, 4);
        assert_eq!(invites.issue(&node("eight"), &servers, later).unwrap().number, 6);
        for number in 1..=NUMBER_MAX {
            servers.insert(node(&format!("s{number}")), number);
        }
        assert!(matches!(invite("nobody", &servers), Err(InviteError::Full)));
    }

    #[test]
    fn the_secret_is_in_no_file_and_the_files_are_the_owners() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let invites = Invites::new(dir.path().join("invites"));
        let invite = invites.issue(&node("a"), &BTreeMap::new(), SystemTime::now()).unwrap();
        let path = dir.path().join("invites/a.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&invite.secret.reveal()) && text.contains(&invite.secret.hash()), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("invites")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
