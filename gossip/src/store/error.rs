//! What can go wrong with the store, one enum per family of operations, shaped by what a caller does next.

use std::path::PathBuf;

use kith_gossip_proto::Stamp;
use kith_gossip_proto::key::KeyError;
use rusqlite::ErrorCode;
use thiserror::Error;

/// Why a store did not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The file's format is a later release's.
    #[error(
        "{} has format {found}, and this release knows formats up to {known}: start the release that wrote it, or move the file away",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The latest format this release reads.
        known: i64,
    },
    /// The file is not a sound SQLite database.
    #[error("{} is damaged ({detail}): move it away with its -wal file, and the node fetches its rows from its peers", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What SQLite says of it.
        detail: String,
    },
    /// The file is a SQLite database of something else.
    #[error("{} is a database of another program: choose another path", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file is open in another process.
    #[error("{} is in use by another process: stop it, or choose another path", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A schema source is refused.
    #[error("the schema cannot be used")]
    Schema(#[source] SchemaError),
    /// The file or its folder cannot be read or written.
    #[error("{} cannot be opened", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The writer's thread did not start.
    #[error("the store's thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// Why a transaction was not kept. Nothing of it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ExecuteError {
    /// No statement was given.
    #[error("at least 1 statement is required")]
    Empty,
    /// A statement failed.
    #[error("{message}")]
    Statement {
        /// Which, from 0.
        index: usize,
        /// What SQLite says.
        message: String,
    },
    /// A written row's primary key is not one that all nodes would agree on.
    #[error("table {table}: {source}")]
    Key {
        /// The row's table.
        table: String,
        /// What is wrong with the key.
        source: KeyError,
    },
    /// SQLite chose the key of an inserted row, which another node may choose for another row.
    #[error("table {table}: an INSERT must give the INTEGER PRIMARY KEY, which two nodes would choose alike")]
    KeyChosen {
        /// The row's table.
        table: String,
    },
    /// More than a transaction may hold.
    #[error("the transaction changes {what}, over the limit of {limit}: split it")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The most there may be.
        limit: usize,
    },
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The file, or its file system, is read-only.
    #[error("the store is read-only")]
    ReadOnly,
    /// The disk does not read or write; the message is SQLite's.
    #[error("{0}: the disk fails, or its file system has become read-only")]
    Disk(String),
    /// The store is closing or closed.
    #[error("the store is shutting down")]
    ShuttingDown,
    /// The time given was over before the transaction was done.
    #[error("the transaction took longer than its timeout")]
    TimedOut,
    /// The transaction could not be kept for a reason that lies with the store: a failing disk, a lost change.
    #[error("the store failed: {0}")]
    Failed(String),
    /// SQLite cannot read its own file. The store ends, and is opened anew.
    #[error("the database is damaged ({0}): the store is opened anew")]
    Malformed(String),
}

/// Why a query gave no rows, or no more of them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QueryError {
    /// The statement writes, or returns no rows.
    #[error("the statement is not a read-only query")]
    NotReadOnly,
    /// The statement does not compile.
    #[error("{0}")]
    Prepare(String),
    /// The parameters do not fit the statement.
    #[error("{0}")]
    Bind(String),
    /// No connection was free for as long as one waits.
    #[error("no database connection was free for {} seconds", crate::store::read::POOL_WAIT.as_secs())]
    Pool,
    /// Reading failed.
    #[error("{0}")]
    Failed(String),
    /// SQLite cannot read its own file. The store ends, and is opened anew.
    #[error("the database is damaged ({0}): the store is opened anew")]
    Malformed(String),
    /// What was read is not what was written.
    #[error("the store is damaged: {0}")]
    Broken(String),
    /// The time given was over.
    #[error("the query took longer than its timeout")]
    TimedOut,
    /// The store is closing or closed.
    #[error("the store is shutting down")]
    ShuttingDown,
}

/// Why versions or rows of peers were not stored. Nothing of the call was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// They hold more of this store's own site than it has written: another store has written the rest.
    #[error("a peer holds more of this store's site than it has written")]
    Forked,
    /// This store has missed deletions that the peer has forgotten: it must take the peer's whole store for its own.
    #[error("this node was away for longer than deletions are remembered")]
    Behind,
    /// The peer has missed deletions that this store has forgotten: it must take our store for its own.
    #[error("the peer was away for longer than deletions are remembered, and is to begin anew")]
    PeerBehind,
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The file, or its file system, is read-only.
    #[error("the store is read-only")]
    ReadOnly,
    /// The store is closing or closed.
    #[error("the store is shutting down")]
    ShuttingDown,
    /// SQLite failed otherwise.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// Why a store was not copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The file cannot be made or written.
    #[error("the file cannot be written")]
    File(#[from] std::io::Error),
    /// The store cannot be read, or its copy not be written.
    #[error("the store cannot be copied")]
    Sqlite(#[from] rusqlite::Error),
    /// No connection was to be had.
    #[error("the store cannot be read")]
    Query(#[from] QueryError),
    /// As many copies as may be are there already.
    #[error("the store is being copied as often as it may be at once: try again later")]
    Busy,
    /// The store is closing, or nobody waits for the copy any more.
    #[error("the copy is not wanted any more")]
    Unwanted,
}

/// Why a snapshot of a peer was not taken over. The store is as it was.
#[derive(Debug, Error)]
pub enum InstallError {
    /// It holds more of this store's own site than it has written: another store has written the rest.
    #[error("the snapshot holds more of this store's site than it has written")]
    Forked,
    /// It cannot be opened: damaged, or of a later release.
    #[error("the snapshot cannot be opened")]
    Open(#[from] OpenError),
    /// What it says of itself is not what it holds.
    #[error("the snapshot is damaged: {0}")]
    Unsound(String),
    /// It holds a stamp that is far ahead of the clocks.
    #[error("the snapshot holds a stamp from the future")]
    FromFuture(Stamp),
    /// Its tables and ours exclude each other.
    #[error("the snapshot's tables cannot be made ours")]
    Schema(#[from] SchemaError),
    /// The store could not be kept aside.
    #[error("the store cannot be kept aside")]
    Aside(#[from] CopyError),
    /// What is lost could not be listed.
    #[error("the list of what is lost cannot be written")]
    List(#[from] std::io::Error),
    /// The peer has missed deletions that this store has forgotten.
    #[error("the peer was away for longer than deletions are remembered, and is to begin anew")]
    PeerBehind,
    /// Its rows could not be stored.
    #[error("the snapshot's rows cannot be stored")]
    Rows(#[from] ExecuteError),
    /// SQLite failed.
    #[error("the snapshot cannot be stored")]
    Sqlite(#[from] rusqlite::Error),
    /// The store is closing or closed.
    #[error("the store is shutting down")]
    ShuttingDown,
}

/// Why a file did not become a store. What was there is there still.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// There is a store already.
    #[error("{} is there already", path.display())]
    Exists {
        /// Its file.
        path: PathBuf,
    },
    /// The backup cannot be read.
    #[error("{} cannot be read", path.display())]
    Backup {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The store's folder cannot be written.
    #[error("the store's folder cannot be written")]
    File(#[source] std::io::Error),
    /// It cannot be opened: damaged, of a later release, or in use.
    #[error("it cannot be used")]
    Open(#[from] OpenError),
    /// What it says of itself is not what it holds.
    #[error("it is damaged: {0}")]
    Unsound(String),
    /// It cannot be read to its end.
    #[error("it is damaged: {0}")]
    Unreadable(String),
    /// SQLite failed.
    #[error("it cannot be made a store of this node")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<InstallError> for RestoreError {
    fn from(error: InstallError) -> Self {
        match error {
            InstallError::Open(error) => Self::Open(error),
            InstallError::Sqlite(error) => Self::Sqlite(error),
            other => Self::Unsound(other.to_string()),
        }
    }
}

/// Why a schema was not taken. Nothing of it was.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// A statement does not compile.
    #[error("{origin}: {message}")]
    Syntax {
        /// Name of the source.
        origin: String,
        /// What SQLite says.
        message: String,
    },
    /// A statement is not one of those a schema is made of, or a table breaks a rule.
    #[error("{origin}: {subject}: {reason}")]
    Refused {
        /// Name of the source.
        origin: String,
        /// The table, column or statement.
        subject: String,
        /// The rule, and what to do.
        reason: String,
    },
    /// The database failed.
    #[error("the schema could not be stored")]
    Sqlite(#[from] rusqlite::Error),
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The store is closing or closed.
    #[error("the store is shutting down")]
    ShuttingDown,
}

/// What a failure of SQLite means for whoever waits for the transaction.
#[derive(Debug)]
pub(crate) enum Trouble {
    DiskFull,
    ReadOnly,
    /// It does not read or write.
    Disk(String),
    Interrupted,
    /// The statement's own fault, or that of the data it met.
    Sql(String),
    /// The file or the memory failed: not the statement's fault.
    Store(String),
    /// The file is not what SQLite wrote.
    Malformed(String),
}

impl Trouble {
    pub(crate) fn of(error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            Some(ErrorCode::OperationInterrupted) => Self::Interrupted,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Malformed(text(error)),
            Some(ErrorCode::SystemIoFailure) => Self::Disk(text(error)),
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::InternalMalfunction
                | ErrorCode::OutOfMemory,
            ) => Self::Store(text(error)),
            _ => Self::Sql(text(error)),
        }
    }
}

/// SQLite's own words, without those of the wrapper.
pub(crate) fn text(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

impl From<rusqlite::Error> for ApplyError {
    fn from(error: rusqlite::Error) -> Self {
        match Trouble::of(&error) {
            Trouble::DiskFull => Self::DiskFull,
            Trouble::ReadOnly => Self::ReadOnly,
            Trouble::Interrupted => Self::Failed("interrupted".to_owned()),
            Trouble::Sql(message) | Trouble::Store(message) | Trouble::Disk(message) | Trouble::Malformed(message) => {
                Self::Failed(message)
            }
        }
    }
}

/// Of bookkeeping and COMMIT: no statement of the client is to blame.
impl From<rusqlite::Error> for ExecuteError {
    fn from(error: rusqlite::Error) -> Self {
        match Trouble::of(&error) {
            Trouble::DiskFull => Self::DiskFull,
            Trouble::ReadOnly => Self::ReadOnly,
            Trouble::Interrupted => Self::TimedOut,
            Trouble::Disk(message) => Self::Disk(message),
            Trouble::Sql(message) | Trouble::Store(message) => Self::Failed(message),
            Trouble::Malformed(message) => Self::Malformed(message),
        }
    }
}
