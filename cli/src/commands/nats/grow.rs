//! `kith nats grow`: the streams of a lone server, into its cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kith_nats::grow::{Grow, GrowError, Progress};
use kith_nats::turn::User;

use super::super::value::printable;
use crate::args::NatsGrow;
use crate::config::Purpose;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Does it, and says how far it is.
pub(super) async fn run(args: &NatsGrow) -> Result<(), Failure> {
    let config = super::super::load(&args.configured, Purpose::Nats)?;
    let logins = args.login.iter().map(|login| parse(login)).collect::<Result<BTreeMap<_, _>, _>>()?;
    let replicas = args.replicas.map(usize::from);
    let grow = Grow::new(&config.nats.runner, logins, replicas).map_err(failure)?;
    let (mut out, mut silent) = (Out::new(), None);
    let tell = |progress: Progress| {
        let said = if args.output.json { out.json(&progress) } else { out.line(printable(&text(&progress))) };
        // Nobody reads any more: that is no reason to leave streams where they are.
        silent = silent.take().or(said.err());
    };
    grow.run(tell).await.map_err(failure)?;
    silent.map_or(Ok(()), Err)
}

/// `ACCOUNT=FILE`.
fn parse(login: &str) -> Result<(String, User), Failure> {
    let wrong = || Failure::message(Exit::Usage, format!("--login {login}: not ACCOUNT=FILE"));
    let (account, file) = login.split_once('=').ok_or_else(wrong)?;
    Ok((account.to_owned(), User::File(PathBuf::from(file))))
}

fn text(progress: &Progress) -> String {
    const MIB: u64 = 1 << 20;
    match progress {
        Progress::Aside { streams, backup } => {
            format!("{streams} streams are put aside: {}; start the runner", backup.display())
        }
        Progress::Waits { reason } => format!("waiting for the clustered server: {reason}"),
        Progress::Copying { account, stream, copied, bytes } => {
            format!("{account} {stream}: {} MiB of at most {} are copied", copied / MIB, bytes.div_ceil(MIB))
        }
        Progress::Copied { account, stream, messages } => format!("{account} {stream}: copied, {messages} messages"),
        Progress::There { account, stream } => format!("{account} {stream}: it was copied before"),
        Progress::Done { streams, backup } => {
            format!("{streams} streams are in the cluster; the backup stays: {}", backup.display())
        }
    }
}

fn failure(error: GrowError) -> Failure {
    let (exit, hint) = match &error {
        GrowError::NotClustered => (Exit::Config, "say nats.role = \"center\", nats.servers = \"3\" and nats.ip first"),
        GrowError::Nothing(_) => (Exit::Failed, "start the runner"),
        GrowError::InUse(_) => (Exit::Failed, "stop the runner, or the other `kith nats grow`, first"),
        GrowError::Two(_) => (Exit::Failed, "one of the two has to be moved elsewhere by hand"),
        GrowError::Disk { .. } => (Exit::Io, "run it again when it can be used: what was put aside stays"),
        GrowError::Binary(none) => (Exit::Unavailable, none.hint()),
        GrowError::Login { .. } => (Exit::Failed, "--login ACCOUNT=FILE says how to sign on; then run it again"),
        GrowError::Unread { .. } => (
            Exit::Failed,
            "the others are copied; mend these folders, or move them elsewhere to go without these streams, and run it again",
        ),
        GrowError::Source(_) | GrowError::Stream { .. } => {
            (Exit::Failed, "run it again when that is mended: what was put aside stays, and what was copied is there")
        }
    };
    Failure::new(exit, error).hint(hint)
}
