//! How much memory this process may use: the machine's, or what its control group leaves of it.

use std::fs;
use std::path::Path;

use crate::config::Size;

/// Above this a limit is none: groups of the first version say so with a number near the greatest.
const UNLIMITED: u64 = 1 << 60;

/// Three quarters of what this process may use: what streams may hold in memory where nobody says otherwise. Inherited; the rest is for
/// connections, and for streams in files, whose blocks are cached.
#[must_use]
pub fn for_streams() -> Option<Size> {
    available(Path::new("/")).map(|bytes| Size(bytes / 4 * 3))
}

/// Bytes that may be used, by the files below `root`.
fn available(root: &Path) -> Option<u64> {
    let machine = machine(&fs::read_to_string(root.join("proc/meminfo")).ok()?)?;
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let group = own.lines().filter_map(|line| limit(root, line)).min();
    Some(group.map_or(machine, |group| group.min(machine)))
}

/// `MemTotal:       16384000 kB`
fn machine(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest limit of the group in one line of `/proc/self/cgroup` and of those above it. In a container its own group is the root of
/// what is mounted, so that a path which is not there is left away from its front.
fn limit(root: &Path, line: &str) -> Option<u64> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let (base, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        _ if controllers.split(',').any(|controller| controller == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let base = root.join(base);
    let own = base.join(path.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(&base));
    groups.filter_map(|group| read(&group.join(file))).min()
}

/// A limit; `max` is none.
fn read(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n");

    #[test]
    fn the_lowest_limit_of_the_group_and_of_those_above_it_counts() {
        let group = ("proc/self/cgroup", "0::/system.slice/kith.service\n");
        for (files, expected) in [
            (vec![MACHINE], 16 << 30),
            (vec![MACHINE, group, ("sys/fs/cgroup/system.slice/kith.service/memory.max", "max\n")], 16 << 30),
            (vec![MACHINE, group, ("sys/fs/cgroup/system.slice/kith.service/memory.max", "1073741824\n")], 1 << 30),
            (vec![MACHINE, group, ("sys/fs/cgroup/system.slice/memory.max", "2147483648\n")], 2 << 30),
            (vec![MACHINE, group, ("sys/fs/cgroup/memory.max", "4294967296\n")], 4 << 30),
            (vec![MACHINE, group, ("sys/fs/cgroup/memory.max", "99999999999999\n")], 16 << 30),
            (
                vec![
                    MACHINE,
                    ("proc/self/cgroup", "9:cpu:/a\n8:memory:/docker/a\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
                ],
                1 << 30,
            ),
            (
                vec![
                    MACHINE,
                    ("proc/self/cgroup", "8:memory:/\n"),
                    ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ],
                16 << 30,
            ),
        ] {
            assert_eq!(available(root(&files).path()), Some(expected), "{files:?}");
        }
        assert_eq!(available(root(&[("proc/meminfo", "MemTotal: much\n")]).path()), None);
    }
}
