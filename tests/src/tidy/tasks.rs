//! Tasks and time: every task has an owner that joins it, and no test waits for the clock.

use super::rust::{Rust, closing};
use super::{Breach, Tree};

/// Calls that start a task that only its handle knows. Tokio's are refused wherever they stand.
const TOKIO_SPAWNS: [&str; 4] = ["tokio::spawn(", "task::spawn(", "tokio::spawn_local(", "task::spawn_local("];
/// Starts of threads: their handle must go somewhere.
const THREAD_SPAWNS: [&str; 2] = ["thread::spawn(", "thread::Builder::"];
/// Calls that wait for the clock.
const SLEEPS: [&str; 3] = ["sleep(", "sleep_until(", "sleep_ms("];

/// Spawns outside a `JoinSet` or `TaskTracker`, and threads whose handle is thrown away. What a handle that is kept is
/// used for cannot be seen from here.
#[must_use]
pub fn tasks_nobody_joins(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in &tree.rust {
        for at in TOKIO_SPAWNS.iter().flat_map(|call| file.words(call)) {
            let message = "spawn into a JoinSet or TaskTracker that somebody joins";
            breaches.push(Breach::new(&file.path, file.line(at), message));
        }
        for at in THREAD_SPAWNS.iter().flat_map(|call| file.words(call)).filter(|at| is_handle_lost(file, *at)) {
            let message = "keep the thread's handle and join it where its owner stops";
            breaches.push(Breach::new(&file.path, file.line(at), message));
        }
    }
    breaches
}

/// Whether the statement around `at` ends without giving the thread's handle to anybody.
fn is_handle_lost(file: &Rust, at: usize) -> bool {
    let code = &file.code;
    let start = code[..at].rfind([';', '{', '}']).map_or(0, |before| before + 1);
    let end = statement_end(code, at);
    let before: String = code[start..at].split_whitespace().collect();
    let thrown = ["", "std::", "let_=", "let_=std::", "drop(", "drop(std::"].contains(&before.as_str());
    thrown && code[end..].starts_with(';') && !code[at..end].contains(".join(")
}

/// The first semicolon, comma or unopened closing bracket after `from`.
fn statement_end(code: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(step) = code[at..].find([';', '(', '[', '{', ')', ']', '}']) {
        at += step;
        match code.as_bytes()[at] {
            b'(' | b'[' | b'{' => at = closing(code, at),
            b')' => at += 1, // of `drop(…)`: the statement goes on
            _ => return at,
        }
    }
    code.len()
}

/// Sleeps in test code. In a file whose every `#[tokio::test]` starts with the clock paused they are jumps of virtual time
/// and allowed. A benchmark may pace itself, and so may a fault.
#[must_use]
pub fn sleeping_tests(tree: &Tree) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let waits = |file: &&Rust| {
        !is_in_virtual_time(file)
            && !["/benches/", "/tools/", "/nemesis.rs"].iter().any(|folder| file.path.contains(folder))
    };
    for file in tree.rust.iter().filter(waits) {
        for at in SLEEPS.iter().flat_map(|call| file.words(call)).filter(|at| file.is_test(*at)) {
            let message = "a test does not sleep: await a condition with a bound that says what was last seen, \
                           or start every test of this file with `start_paused = true`";
            breaches.push(Breach::new(&file.path, file.line(at), message));
        }
    }
    breaches
}

fn is_in_virtual_time(file: &Rust) -> bool {
    let mut tests =
        file.attributes().map(|range| &file.code[range]).filter(|text| text.starts_with("#[tokio::test")).peekable();
    tests.peek().is_some() && tests.all(|text| text.contains("start_paused = true"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unjoined(text: &str) -> usize {
        tasks_nobody_joins(&Tree::of(&[("a/src/a.rs", text)])).len()
    }

    fn sleeping(text: &str) -> usize {
        sleeping_tests(&Tree::of(&[("a/src/a.rs", text)])).len()
    }

    #[test]
    fn a_task_is_spawned_into_what_joins_it() {
        assert_eq!(unjoined("fn a() { let handle = tokio::spawn(b()); }"), 1);
        assert_eq!(unjoined("fn a() { tokio::task::spawn(b()); }"), 1);
        assert_eq!(unjoined("fn a(set: &mut JoinSet<()>) { set.spawn(b()); tracker.spawn(b()); }"), 0);
    }

    #[test]
    fn a_thread_whose_handle_is_thrown_away_is_found() {
        assert_eq!(unjoined("fn a() { thread::spawn(move || { b(); }); }"), 1);
        assert_eq!(unjoined("fn a() { c(); let _ = std::thread::spawn(b); }"), 1);
        assert_eq!(unjoined("fn a() { drop(thread::spawn(b)); }"), 1);
        assert_eq!(unjoined("fn a() { std::thread::Builder::new().name(n).spawn(|| b())?; }"), 1);
    }

    #[test]
    fn a_thread_whose_handle_goes_somewhere_is_fine() {
        assert_eq!(unjoined("fn a() { let writer = std::thread::Builder::new().spawn(|| b())?; }"), 0);
        assert_eq!(unjoined("fn a() -> JoinHandle<()> { thread::spawn(b) }"), 0);
        assert_eq!(unjoined("fn a() { threads.push(thread::spawn(b)); S { t: thread::spawn(b) } }"), 0);
        assert_eq!(unjoined("fn a() { thread::spawn(b).join().expect(\"b\"); }"), 0);
    }

    #[test]
    fn a_test_that_sleeps_is_found_and_code_may() {
        assert_eq!(sleeping("#[test]\nfn a() { std::thread::sleep(ONE); }"), 1);
        assert_eq!(sleeping("#[cfg(test)]\nmod tests { async fn a() { sleep(ONE).await; } }"), 1);
        assert_eq!(sleeping("async fn a() { tokio::time::sleep(ONE).await; }"), 0);
    }

    #[test]
    fn virtual_time_may_pass_only_where_all_of_it_is_virtual() {
        let paused = "#[tokio::test(start_paused = true)]\nasync fn a() { sleep(ONE).await; }\n";
        assert_eq!(sleeping(paused), 0);
        assert_eq!(sleeping(&format!("{paused}#[tokio::test]\nasync fn b() {{ sleep(ONE).await; }}\n")), 2);
    }
}
