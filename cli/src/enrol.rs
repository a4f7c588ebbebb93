//! Making a server of a host: the files of a node, and the three commands that make them.
//!
//! ```text
//! DATA_DIR/identity/   ca.pem  node.pem  node.key     who this server is; node.pem is renewed by the running node
//! DATA_DIR/authority/  ca.key  invites/               who says who belongs: on the server of `kith init` only
//! CONFIG               kith.toml                      names all of these
//! ```
//! They are in the data folder because the running node writes there, and in /etc it need not. Each folder and file is its
//! owner's alone.

use std::path::PathBuf;

use crate::args::Place;
use crate::exit::{Exit, Failure};

mod configuration;
mod init;
mod invite;
mod join;
mod making;

pub(crate) use init::run as init;
pub(crate) use invite::run as invite;
pub(crate) use join::run as join;

use making::Making;

/// Where a node's files are.
#[derive(Debug)]
struct Paths {
    config: PathBuf,
    data: PathBuf,
    identity: PathBuf,
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
    authority: PathBuf,
}

/// The authority's private key, in its folder.
pub(crate) const AUTHORITY_KEY: &str = "ca.key";
/// The invitations, in the same.
pub(crate) const INVITES: &str = "invites";

impl Paths {
    /// From the start of the tree, so that the node finds them from wherever it is started.
    fn of(place: &Place) -> Result<Paths, Failure> {
        let whole = |path: &PathBuf| {
            std::path::absolute(path)
                .map_err(|e| Failure::new(Exit::Io, e).context(format!("{} is no path", path.display())))
        };
        let (config, data) = (whole(&place.config)?, whole(&place.data_dir)?);
        let identity = data.join("identity");
        let [ca, certificate, key] = ["ca.pem", "node.pem", "node.key"].map(|name| identity.join(name));
        Ok(Paths { config, authority: data.join("authority"), data, identity, ca, certificate, key })
    }
}
