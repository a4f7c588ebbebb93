//! Who may read and write the files that a node lives by. Checked at start, with what to do about it: a secret that
//! everybody on the host can read is none, and a folder that everybody can write is anybody's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::exit::{Exit, Failure};

/// What is asked of a file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Nobody but the owner: keys.
    Owner,
    /// The owner, and a group that may read: tokens, which tools of the host share.
    GroupReads,
    /// Not writable by everybody.
    NotEverybodys,
}

impl Wanted {
    /// The bits that must not be set.
    fn forbidden(self) -> u32 {
        match self {
            Wanted::Owner => 0o077,
            Wanted::GroupReads => 0o027,
            Wanted::NotEverybodys => 0o002,
        }
    }

    fn why(self) -> &'static str {
        match self {
            Wanted::Owner => "only its owner may read or write it",
            Wanted::GroupReads => "only its owner may write it, and nobody outside its group read it",
            Wanted::NotEverybodys => "not everybody may write there",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Wanted::Owner => "go=",
            Wanted::GroupReads => "g-wx,o=",
            Wanted::NotEverybodys => "o-w",
        }
    }
}

/// Checks the mode of what is there. What is not there is somebody else's error, or is made with a mode that fits.
pub(crate) fn check(path: &Path, wanted: Wanted) -> Result<(), Failure> {
    let Ok(metadata) = path.metadata() else { return Ok(()) };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & wanted.forbidden() == 0 {
        return Ok(());
    }
    let path = path.display();
    Err(Failure::message(Exit::Config, format!("{path} has mode {mode:04o}: {}", wanted.why()))
        .hint(format!("chmod {} {path}", wanted.remedy())))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_mode_that_is_too_open_is_refused_and_its_remedy_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "").unwrap();
        let of = |mode: u32, wanted: Wanted| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            check(&path, wanted)
        };
        for (wanted, good, bad) in [
            (Wanted::Owner, &[0o600, 0o400, 0o700][..], &[0o640, 0o604, 0o610, 0o660][..]),
            (Wanted::GroupReads, &[0o600, 0o640], &[0o644, 0o660, 0o602, 0o604]),
            (Wanted::NotEverybodys, &[0o600, 0o755, 0o775], &[0o777, 0o1777, 0o602]),
        ] {
            for mode in good {
                assert!(of(*mode, wanted).is_ok(), "{wanted:?} {mode:o}");
            }
            for mode in bad {
                let report = of(*mode, wanted).unwrap_err().report().unwrap();
                assert!(report.contains(&format!("has mode {mode:04o}")), "{report}");
                let chmod = report.lines().find_map(|line| line.strip_prefix("hint: chmod ")).unwrap();
                let done = std::process::Command::new("chmod").args(chmod.split(' ')).status().unwrap();
                assert!(done.success() && check(&path, wanted).is_ok(), "{report}");
            }
        }
        assert!(check(&dir.path().join("absent"), Wanted::Owner).is_ok());
    }
}
