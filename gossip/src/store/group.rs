//! Group commit: what waits is done in one SQLite transaction, and shares its sync.
//!
//! ```text
//! BEGIN IMMEDIATE
//!   per member: SAVEPOINT, its work, its version, RELEASE   (or ROLLBACK TO: the others are not concerned;
//!                                                            a member without others needs no savepoint)
//! heads, digest; COMMIT; acknowledgements; the commit is told of (with less durability once it is synced, and what
//!                                          acknowledges versions of peers with it)
//! ```
//! A member can end the whole transaction: an interrupt, `OR ROLLBACK`, a full disk. It gets its error, and the others
//! are run again from their statements, without it; so each round has one member less.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kith_gossip_proto::frame::{Answered, PulledRow};
use kith_gossip_proto::{Vector, Version};
use rusqlite::Connection;
use tokio::sync::oneshot;

use super::capture::Capture;
use super::commit::SchemaChange;
use super::error::{ApplyError, ExecuteError, Trouble};
use super::flush::{TouchedTables, flush};
use super::open::Durability;
use super::publish::{Published, Told};
use super::purge::Due;
use super::statement::{Executed, Statement, StatementResult};
use super::table::OWN;
use super::wall::wall_ms;
use super::watched::Watched;
use super::writer::Core;

/// Work that can share a transaction, and who waits for it.
#[derive(Debug)]
pub(crate) enum Job {
    /// A client's transaction.
    Execute {
        statements: Vec<Statement>,
        deadline: Option<Instant>,
        reply: oneshot::Sender<Result<Executed, ExecuteError>>,
    },
    /// Versions of peers.
    Apply { versions: Vec<Version>, reply: oneshot::Sender<Result<Vector, ApplyError>> },
    /// The answer to a pull, whole.
    Join { rows: Vec<PulledRow>, answered: Answered, reply: oneshot::Sender<Result<Vector, ApplyError>> },
    /// Tombstones that nobody needs any more.
    Purge { due: Due, reply: oneshot::Sender<Result<u64, ApplyError>> },
}

/// What a member did, until the group is committed.
#[derive(Debug)]
enum Outcome {
    Waiting,
    Executed(Executed),
    Applied,
    /// Rows that may not be joined, and why.
    Apart(ApplyError),
    Purged(u64),
    /// The error of a client's transaction, or of versions.
    Refused(ExecuteError),
}

/// What a group adds up to.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) versions: Vec<Arc<Version>>,
    pub(crate) touched: TouchedTables,
    /// Whose cells are listed in it.
    pub(crate) watched: Arc<Watched>,
}

impl Sum {
    pub(crate) fn touch(&mut self, tables: TouchedTables) {
        for (name, touched) in tables {
            self.touched.entry(name).or_default().merge(touched);
        }
    }
}

impl Core {
    /// Runs the jobs as one transaction and answers all of them.
    pub(crate) fn run_group(&mut self, jobs: Vec<Job>) {
        let mut outcomes: Vec<_> = jobs.iter().map(|_| Outcome::Waiting).collect();
        loop {
            let before = self.ledger.clone();
            let mut sum = Sum { watched: self.shared.watched(), ..Sum::default() };
            let attempt = self.attempt(&jobs, &mut outcomes, &mut sum);
            self.look_for_damage(&outcomes, attempt.as_ref().err());
            match attempt {
                Ok(kept) => {
                    let commit = match kept {
                        Kept::Nothing => None,
                        Kept::Changes => Some(self.published(sum, SchemaChange::Same)),
                    };
                    return self.done(jobs.into_iter().zip(outcomes), commit);
                }
                Err(Broken::Again) => {
                    self.ledger = before;
                }
                Err(Broken::Failed(error)) => {
                    self.roll_back();
                    self.ledger = before;
                    let failed = outcomes.into_iter().map(|outcome| match outcome {
                        Outcome::Refused(own) => Outcome::Refused(own),
                        Outcome::Waiting
                        | Outcome::Executed(_)
                        | Outcome::Applied
                        | Outcome::Apart(_)
                        | Outcome::Purged(_) => Outcome::Refused(error.clone()),
                    });
                    return self.answers(jobs.into_iter().zip(failed).collect()).give();
                }
            }
        }
    }

    /// Whether SQLite has stumbled over its file.
    fn look_for_damage(&self, outcomes: &[Outcome], broken: Option<&Broken>) {
        let refused = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Refused(error) => Some(error),
            Outcome::Waiting | Outcome::Executed(_) | Outcome::Applied | Outcome::Apart(_) | Outcome::Purged(_) => None,
        });
        let group = broken.and_then(|broken| match broken {
            Broken::Failed(error) => Some(error),
            Broken::Again => None,
        });
        for error in refused.chain(group) {
            if let ExecuteError::Malformed(detail) = error {
                self.shared.health.malformed(detail);
            }
        }
    }

    /// Answers, and tells of the commit. With less durability clients need not wait for the sync. Whoever brought what
    /// peers sent does, also if it was nothing new: it may have come before, and not be synced yet.
    fn done(&mut self, done: impl Iterator<Item = (Job, Outcome)>, commit: Option<Published>) {
        let soon = self.durability == Durability::Normal;
        let (now, synced) = done.partition(|(job, _)| soon && matches!(job, Job::Execute { .. }));
        self.answers(now).give();
        self.tell(Told { commit, answers: self.answers(synced) });
    }

    fn answers(&self, done: Vec<(Job, Outcome)>) -> Answers {
        Answers { done, heads: Arc::clone(self.ledger.sites.heads()) }
    }

    fn attempt(&mut self, jobs: &[Job], outcomes: &mut [Outcome], sum: &mut Sum) -> Result<Kept, Broken> {
        let wall = wall_ms(self.shared.highest());
        self.reserve(jobs.len() as u64, wall)?;
        let heads = Arc::clone(self.ledger.sites.heads());
        let rows = self.conn.total_changes();
        run(&self.conn, "/*kith*/ BEGIN IMMEDIATE")?;
        let undo = if jobs.len() == 1 { Undo::Transaction } else { Undo::Savepoint };
        for (job, outcome) in jobs.iter().zip(outcomes.iter_mut()) {
            if let Outcome::Refused(_) = outcome {
                continue;
            }
            *outcome = self.member(job, undo, sum, wall)?;
            if self.conn.is_autocommit() {
                return Err(Broken::Again);
            }
        }
        if self.conn.total_changes() == rows && heads == *self.ledger.sites.heads() {
            // Nothing is other than it was: no sync, no commit to tell of.
            run(&self.conn, "/*kith*/ ROLLBACK")?;
            return Ok(Kept::Nothing);
        }
        let committed = self.ledger.save(&self.conn).and_then(|()| run(&self.conn, "/*kith*/ COMMIT"));
        committed?;
        Ok(Kept::Changes)
    }

    /// Runs one member so that it can be undone. An error here is the transaction's; the member's own is an outcome.
    fn member(&mut self, job: &Job, undo: Undo, sum: &mut Sum, wall: u64) -> Result<Outcome, Broken> {
        let before = self.ledger.clone();
        if undo == Undo::Savepoint {
            run(&self.conn, "/*kith*/ SAVEPOINT member")?;
        }
        let done = match job {
            Job::Execute { statements, deadline, reply } => {
                if reply.is_closed() {
                    // Nobody waits any more, and nothing was promised.
                    Err(ExecuteError::TimedOut)
                } else {
                    self.execute(statements, *deadline, sum, wall).map(Outcome::Executed)
                }
            }
            Job::Apply { versions, .. } => self.apply(versions, sum).map(|()| Outcome::Applied),
            Job::Join { rows, answered, .. } => match self.apart(answered) {
                None => self.join(rows, answered, sum).map(|()| Outcome::Applied),
                Some(why) => Ok(Outcome::Apart(why)),
            },
            Job::Purge { due, .. } => self.purge(due).map(Outcome::Purged).map_err(ExecuteError::from),
        };
        match done {
            Ok(outcome) => {
                if undo == Undo::Savepoint {
                    run(&self.conn, "/*kith*/ RELEASE member")?;
                }
                Ok(outcome)
            }
            Err(error) => {
                self.ledger = before;
                // Where it has ended the transaction itself there is nothing left to undo.
                match undo {
                    _ if self.conn.is_autocommit() => {}
                    Undo::Transaction => run(&self.conn, "/*kith*/ ROLLBACK")?,
                    Undo::Savepoint => {
                        run(&self.conn, "/*kith*/ ROLLBACK TO member")?;
                        run(&self.conn, "/*kith*/ RELEASE member")?;
                    }
                }
                Ok(Outcome::Refused(error))
            }
        }
    }

    fn execute(
        &mut self,
        statements: &[Statement],
        deadline: Option<Instant>,
        sum: &mut Sum,
        wall: u64,
    ) -> Result<Executed, ExecuteError> {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(ExecuteError::TimedOut);
        }
        Capture::reset(&self.capture);
        let started = Instant::now();
        self.switch.enter(deadline);
        let ran = run_statements(&self.conn, statements);
        self.switch.leave();
        let results = match ran {
            // A statement that was stopped because of what was captured is not the one to blame.
            Err(error) => return Err(Capture::refused(&self.capture).unwrap_or(error)),
            Ok(results) => results,
        };
        let time = started.elapsed();
        let suspects = Capture::take(&self.capture)?;
        let flushed = flush(&self.conn, &mut self.ledger, &self.tables, &sum.watched, suspects, wall)?;
        let version = flushed.map(|(version, touched)| {
            let number = version.version;
            sum.versions.push(Arc::new(version));
            sum.touch(touched);
            number
        });
        Ok(Executed { results, time, version })
    }

    pub(crate) fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = run(&self.conn, "/*kith*/ ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }
}

fn run_statements(conn: &Connection, statements: &[Statement]) -> Result<Vec<StatementResult>, ExecuteError> {
    let mut results = Vec::with_capacity(statements.len());
    for (index, statement) in statements.iter().enumerate() {
        let started = Instant::now();
        let rows_affected = run_statement(conn, statement).map_err(|trouble| match trouble {
            Trouble::Sql(message) => ExecuteError::Statement { index, message },
            Trouble::DiskFull => ExecuteError::DiskFull,
            Trouble::ReadOnly => ExecuteError::ReadOnly,
            Trouble::Disk(message) => ExecuteError::Disk(message),
            Trouble::Interrupted => ExecuteError::TimedOut,
            Trouble::Store(message) => ExecuteError::Failed(message),
            Trouble::Malformed(message) => ExecuteError::Malformed(message),
        })?;
        results.push(StatementResult { rows_affected, time: started.elapsed() });
    }
    Ok(results)
}

fn run_statement(conn: &Connection, statement: &Statement) -> Result<u64, Trouble> {
    let sql = |error| Trouble::of(&error);
    // What the store prepared for itself is found in the cache by its text, which a client must not be able to say.
    if statement.sql.trim_start().starts_with(OWN) {
        return Err(Trouble::Sql(format!("a statement may not begin with {OWN}")));
    }
    let mut prepared = conn.prepare_cached(&statement.sql).map_err(sql)?;
    if prepared.column_count() > 0 {
        return Err(Trouble::Sql("a statement that returns rows is not for a transaction".to_owned()));
    }
    statement.params.bind(&mut prepared).map_err(Trouble::Sql)?;
    prepared.raw_execute().map(|rows| rows as u64).map_err(sql)
}

/// What takes back a member's changes and leaves those of the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Undo {
    /// There are no others. A savepoint would copy each page before its first change: a fifth of a small transaction.
    Transaction,
    Savepoint,
}

/// What a group left behind.
enum Kept {
    Nothing,
    Changes,
}

/// Why a group was not committed.
pub(crate) enum Broken {
    /// A member ended the transaction and has its error: the others once more.
    Again,
    /// Nobody's fault in particular.
    Failed(ExecuteError),
}

impl From<rusqlite::Error> for Broken {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// Runs one of the store's own statements, which begins with [`OWN`].
pub(crate) fn run(conn: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.raw_execute().map(drop)
}

/// What is to be said to whom.
pub(crate) struct Answers {
    done: Vec<(Job, Outcome)>,
    /// The heads after it.
    heads: Arc<Vector>,
}

impl Answers {
    /// Nobody waits.
    pub(crate) fn none(heads: &Arc<Vector>) -> Self {
        Self { done: Vec::new(), heads: Arc::clone(heads) }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    pub(crate) fn give(self) {
        for (job, outcome) in self.done {
            answer(job, outcome, &self.heads);
        }
    }
}

fn answer(job: Job, outcome: Outcome, heads: &Vector) {
    // Whoever no longer waits does not hear of it; the transaction stands or falls all the same.
    match job {
        Job::Execute { reply, .. } => drop(reply.send(match outcome {
            Outcome::Executed(done) => Ok(done),
            Outcome::Refused(error) => Err(error),
            Outcome::Waiting | Outcome::Applied | Outcome::Apart(_) | Outcome::Purged(_) => {
                Err(ExecuteError::Failed("the transaction was not run".to_owned()))
            }
        })),
        Job::Apply { reply, .. } | Job::Join { reply, .. } => drop(reply.send(match outcome {
            Outcome::Executed(_) | Outcome::Applied | Outcome::Purged(_) => Ok(heads.clone()),
            Outcome::Refused(error) => Err(error.into()),
            Outcome::Apart(why) => Err(why),
            Outcome::Waiting => Err(ApplyError::Failed("the versions were not applied".to_owned())),
        })),
        Job::Purge { reply, .. } => drop(reply.send(match outcome {
            Outcome::Purged(gone) => Ok(gone),
            Outcome::Refused(error) => Err(error.into()),
            Outcome::Waiting | Outcome::Executed(_) | Outcome::Applied | Outcome::Apart(_) => {
                Err(ApplyError::Failed("the tombstones were not purged".to_owned()))
            }
        })),
    }
}

/// Bound of one client's wait, used where none is given: none.
pub(crate) fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}
