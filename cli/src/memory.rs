//! How the process shares its memory among its threads.
//!
//! glibc gives every thread that finds another one allocating an arena of its own, up to eight for each core. What is freed in
//! one is of no use to the others, and a page of it goes back to the kernel only where all above it is free. SQLite's pages of
//! 4 KiB and what lives for hours (members, prepared statements, connections) are allocated by turns and by whichever thread
//! comes along, so in each arena some of the latter keeps what was freed of the former.

/// One for all threads: the paths that are hot allocate little, and what is small and freed soon stays with its thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS: libc::c_int = 1;

/// Before any other thread is there, and may have got an arena.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "glibc is told of it by a call of C alone, or by the environment of who starts us")]
pub(crate) fn share() {
    // SAFETY: it sets a number of the allocator's, under the allocator's own lock.
    let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    debug_assert_eq!(set, 1, "glibc knows M_ARENA_MAX");
}

/// Other allocators have no arenas.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn share() {}
