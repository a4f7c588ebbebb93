//! Those that a container brings along: its C library's, and those of languages that have their own.

use kith_tests::fetched::python_with_dns;

use crate::host::Host;
use crate::programs::{built_by_go, compiled, runs, tool};
use crate::questions::{MANY_OF_THEM, QUESTIONS, all_many, answers};

/// What a C library makes of all questions, and of the one whose answer fits into no datagram.
async fn a_c_library(test: &str, compiler: &str, options: &[&str]) -> Option<(Vec<String>, Vec<String>)> {
    let program = compiled(test, compiler, options)?;
    let host = Host::start(test).await?;
    let answered = (host.ask(&[&program], &QUESTIONS), host.ask(&[&program], &[MANY_OF_THEM]));
    std::fs::remove_file(program).expect("what was compiled is there");
    Some(answered)
}

#[tokio::test]
async fn glibc_gets_every_answer() {
    let asked = a_c_library("glibc_gets_every_answer", "cc", &["-lresolv"]).await;
    let Some((answered, many)) = asked else { return };
    assert_eq!(answered, answers("NODATA", "NODATA"));
    assert_eq!(many, all_many(MANY_OF_THEM));
}

#[tokio::test]
async fn musl_gets_every_answer() {
    let Some((answered, many)) = a_c_library("musl_gets_every_answer", "musl-gcc", &["-static"]).await else { return };
    // It has one word for a name without addresses and one that is not there.
    assert_eq!(answered, answers("NXDOMAIN", "NXDOMAIN"));
    // Before 1.2.4 it has no TCP, and takes of a cut answer what is there: whole records, as many as 512 bytes hold.
    let all = all_many(MANY_OF_THEM).remove(0);
    let all: Vec<_> = all.split(' ').collect();
    let some: Vec<_> = many[0].split(' ').collect();
    assert!(some.len() > 28 && some.iter().all(|one| all.contains(one)), "{some:?}");
}

#[tokio::test]
async fn go_gets_every_answer() {
    let test = "go_gets_every_answer";
    let Some(program) = built_by_go(test) else { return };
    let Some(host) = Host::start(test).await else { return };
    // Go does not tell a name without such records from one that is not there.
    assert_eq!(host.ask(&[&program], &QUESTIONS), answers("NXDOMAIN", "NXDOMAIN"));
    assert_eq!(host.ask(&[&program], &[MANY_OF_THEM]), all_many(MANY_OF_THEM));
}

#[tokio::test]
async fn c_ares_in_node_gets_every_answer() {
    let test = "c_ares_in_node_gets_every_answer";
    if !runs(test, "node", "--version") {
        return;
    }
    let Some(host) = Host::start(test).await else { return };
    let program = tool("cares.js").display().to_string();
    // Its `resolve` takes a name as it is: no search domains.
    let (asked, expected): (Vec<_>, Vec<_>) = QUESTIONS
        .iter()
        .zip(answers("NODATA", "NXDOMAIN"))
        .filter(|(question, _)| question.contains(".internal"))
        .map(|(question, answer)| (*question, answer))
        .unzip();
    assert_eq!(host.ask(&["node", &program], &asked), expected);
    assert_eq!(host.ask(&["node", &program], &[MANY_OF_THEM]), all_many(MANY_OF_THEM));
}

#[tokio::test]
async fn dnspython_gets_every_answer() {
    let test = "dnspython_gets_every_answer";
    let Some(python) = python_with_dns(test) else { return };
    let python = python.display().to_string();
    let Some(host) = Host::start(test).await else { return };
    let program = tool("stub.py").display().to_string();
    assert_eq!(host.ask(&[&python, &program], &QUESTIONS), answers("NODATA", "NODATA"));
    assert_eq!(host.ask(&[&python, &program], &[MANY_OF_THEM]), all_many(MANY_OF_THEM));
}
